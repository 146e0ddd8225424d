"""Dirty bitmaps of qcow2 images."""

from __future__ import annotations

from collections.abc import Mapping

from diskimg import _log, _native
from diskimg._image import Image
from diskimg._types import OpenArgs, amount, name_only, open_args
from diskimg.types import ExternalFiles, Format, Path


def add_bitmap(
    path: Path,
    name: str,
    *,
    granularity: int | None = None,
    format: Format | None = None,
    external_files: ExternalFiles = "same-dir",
    limits: Mapping[str, int] | None = None,
) -> None:
    """Add a dirty bitmap to a qcow2 image. It records which parts of the disk are written.

    >>> diskimg.create("disk.qcow2", "1G").size
    1073741824
    >>> diskimg.add_bitmap("disk.qcow2", "since-monday")
    >>> with diskimg.open("disk.qcow2", "qcow2") as image:
    ...     [bitmap.name for bitmap in image.bitmaps()]
    ['since-monday']

    If the process is killed or power is lost, the image is as it was before or as it is
    afterwards. Time and memory depend on the image's metadata: no guest data is read.

    Args:
        path: The image's file name, or a block device.
        name: The name of the bitmap, 1 to 1,023 bytes.
        granularity: Guest bytes per bit: a power of two from 512 bytes to 2 GiB. The default is
            the cluster size, but at least 4 KiB and at most 64 KiB.
        format: ``qcow2``; by default it is detected. Pass it whenever you know it.
        external_files: Which other files the image may refer to.
        limits: Resource limits that differ from the defaults in `LIMITS`, by name.

    Raises:
        LockedError: Another process uses the image.
        UnsupportedError: It is not a qcow2 image, or it has version 2.
        InvalidError: The name is empty or exists, or the granularity is not allowed; also a
            `ValueError`.
        LimitError: The name is too long, the bitmap would be too large, or there are too many.
        CorruptError: The image is damaged, or was not closed properly.
        Error: As `open`.
    """
    how = open_args(format, external_files=external_files, limits=limits)
    size = None if granularity is None else amount("granularity", granularity)
    _change("add_bitmap", path, name, "add", how, granularity=size)


def remove_bitmap(
    path: Path,
    name: str,
    *,
    format: Format | None = None,
    external_files: ExternalFiles = "same-dir",
    limits: Mapping[str, int] | None = None,
) -> None:
    """Remove a dirty bitmap of a qcow2 image, which may be inconsistent.

    >>> diskimg.create("disk.qcow2", "1G").size
    1073741824
    >>> diskimg.add_bitmap("disk.qcow2", "since-monday")
    >>> diskimg.remove_bitmap("disk.qcow2", "since-monday")
    >>> with diskimg.open("disk.qcow2", "qcow2") as image:
    ...     image.bitmaps()
    ()

    If the process is killed or power is lost, the image is as it was before or as it is
    afterwards.

    Args:
        path: The image's file name, or a block device.
        name: The name of the bitmap.
        format: ``qcow2``; by default it is detected. Pass it whenever you know it.
        external_files: Which other files the image may refer to.
        limits: Resource limits that differ from the defaults in `LIMITS`, by name.

    Raises:
        LockedError: Another process uses the image.
        UnsupportedError: It is not a qcow2 image.
        InvalidError: There is no such bitmap; also a `ValueError`.
        CorruptError: The image is damaged, or was not closed properly.
        Error: As `open`.
    """
    how = open_args(format, external_files=external_files, limits=limits)
    _change("remove_bitmap", path, name, "remove", how)


def clear_bitmap(
    path: Path,
    name: str,
    *,
    format: Format | None = None,
    external_files: ExternalFiles = "same-dir",
    limits: Mapping[str, int] | None = None,
) -> None:
    """Make everything clean in a dirty bitmap of a qcow2 image.

    >>> diskimg.create("disk.qcow2", "1G").size
    1073741824
    >>> diskimg.add_bitmap("disk.qcow2", "since-monday")
    >>> diskimg.clear_bitmap("disk.qcow2", "since-monday")
    >>> with diskimg.open("disk.qcow2", "qcow2") as image:
    ...     list(image.dirty_ranges("since-monday"))
    []

    If the process is killed or power is lost, the image is as it was before or as it is
    afterwards.

    Args:
        path: The image's file name, or a block device.
        name: The name of the bitmap.
        format: ``qcow2``; by default it is detected. Pass it whenever you know it.
        external_files: Which other files the image may refer to.
        limits: Resource limits that differ from the defaults in `LIMITS`, by name.

    Raises:
        LockedError: Another process uses the image.
        UnsupportedError: It is not a qcow2 image, or the bitmap is inconsistent.
        InvalidError: There is no such bitmap; also a `ValueError`.
        CorruptError: The image is damaged, or was not closed properly.
        Error: As `open`.
    """
    how = open_args(format, external_files=external_files, limits=limits)
    _change("clear_bitmap", path, name, "clear", how)


def enable_bitmap(
    path: Path,
    name: str,
    *,
    format: Format | None = None,
    external_files: ExternalFiles = "same-dir",
    limits: Mapping[str, int] | None = None,
) -> None:
    """Have a dirty bitmap of a qcow2 image record writes from now on.

    >>> diskimg.create("disk.qcow2", "1G").size
    1073741824
    >>> diskimg.add_bitmap("disk.qcow2", "since-monday")
    >>> diskimg.disable_bitmap("disk.qcow2", "since-monday")
    >>> diskimg.enable_bitmap("disk.qcow2", "since-monday")
    >>> with diskimg.open("disk.qcow2", "qcow2") as image:
    ...     [bitmap.enabled for bitmap in image.bitmaps()]
    [True]

    If the process is killed or power is lost, the image is as it was before or as it is
    afterwards.

    Args:
        path: The image's file name, or a block device.
        name: The name of the bitmap.
        format: ``qcow2``; by default it is detected. Pass it whenever you know it.
        external_files: Which other files the image may refer to.
        limits: Resource limits that differ from the defaults in `LIMITS`, by name.

    Raises:
        LockedError: Another process uses the image.
        UnsupportedError: It is not a qcow2 image, or the bitmap is inconsistent.
        InvalidError: There is no such bitmap; also a `ValueError`.
        CorruptError: The image is damaged, or was not closed properly.
        Error: As `open`.
    """
    how = open_args(format, external_files=external_files, limits=limits)
    _change("enable_bitmap", path, name, "enable", how)


def disable_bitmap(
    path: Path,
    name: str,
    *,
    format: Format | None = None,
    external_files: ExternalFiles = "same-dir",
    limits: Mapping[str, int] | None = None,
) -> None:
    """Have a dirty bitmap of a qcow2 image stay as it is: writes are not recorded.

    >>> diskimg.create("disk.qcow2", "1G").size
    1073741824
    >>> diskimg.add_bitmap("disk.qcow2", "since-monday")
    >>> diskimg.disable_bitmap("disk.qcow2", "since-monday")
    >>> with diskimg.open("disk.qcow2", "qcow2") as image:
    ...     [bitmap.enabled for bitmap in image.bitmaps()]
    [False]

    If the process is killed or power is lost, the image is as it was before or as it is
    afterwards.

    Args:
        path: The image's file name, or a block device.
        name: The name of the bitmap.
        format: ``qcow2``; by default it is detected. Pass it whenever you know it.
        external_files: Which other files the image may refer to.
        limits: Resource limits that differ from the defaults in `LIMITS`, by name.

    Raises:
        LockedError: Another process uses the image.
        UnsupportedError: It is not a qcow2 image, or the bitmap is inconsistent.
        InvalidError: There is no such bitmap; also a `ValueError`.
        CorruptError: The image is damaged, or was not closed properly.
        Error: As `open`.
    """
    how = open_args(format, external_files=external_files, limits=limits)
    _change("disable_bitmap", path, name, "disable", how)


def merge_bitmap(
    path: Path,
    name: str,
    source: str,
    *,
    source_image: Image | None = None,
    format: Format | None = None,
    external_files: ExternalFiles = "same-dir",
    limits: Mapping[str, int] | None = None,
) -> None:
    """Make dirty in a bitmap of a qcow2 image what is dirty in another one.

    >>> diskimg.create("disk.qcow2", "1G").size
    1073741824
    >>> diskimg.add_bitmap("disk.qcow2", "since-monday")
    >>> diskimg.add_bitmap("disk.qcow2", "this-year", granularity=1 << 20)
    >>> diskimg.merge_bitmap("disk.qcow2", "this-year", "since-monday")

    They may have different granularities. If the process is killed or power is lost, the image is
    as it was before or as it is afterwards.

    Args:
        path: The image's file name, or a block device.
        name: The name of the bitmap that is changed.
        source: The name of the other bitmap.
        source_image: The image that has it; by default, the same.
        format: ``qcow2``; by default it is detected. Pass it whenever you know it.
        external_files: Which other files the image may refer to.
        limits: Resource limits that differ from the defaults in `LIMITS`, by name.

    Raises:
        LockedError: Another process uses the image.
        UnsupportedError: It is not a qcow2 image, or a bitmap is inconsistent.
        InvalidError: There is no such bitmap, or the disks differ in size; also a `ValueError`.
        CorruptError: An image is damaged, or was not closed properly.
        Error: As `open`.
    """
    how = open_args(format, external_files=external_files, limits=limits)
    image = None if source_image is None else source_image._native
    _change("merge_bitmap", path, name, "merge", how, source=image, source_name=source)


def _change(
    operation: str,
    path: Path,
    name: str,
    action: str,
    how: OpenArgs,
    *,
    granularity: int | None = None,
    source: _native.Image | None = None,
    source_name: str | None = None,
) -> None:
    """Make one change."""
    image = name_only(path)
    with _log.operation(operation, image) as details:
        _native.change_bitmap(image, name, action, granularity, source, source_name, how)
        details.append(f"bitmap {name}")
