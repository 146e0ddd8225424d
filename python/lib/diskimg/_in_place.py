"""The functions that modify an image, or images of a backing chain, in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from diskimg import _log, _native
from diskimg._progress import progress_callback
from diskimg._results import Amended, Committed, Rebased
from diskimg._types import name_only, open_args, option_pairs

if TYPE_CHECKING:
    from diskimg.types import ExternalFiles, Format, OptionValue, Path, Progress


def rebase(
    path: Path,
    backing: Path | None,
    backing_format: str | None = None,
    *,
    format: Format | None = None,
    header_only: bool = False,
    compress: bool = False,
    threads: int | None = None,
    progress: Progress = None,
    external_files: ExternalFiles = "same-dir",
    limits: Mapping[str, int] | None = None,
    force_share: bool = False,
    direct: bool = False,
) -> Rebased:
    """Change the backing file of an image in place. The disk keeps its content.

    >>> diskimg.create("base.qcow2", "1M").size
    1048576
    >>> diskimg.create("top.qcow2", backing="base.qcow2", backing_format="qcow2").size
    1048576
    >>> diskimg.rebase("top.qcow2", None)
    Rebased(stored_bytes=0)
    >>> diskimg.info("top.qcow2").backing_filename

    What the old and the new backing file show differently is written into the image first. If the
    process is killed or power is lost, the image has its old or its new backing file and the same
    content as before; run it again.

    Args:
        path: The image's file name, or a block device.
        backing: The new backing file. A relative name is relative to the image's directory. With
            `None`, the image contains the whole disk afterwards.
        backing_format: The format of ``backing``, which is required.
        format: One of `FORMATS`; by default it is detected. Pass it whenever you know it.
        header_only: Only change the name, without opening the backing files. The disk has another
            content afterwards unless both backing files have the same.
        compress: Compress the clusters that are written.
        threads: Number of worker threads; by default the number of processors.
        progress: As for `convert`.
        external_files: Which other files the image and ``backing`` may refer to.
        limits: Resource limits that differ from the defaults in `LIMITS`, by name.
        force_share: Do not lock the backing files, even if another process is writing to them.
        direct: Bypass the page cache for writing (O_DIRECT).

    Raises:
        LockedError: Another process uses the image, or writes to a backing file.
        RefusedError: The image would be its own backing file.
        UnsupportedError: The backing file of images of this format, or with one of this image's
            features, cannot be changed.
        InvalidError: The backing file's format is missing; also a `ValueError`.
        LimitError: The header has no room for the name.
        Error: As `open`.
    """
    name = name_only(path)
    how = open_args(format, external_files=external_files, limits=limits, force_share=force_share)
    new = None if backing is None else (name_only(backing), backing_format)
    with (
        _log.operation("rebase", name) as details,
        progress_callback(progress, "rebase") as callback,
    ):
        stored = _native.rebase(name, new, how, header_only, compress, threads, direct, callback)
        details.append(f"{stored} bytes stored")
    return Rebased(stored)


def amend(
    path: Path,
    options: Mapping[str, OptionValue],
    *,
    format: Format | None = None,
    progress: Progress = None,
    external_files: ExternalFiles = "same-dir",
    limits: Mapping[str, int] | None = None,
    force_share: bool = False,
) -> Amended:
    """Change options of an existing image in place (``qemu-img amend``).

    >>> diskimg.create("disk.qcow2", "1M").size
    1048576
    >>> diskimg.amend("disk.qcow2", {"compat": "0.10"})
    Amended(removed_bitmaps=0)

    What the guest and internal snapshots read does not change, except that a smaller ``size``
    deletes the data beyond. If the process is killed or power is lost, the image has the old or the
    new options; the size is changed separately.

    Args:
        path: The image's file name, or a block device.
        options: The options of a qcow2 image to change: ``compat`` (``0.10`` or ``1.1``),
            ``refcount_bits``, ``lazy_refcounts``, ``data_file``, ``data_file_raw``, ``size``.
            Others stay as they are.
        format: One of `FORMATS`; by default it is detected. Pass it whenever you know it.
        progress: As for `convert`, but in entries of tables instead of bytes.
        external_files: Which other files the image may refer to.
        limits: Resource limits that differ from the defaults in `LIMITS`, by name.
        force_share: Do not lock the backing files, even if another process is writing to them.

    Raises:
        LockedError: Another process uses the image.
        InvalidError: The option is unknown or cannot be changed, or the image cannot have this
            value; also a `ValueError`.
        UnsupportedError: Images of this format have no such options, or something in the image
            prevents the change.
        LimitError: A refcount is too large for the new width.
        CorruptError: The image is damaged.
        Error: As `open`.
    """
    name = name_only(path)
    how = open_args(format, external_files=external_files, limits=limits, force_share=force_share)
    with (
        _log.operation("amend", name) as details,
        progress_callback(progress, "amend") as callback,
    ):
        removed = _native.amend(name, option_pairs(options, None), how, callback)
        details.append(f"{removed} bitmaps removed")
    return Amended(removed)


def commit(
    path: Path,
    *,
    format: Format | None = None,
    base: Path | None = None,
    keep: bool = False,
    threads: int | None = None,
    progress: Progress = None,
    rate_limit: int | None = None,
    external_files: ExternalFiles = "same-dir",
    limits: Mapping[str, int] | None = None,
    force_share: bool = False,
    direct: bool = False,
) -> Committed:
    """Write what an image stores into its backing file, in place, and empty the image.

    >>> diskimg.create("base.qcow2", "1M").size
    1048576
    >>> diskimg.create("top.qcow2", backing="base.qcow2", backing_format="qcow2").size
    1048576
    >>> done = diskimg.commit("top.qcow2")
    >>> done.stored_bytes, done.emptied
    (0, True)

    The backing file is made larger if the image is. If the process is killed or power is lost, the
    disk has the same content as before, seen through the image; run it again.

    Args:
        path: The image's file name, or a block device.
        format: One of `FORMATS`; by default it is detected. Pass it whenever you know it.
        base: The backing file to write, any of the chain: the name that its overlay records, or a
            path. It also gets what the images between it and this one store. Those must not be used
            afterwards, and the image is not emptied.
        keep: Leave the image as it is instead of emptying it.
        threads: Number of worker threads; by default the number of processors.
        progress: As for `convert`.
        rate_limit: Maximum number of bytes written per second.
        external_files: Which other files the image may refer to.
        limits: Resource limits that differ from the defaults in `LIMITS`, by name.
        force_share: Do not lock the files that are only read, even if another process is writing
            to them.
        direct: Bypass the page cache for writing (O_DIRECT).

    Raises:
        LockedError: Another process uses the image or the file that is written, or writes to
            another file of the chain.
        InvalidError: The image has no backing file, or not this one; also a `ValueError`.
        RefusedError: The file that is written also is a part of another image of the chain.
        UnsupportedError: The backing file cannot be written or made larger in place.
        Error: As `open`.
    """
    name = name_only(path)
    how = open_args(format, external_files=external_files, limits=limits, force_share=force_share)
    target = None if base is None else name_only(base)
    with (
        _log.operation("commit", name) as details,
        progress_callback(progress, "commit") as callback,
    ):
        done = Committed(
            *_native.commit(name, target, how, keep, threads, rate_limit, direct, callback)
        )
        details.append(f"{done.stored_bytes} bytes stored in {done.base}")
    return done
