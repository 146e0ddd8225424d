"""The functions of the package: one for each qemu-img subcommand."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast, overload

from diskimg import _log, _native
from diskimg._errors import InvalidError, RefusedError, UnsupportedError
from diskimg._image import Image, open
from diskimg._progress import progress_callback
from diskimg._results import (
    CheckReport,
    Comparison,
    Created,
    Detection,
    Digests,
    Extent,
    FileDigest,
    Finding,
    Info,
    Inspection,
    Measure,
    Preflight,
    Report,
    Resized,
    Salvaged,
)
from diskimg._types import (
    ConvertArgs,
    OpenArgs,
    amount,
    file_or_name,
    format_of,
    limit_pairs,
    name_only,
    open_args,
    option_pairs,
)
from diskimg._url import Url
from diskimg._words import choice, optional, shown
from diskimg.types import (
    BinaryReader,
    BinaryWriter,
    Consumer,
    DigestAlgorithm,
    ExternalFiles,
    FindingCode,
    Format,
    Node,
    OptionValue,
    Path,
    Preallocation,
    Progress,
    Reflink,
    RepairScope,
)

_BLOCK = 4096
"""Default length in bytes of a run of zeros that becomes a hole."""


def convert(
    src: Path | BinaryReader | Node | Url | Sequence[Path | BinaryReader | Node | Url],
    dst: Path | BinaryWriter | Url,
    *,
    format: Format | None = None,
    src_format: Format | None = None,
    options: Mapping[str, OptionValue] | None = None,
    compress: bool = False,
    snapshot: str | None = None,
    disk: str | int | None = None,
    part: tuple[int, int] | None = None,
    backing: Path | None = None,
    backing_format: str | None = None,
    sparse: bool | int = True,
    threads: int | None = None,
    progress: Progress = None,
    external_files: ExternalFiles = "same-dir",
    limits: Mapping[str, int] | None = None,
    ignore_content_id: bool = False,
    possible_parents: Sequence[Path] = (),
    force_share: bool = False,
    reflink: Reflink = "auto",
    offload: bool = False,
    recompress: bool = False,
    trust_source: bool = False,
    verify: bool = False,
    digest: DigestAlgorithm | None = None,
    verify_manifest: bool = True,
    sha256: str | None = None,
    strict: bool = False,
    salvage: bool = False,
    rate_limit: int | None = None,
    max_size: int | None = None,
    durable: bool = True,
    direct: bool = False,
    in_place: bool = False,
    target_is_zero: bool = False,
    bitmaps: bool = False,
    skip_broken_bitmaps: bool = False,
    secrets: Mapping[str, bytes] | None = None,
) -> Report:
    """Convert an image to another format.

    >>> Path("disk.raw").write_bytes(b"data" + bytes(1 << 20))
    1048580
    >>> report = diskimg.convert("disk.raw", "disk.qcow2", compress=True)
    >>> report.guest_bytes, report.stored_bytes < 1000
    (1049088, True)
    >>> diskimg.convert("disk.qcow2", "disk.vmdk", compress=True).warnings
    ()

    A file ``dst`` appears under its name only when it is complete and on stable storage. After
    an exception, Ctrl-C or a full disk, an existing file of that name is unchanged. (Devices and
    file objects, images with ``in_place``, and files that cannot be replaced, of which
    `Report.notes` tells, are written directly.) The bytes of the output
    depend on the source, on the options and on whether the file system shares data between the
    two, but not on the number of threads.

    Args:
        src: An image, as for `open`; or a sequence of images, which are concatenated (in an OVA,
            each becomes a disk).
        dst: The output's file name, a `Url` of a protocol that can write, or a binary file object.
            An image at a URL appears when it is complete. A file object that can seek and
            truncate is emptied as soon as the source is open and written from its beginning;
            afterwards its position is at the end of the image. Any other file object can take
            only the formats that can be streamed: raw, VMDK with
            ``subformat=streamOptimized`` and OVA.
        format: The output's format: one of `FORMATS`. The default follows from the suffix of the
            file name (``.qcow2``, ``.vmdk``, ``.vhd``, ``.vhdx``, ``.vdi``, ``.qed``, ``.hds``,
            ``.hdd``, ``.ova``, ``.ovf``); it is raw for other names and for file objects. That of a
            format that is not supported is an error.
        src_format: The source's format; by default it is detected.
        options: Create options of the output's format; `create_options` lists them.
        compress: Compress the output's clusters.
        snapshot: Convert this internal snapshot (ID or name).
        disk: The disk of an appliance (OVA): its number (from 1), file name or diskId.
        part: Convert only this part of the disk: offset and length in bytes. There can be only one
            source.
        backing: Use this image as the output's backing file and write only the data that differ
            from it. A relative name is relative to the output's directory.
        backing_format: The format of ``backing``.
        sparse: Length in bytes of a run of zeros that becomes a hole: at least 512. `True` means
            4096. With `False` every byte is written and the output is fully allocated.
        threads: Number of worker threads; by default the number of processors.
        progress: Called in this thread with the number of guest bytes done and their total, at
            most some 50 times a second, and once when everything is done except giving the
            output its name. An exception that it raises stops the conversion and is propagated.
            `True` shows a progress bar (tqdm's if it is installed).
        external_files: Which other files the source and ``backing`` may refer to.
        limits: Resource limits that differ from the defaults in `LIMITS`, by name.
        ignore_content_id: Accept a parent that has changed since its child was created, and a
            VMDK that has a parent's content ID but not its name.
        possible_parents: Files among which parents are searched by their UUIDs, as for `open`.
        force_share: Do not lock the image's files, even if another process is writing to them.
        reflink: Whether stored data share their blocks with the source: ``auto`` (where
            possible), ``always`` (or fail) or ``never``.
        offload: Let the kernel copy data that cannot be shared (copy_file_range), without
            looking for zeros in them.
        recompress: Compress data again even if the compressed data could be copied as they are.
        trust_source: Do not decompress data that are copied as they are. Damage is then copied,
            and found when the output is read.
        verify: Before the output gets its name, open and read it again and compare it with the
            source. A file object cannot be verified.
        digest: Compute digests of the guest's bytes and of each file that is written (which is
            read again for this): `Report.digests`.
        verify_manifest: Verify an appliance against its manifest first.
        sha256: Require that the source, one image in one file, has this SHA-256 digest (64
            hexadecimal digits). It is read once more for this.
        strict: Raise an exception if the manifest does not list the descriptor or the descriptor
            states a wrong file size; by default these are in `Report.warnings`.
        salvage: Replace data that cannot be read with zeros; `Report.salvaged` lists them. Opens
            damaged images as `open` does with ``salvage``.
        rate_limit: Maximum number of bytes written per second.
        max_size: Maximum number of bytes written to all files of the output together: data,
            metadata and reserved space. Holes do not count, except where the output cannot seek.
        durable: Flush the output to stable storage before it gets its name.
        direct: Bypass the page cache for reading and writing (O_DIRECT).
        in_place: Write into the existing image ``dst``, which must be large enough
            (``qemu-img convert -n``). It keeps its options, snapshots, backing file, further
            files and the data beyond the end of the source; enabled bitmaps record the writes.
        target_is_zero: With ``in_place``: assume that ``dst`` reads as zeros.
        bitmaps: Copy the dirty bitmaps of ``src``, not those of its backing files (qcow2).
        skip_broken_bitmaps: Leave out inconsistent bitmaps, with a warning, instead of failing.
        secrets: Passwords and keys of the source by ID, as for `open`.

    Raises:
        CorruptError, UnsupportedError, LimitError: The source cannot be read; see `open`.
        LimitError: The output exceeds ``max_size`` or a limit.
        RefusedError: An image refers to a file that ``external_files`` does not allow, or
            ``dst`` is one of the source's files.
        InvalidError: The arguments are invalid; also a `ValueError`.
        IoError: An operating system error; also an `OSError`.
        KeyboardInterrupt: Ctrl-C was pressed. The conversion stops within a tenth of a second
            (later at the highest compression levels). An existing file ``dst`` is unchanged, or
            replaced by the complete output if it was just being renamed.
        Exception: An exception raised by a file object or by ``progress``, unchanged.
    """
    several = isinstance(src, Sequence) and not isinstance(
        src, str | bytes | bytearray | memoryview | os.PathLike
    )
    sources = cast(Sequence[Any], src) if several else [src]
    if not sources:
        raise InvalidError("there is no image to convert")
    how = open_args(
        src_format,
        external_files=external_files,
        limits=limits,
        snapshot=snapshot,
        disk=disk,
        ignore_content_id=ignore_content_id,
        possible_parents=possible_parents,
        strict=strict,
        salvage=salvage,
        force_share=force_share,
        direct=direct,
        secrets=secrets,
        argument="src_format",
    )
    named = isinstance(dst, str | bytes | os.PathLike)
    if not named and any(source is dst or source == dst for source in sources):
        raise RefusedError("the output is one of the source's own files")
    if backing_format is not None and backing is None:
        raise InvalidError("backing_format without backing")
    if target_is_zero and not in_place:
        raise InvalidError("target_is_zero needs in_place=True")
    if skip_broken_bitmaps and not bitmaps:
        raise InvalidError("skip_broken_bitmaps needs bitmaps=True")
    if part is not None and ((several and len(sources) != 1) or min(part) < 0):
        raise InvalidError("part needs one source, an offset and a length")
    if rate_limit == 0:
        raise InvalidError("rate_limit must be at least 1")
    if in_place and not (named or isinstance(dst, Url)):
        raise InvalidError("in_place=True needs a file name or a Url, not a file object")
    chosen = format_of(dst, format)
    conversion: ConvertArgs = {
        "format": chosen,
        "options": option_pairs(options, chosen),
        "compress": compress,
        "part": part,
        "backing": None if backing is None else name_only(backing),
        "backing_format": backing_format,
        "external_files": how["external_files"],
        "limits": how["limits"],
        "possible_parents": how["possible_parents"],
        "force_share": force_share,
        "sparse": _sparse(sparse),
        "threads": None if threads is None else _threads(threads),
        "rate_limit": None if rate_limit is None else amount("rate_limit", rate_limit),
        "max_size": None if max_size is None else amount("max_size", max_size),
        "salvage": salvage,
        "reflink": choice("Reflink", "reflink", reflink),
        "offload": offload,
        "recompress": recompress,
        "trust_source": trust_source,
        "verify": verify,
        "digest": optional("DigestAlgorithm", "digest", digest),
        "verify_manifest": verify_manifest,
        "sha256": None if sha256 is None else _sha256(sha256),
        "durable": durable,
        "direct": direct,
        "in_place": in_place,
        "target_is_zero": target_is_zero,
        "bitmaps": bitmaps,
        "skip_broken_bitmaps": skip_broken_bitmaps,
    }
    given = [(file_or_name(source), how) for source in sources]
    output = file_or_name(dst)
    with (
        _log.operation("convert", src, dst) as details,
        progress_callback(progress, "convert") as callback,
    ):
        report = _report(_native.convert(given, output, conversion, callback))
        details.append(f"{report.stored_bytes} bytes stored of {report.guest_bytes}")
    _log.warnings("convert", src, report.warnings)
    _log.warnings("convert", dst, report.notes)
    _log.warnings("convert", src, (f"replaced with zeros: {lost}" for lost in report.salvaged))
    return report


def _report(fields: _native._ReportFields) -> Report:
    guest, stored, shared, passed, salvaged, warnings, notes, verified, digested = fields
    listed, lost_bytes = salvaged
    lost = tuple(Salvaged(*extent) for extent in listed)
    digests = None
    if digested is not None:
        algorithm, of_guest, files = digested
        digests = Digests(algorithm, of_guest, tuple(FileDigest(*file) for file in files))
    return Report(
        guest,
        stored,
        shared,
        passed,
        lost,
        tuple(warnings),
        verified,
        digests,
        tuple(notes),
        lost_bytes,
    )


def _sparse(sparse: bool | int) -> int | None:
    if sparse is False:
        return None
    return _BLOCK if sparse is True else amount("sparse", sparse)


def _sha256(digest: str) -> str:
    if not isinstance(digest, str):
        raise TypeError(f"sha256 must be a str, not {type(digest).__name__}")
    if not re.fullmatch("[0-9a-fA-F]{64}", digest):
        raise InvalidError(f"sha256={shown(digest)} is not a digest of 64 hexadecimal digits")
    return digest


def _threads(threads: int) -> int:
    if amount("threads", threads) == 0:
        raise InvalidError("threads must be at least 1")
    return threads


@overload
def info(
    file: Path | BinaryReader | Node | Url,
    format: Format | None = None,
    *,
    disk: str | int | None = None,
    external_files: ExternalFiles = "same-dir",
    limits: Mapping[str, int] | None = None,
    force_share: bool = False,
    secrets: Mapping[str, bytes] | None = None,
    chain: Literal[False] = False,
) -> Info: ...
@overload
def info(
    file: Path | BinaryReader | Node | Url,
    format: Format | None = None,
    *,
    disk: str | int | None = None,
    external_files: ExternalFiles = "same-dir",
    limits: Mapping[str, int] | None = None,
    force_share: bool = False,
    secrets: Mapping[str, bytes] | None = None,
    chain: Literal[True],
) -> list[Info]: ...
@overload
def info(
    file: Path | BinaryReader | Node | Url,
    format: Format | None = None,
    *,
    disk: str | int | None = None,
    external_files: ExternalFiles = "same-dir",
    limits: Mapping[str, int] | None = None,
    force_share: bool = False,
    secrets: Mapping[str, bytes] | None = None,
    chain: bool,
) -> Info | list[Info]: ...
def info(
    file: Path | BinaryReader | Node | Url,
    format: Format | None = None,
    *,
    disk: str | int | None = None,
    external_files: ExternalFiles = "same-dir",
    limits: Mapping[str, int] | None = None,
    force_share: bool = False,
    secrets: Mapping[str, bytes] | None = None,
    chain: bool = False,
) -> Info | list[Info]:
    """Return information about an image. Its backing file and data file are not opened.

    >>> diskimg.create("base.qcow2", "1G").size
    1073741824
    >>> diskimg.create("disk.qcow2", backing="base.qcow2", backing_format="qcow2").size
    1073741824
    >>> diskimg.info("disk.qcow2").backing_filename
    'base.qcow2'
    >>> [layer.filename for layer in diskimg.info("disk.qcow2", chain=True)]
    ['disk.qcow2', 'base.qcow2']

    Args:
        file: A file name or a binary file object, as for `open`.
        format: The image's format; by default it is detected.
        disk: The disk of an appliance.
        external_files: Whether the other files of a split image may be opened (``none``: no;
            otherwise those in its own directory); with ``chain``, also which backing files.
        limits: Resource limits that differ from the defaults in `LIMITS`, by name.
        force_share: Do not lock the image's files, even if another process is writing to them.
        secrets: Passwords and keys by ID, as for `open`.
        chain: Return a list with one entry for each layer, the image itself first.

    Raises:
        Error: As `open`.
    """
    native = _native.Image.open(
        file_or_name(file),
        open_args(
            format,
            disk=disk,
            external_files=external_files,
            limits=limits,
            force_share=force_share,
            secrets=secrets,
        ),
        True,
        chain,
    )
    with Image(native) as image:
        if not chain:
            return image.info()
        return [image.info(layer) for layer in range(image.layers)]


def preflight(
    file: Path | BinaryReader | Node | Url,
    consumer: Consumer,
    *,
    format: Format | None = None,
    disk: str | int | None = None,
    external_files: ExternalFiles = "same-dir",
    limits: Mapping[str, int] | None = None,
    force_share: bool = False,
    secrets: Mapping[str, bytes] | None = None,
) -> Preflight:
    """Check what a cloud or hypervisor would reject of an image, before it is uploaded.

    >>> diskimg.create("disk.raw", "1500M", format="raw").size
    1572864000
    >>> for finding in diskimg.preflight("disk.raw", "gcp", format="raw").findings:
    ...     print(finding.severity, finding.code)
    error size-multiple
    warning no-partition-table

    Data of the disk is read where a partition table, a boot loader or the modules of a kernel are
    expected.

    Args:
        file: A file name or a binary file object, as for `open`.
        consumer: The cloud or hypervisor: ``aws``, ``azure``, ``esxi``, ``gcp``, ``glance``,
            ``hyperv``, ``ovirt``, ``proxmox``, ``virtualbox``, ``vsphere`` or ``workstation``.
        format: The image's format; by default it is detected.
        disk: The disk of an appliance.
        external_files: Which files an image may refer to, as for `open`.
        limits: Resource limits that differ from the defaults in `LIMITS`, by name.
        force_share: Do not lock the image's files, even if another process is writing to them.
        secrets: Passwords and keys by ID, as for `open`.

    Raises:
        InvalidError: The consumer is not known; also a `ValueError`.
        Error: As `open`.
    """
    with open(
        file,
        format,
        disk=disk,
        external_files=external_files,
        limits=limits,
        force_share=force_share,
        secrets=secrets,
    ) as image:
        return image.preflight(consumer)


def map(
    file: Path | BinaryReader | Url,
    format: Format | None = None,
    *,
    start: int = 0,
    length: int | None = None,
    snapshot: str | None = None,
    disk: str | int | None = None,
    external_files: ExternalFiles = "same-dir",
    limits: Mapping[str, int] | None = None,
    ignore_content_id: bool = False,
    force_share: bool = False,
) -> list[Extent]:
    """Return the extents of an image: where each range of guest bytes is stored.

    >>> diskimg.create("disk.qcow2", "1G").size
    1073741824
    >>> [(extent.length, extent.present) for extent in diskimg.map("disk.qcow2")]
    [(1073741824, False)]

    `Image.extents` yields them one by one, which suits large images.

    Args:
        file: A file name or a binary file object, as for `open`.
        format: The image's format; by default it is detected.
        start: First guest offset.
        length: Length in bytes; by default up to the end of the disk.
        snapshot: Map this internal snapshot (ID or name).
        disk: The disk of an appliance.
        external_files: Which other files the image may refer to.
        limits: Resource limits that differ from the defaults in `LIMITS`, by name.
        ignore_content_id: Accept a parent that has changed since its child was created.
        force_share: Do not lock the image's files, even if another process is writing to them.

    Raises:
        Error: As `open` and `Image.extents`.
    """
    end = None if length is None else amount("start", start) + amount("length", length)
    with open(
        file,
        format,
        snapshot=snapshot,
        disk=disk,
        external_files=external_files,
        limits=limits,
        ignore_content_id=ignore_content_id,
        force_share=force_share,
    ) as image:
        return list(image.extents(start, end))


def create(
    path: Path,
    size: int | str | None = None,
    *,
    format: Format | None = None,
    options: Mapping[str, OptionValue] | None = None,
    backing: Path | None = None,
    backing_format: str | None = None,
    external_files: ExternalFiles = "same-dir",
    limits: Mapping[str, int] | None = None,
    force_share: bool = False,
    max_size: int | None = None,
    progress: Progress = None,
) -> Created:
    """Create an empty image. An existing file is replaced once the new one is complete.

    >>> diskimg.create("base.qcow2", "10G").size
    10737418240
    >>> diskimg.create("disk.qcow2", backing="base.qcow2", backing_format="qcow2").size
    10737418240

    Args:
        path: The new image's file name.
        size: Size of the virtual disk in bytes, or text like ``10G``; by default that of
            ``backing``.
        format: The image's format; the default follows from the name's suffix, else raw.
        options: Create options; `create_options` lists them.
        backing: The backing file. A relative name is relative to ``path``'s directory.
        backing_format: The format of ``backing``; required if there is one.
        external_files: Which other files ``backing`` may refer to.
        limits: Resource limits that differ from the defaults in `LIMITS`, by name.
        force_share: Do not lock the backing files, even if another process is writing to them.
        max_size: Maximum number of bytes that the files of the image take, with reserved space.
        progress: As for `convert`; useful when space is preallocated.

    Raises:
        InvalidError: The format does not have one of the options, or the size is missing; also a
            `ValueError`.
        IoError: An operating system error; also an `OSError`.
        Error: ``backing`` cannot be opened; see `open`.
    """
    if backing_format is not None and backing is None:
        raise InvalidError("backing_format without backing")
    if size is not None and "size" in (options or {}):
        raise InvalidError("the size is given both as an argument and as an option")
    name, chosen = name_only(path), format_of(path, format)
    given = option_pairs(options, chosen)
    if isinstance(size, str):
        given.append(("size", size))
    with (
        _log.operation("create", name) as details,
        progress_callback(progress, "create") as callback,
    ):
        created, in_effect, notes = _native.create(
            name,
            chosen,
            None if size is None or isinstance(size, str) else amount("size", size),
            given,
            None if backing is None else (name_only(backing), backing_format),
            choice("ExternalFiles", "external_files", external_files),
            limit_pairs(limits),
            force_share,
            None if max_size is None else amount("max_size", max_size),
            callback,
        )
        details.append(f"{created} bytes")
    _log.warnings("create", name, notes)
    return Created(name, chosen, created, dict(in_effect), tuple(notes))


def resize(
    path: Path,
    size: int | str,
    *,
    format: Format | None = None,
    shrink: bool = False,
    preallocation: Preallocation = "off",
    fix_gpt: bool = False,
    external_files: ExternalFiles = "same-dir",
    limits: Mapping[str, int] | None = None,
    force_share: bool = False,
) -> Resized:
    """Change the size of a disk in place. Added bytes read as zeros.

    >>> diskimg.create("disk.qcow2", "1G").size
    1073741824
    >>> diskimg.resize("disk.qcow2", "+1G").new_size
    2147483648
    >>> diskimg.create("disk.raw", "1G").size
    1073741824
    >>> diskimg.resize("disk.raw", "512M", format="raw", shrink=True).new_size
    536870912

    If the process is killed or power is lost, the disk has its old or its new size, and all its
    bytes are intact. File systems are not changed, nor are partition tables without ``fix_gpt``.

    Args:
        path: The image's file name, or a block device.
        size: The new size of the virtual disk in bytes, or text like ``10G``, or ``+1G`` and
            ``-1G``, which are relative to the current size.
        format: One of `FORMATS`; by default it is detected. Pass it whenever you know it.
        shrink: Allow the disk to become smaller, which deletes the data at its end.
        preallocation: How space is allocated for added bytes.
        fix_gpt: Move the backup of the disk's GUID partition table to the new end of the disk. The
            size may stay as it is.
        external_files: Which other files the image may refer to.
        limits: Resource limits that differ from the defaults in `LIMITS`, by name.
        force_share: Do not lock the backing files, even if another process is writing to them.

    Raises:
        LockedError: Another process uses the image.
        RefusedError: The disk would become smaller, but ``shrink`` is false; a partition would not
            fit; or the image names files that would be changed, but its format is not given.
        UnsupportedError: Images of this format, or with one of this image's features, cannot be
            resized.
        InvalidError: The format cannot have this size, or the disk has no GUID partition table;
            also a `ValueError`.
        CorruptError: The image or the partition table is damaged.
        Error: As `open`.
    """
    name = name_only(path)
    wanted = size if isinstance(size, str) else str(amount("size", size))
    how = open_args(format, external_files=external_files, limits=limits, force_share=force_share)
    how_allocated = choice("Preallocation", "preallocation", preallocation)
    with _log.operation("resize", name) as details:
        old, new = _native.resize(name, wanted, how, shrink, how_allocated, fix_gpt)
        details.append(f"{old} bytes before, {new} now")
    return Resized(old, new)


def compare(
    a: Path | BinaryReader | Url | Image,
    b: Path | BinaryReader | Url | Image,
    *,
    a_format: Format | None = None,
    b_format: Format | None = None,
    strict: bool = False,
    threads: int | None = None,
    progress: Progress = None,
    external_files: ExternalFiles = "same-dir",
    limits: Mapping[str, int] | None = None,
    ignore_content_id: bool = False,
    force_share: bool = False,
) -> Comparison:
    """Compare the guest bytes of two images.

    >>> Path("disk.raw").write_bytes(b"data" + bytes(1 << 20))
    1048580
    >>> diskimg.convert("disk.raw", "disk.qcow2").guest_bytes
    1049088
    >>> bool(diskimg.compare("disk.raw", "disk.qcow2", a_format="raw"))
    True

    Args:
        a: A file name, a binary file object or an open `Image`.
        b: The other image, likewise.
        a_format: The format of ``a``; by default it is detected.
        b_format: The format of ``b``, likewise.
        strict: Sizes and allocation status must be equal, too.
        threads: Number of worker threads; by default the number of processors.
        progress: As for `convert`.
        external_files: Which other files the images may refer to.
        limits: Resource limits that differ from the defaults in `LIMITS`, by name.
        ignore_content_id: Accept a parent that has changed since its child was created.
        force_share: Do not lock the image's files, even if another process is writing to them.

    Raises:
        Error: As `open` and `Image.read_at`.
        KeyboardInterrupt: Ctrl-C was pressed; the comparison stops within a tenth of a second.
    """

    @contextmanager
    def opened(image: Any, format: Format | None, argument: str) -> Iterator[Image]:
        if isinstance(image, Image):
            yield image
            return
        how = open_args(
            format,
            external_files=external_files,
            limits=limits,
            ignore_content_id=ignore_content_id,
            force_share=force_share,
            argument=argument,
        )
        with Image(_native.Image.open(file_or_name(image), how, False, False)) as fresh:
            yield fresh

    with (
        opened(a, a_format, "a_format") as first,
        opened(b, b_format, "b_format") as second,
        _log.operation("compare", a, b) as details,
        progress_callback(progress, "compare") as callback,
    ):
        result, offset = _native.compare(
            first._native,
            second._native,
            strict,
            None if threads is None else _threads(threads),
            callback,
        )
        details.append(f"result: {result}")
        return Comparison(result, offset, first.size != second.size)


def measure(
    file: Path | BinaryReader | Url | None = None,
    *,
    size: int | None = None,
    format: Format = "raw",
    options: Mapping[str, OptionValue] | None = None,
    src_format: Format | None = None,
    snapshot: str | None = None,
    disk: str | int | None = None,
    external_files: ExternalFiles = "same-dir",
    limits: Mapping[str, int] | None = None,
    ignore_content_id: bool = False,
    force_share: bool = False,
) -> Measure:
    """Calculate the space that a new image would take. No guest data is read.

    >>> diskimg.measure(size=1 << 30, format="qcow2").required
    393216
    >>> diskimg.measure(io.BytesIO(bytes(512)), format="raw", src_format="raw").required
    512

    Args:
        file: The image to be converted, as for `open`. Mutually exclusive with ``size``.
        size: Size in bytes of an empty disk to be created.
        format: The new image's format: raw or qcow2.
        options: Create options of the new image.
        src_format: The format of ``file``; by default it is detected.
        snapshot: Measure this internal snapshot (ID or name).
        disk: The disk of an appliance.
        external_files: Which other files the image may refer to.
        limits: Resource limits that differ from the defaults in `LIMITS`, by name.
        ignore_content_id: Accept a parent that has changed since its child was created.
        force_share: Do not lock the image's files, even if another process is writing to them.

    Raises:
        UnsupportedError: The size of an image in that format cannot be calculated.
        InvalidError: Both or neither of ``file`` and ``size`` are given, or the format does not
            have one of the options.
        Error: As `open`.
    """
    if (file is None) == (size is None):
        raise InvalidError("measure needs either an image or a size")
    if file is None:
        chosen = choice("Format", "format", format)
        pairs = option_pairs(options, chosen)
        facts = _native.measure_size(chosen, pairs, amount("size", cast(int, size)))
        return Measure._from_json(json.loads(facts))
    with open(
        file,
        src_format,
        snapshot=snapshot,
        disk=disk,
        external_files=external_files,
        limits=limits,
        ignore_content_id=ignore_content_id,
        force_share=force_share,
    ) as image:
        return image.measure(format, options)


def check(
    file: Path | BinaryReader | Url,
    format: Format | None = None,
    *,
    disk: str | int | None = None,
    external_files: ExternalFiles = "same-dir",
    limits: Mapping[str, int] | None = None,
    force_share: bool = False,
    repair: RepairScope | None = None,
    backup: Path | None = None,
) -> CheckReport:
    """Check the consistency of an image's metadata. Its backing files are not opened.

    If the image records digests of its contents, as forensic images do, all that they cover is read
    and compared with them.

    >>> diskimg.create("disk.qcow2", "1G").size
    1073741824
    >>> diskimg.check("disk.qcow2").clean
    True

    With ``repair``, damage is repaired in place (qcow2; in VDI, QED and Parallels images, counters
    and marks), and the result is that of a second check. What the guest reads does not change. If
    the process is killed or power is lost, the image is not worse than before.

    >>> diskimg.check("disk.qcow2", repair="all").corruptions_fixed
    0

    Args:
        file: A file name or a binary file object, as for `open`; with ``repair``, a file name.
        format: The image's format; by default it is detected.
        disk: The disk of an appliance.
        external_files: Which other files of a split image may be opened.
        limits: Resource limits that differ from the defaults in `LIMITS`, by name.
        force_share: Do not lock the image's files, even if another process is writing to them.
            An image that is repaired is always locked.
        repair: What may be changed.
        backup: A new file for the bytes that ``repair`` overwrites; ``docs/commands/check.md``
            describes it.

    Raises:
        UnsupportedError: The format has no metadata to check (raw), or images of it cannot be
            repaired.
        LockedError: Another process uses the image, which is to be repaired.
        Error: The image cannot be opened or is too damaged to be checked.
    """
    if repair is not None:
        how = open_args(
            format,
            disk=disk,
            external_files=external_files,
            limits=limits,
            force_share=force_share,
        )
        saved = None if backup is None else name_only(backup)
        return _repair(
            name_only(cast(Path, file)), choice("RepairScope", "repair", repair), how, saved
        )
    if backup is not None:
        raise InvalidError("backup needs repair")
    native = _native.Image.open(
        file_or_name(file),
        open_args(
            format,
            disk=disk,
            external_files=external_files,
            limits=limits,
            force_share=force_share,
        ),
        True,
        False,
    )
    with _log.operation("check", file), Image(native) as image:
        report = image.check()
    _log.warnings("check", file, (finding.message for finding in report.findings))
    return report


def _repair(name: str, scope: str, how: OpenArgs, backup: str | None) -> CheckReport:
    with _log.operation("check", name):
        repaired = _native.repair(name, scope, how, backup)
    if repaired is None:
        error = UnsupportedError(f"{name}: images of this format cannot be repaired")
        error.path = name
        raise error
    format, found, left, counts = repaired
    _log.warnings("check", name, (message for _, _, message in found))
    return CheckReport._from_json(
        json.loads(counts),
        filename=name,
        format=format,
        findings=tuple(Finding(*finding) for finding in left),
    )


def detect(file: Path | BinaryReader | Url | bytes | bytearray | memoryview) -> Detection:
    """Detect the format of a file or of bytes by its signature.

    >>> diskimg.create("disk.img", "1G", format="qcow2").size
    1073741824
    >>> diskimg.detect("disk.img").format
    'qcow2'
    >>> diskimg.detect(b"no signature").format
    'raw'

    A file without a known signature is ``raw``. A guest can write any header to its raw disk, so
    the result is only what the file *claims* to be.

    Args:
        file: A file name (`str` or path-like), the bytes themselves, or a seekable binary file
            object, whose position is undefined afterwards.

    Raises:
        UnsupportedError: The file has the signature of a format that is not supported.
        IoError: The file does not exist or cannot be read; also an `OSError`.
    """
    if isinstance(file, bytes | bytearray | memoryview):
        return Detection(None, _native.detect(io.BytesIO(file)))
    given = file_or_name(file)
    name = given if isinstance(given, str) else getattr(given, "name", None)
    return Detection(name if isinstance(name, str) else None, _native.detect(given))


def inspect(
    file: Path | BinaryReader | Url | bytes | bytearray | memoryview,
    *,
    format: str | None = None,
    max_size: int | None = None,
    max_virtual_size: int | None = None,
    max_ratio: int | None = None,
    allow: Collection[FindingCode] = (),
    limits: Mapping[str, int] | None = None,
) -> Inspection:
    """Decide whether an untrusted image is safe to accept.

    >>> diskimg.create("upload.qcow2", "1G").size
    1073741824
    >>> if diskimg.inspect("upload.qcow2", format="qcow2", max_virtual_size=100 << 30):
    ...     print("accepted")
    accepted
    >>> [finding.code for finding in diskimg.inspect("upload.qcow2", format="vmdk").findings]
    ['format-mismatch']

    Only this file is opened, a bounded amount of it is read, and files that it refers to are not
    opened. There is a verdict whatever the file contains.

    Args:
        file: A file name (`str` or path-like), the bytes themselves, or a binary file object; one
            that does not seek is read to its end.
        format: The format that the image should have; any other is refused. Besides `FORMATS`:
            ``gpt`` and ``mbr`` (raw with such a partition table).
        max_size: Maximum size of the file in bytes.
        max_virtual_size: Maximum size of the virtual disk in bytes; a disk of unknown size is
            refused.
        max_ratio: Maximum ratio of the virtual disk's size to the file's.
        allow: Codes of findings to accept: their severity becomes ``warning``.
        limits: Resource limits that differ from the defaults in `LIMITS`, by name.

    Raises:
        InvalidError: The format or a code is unknown; also a `ValueError`.
        IoError: The file does not exist or cannot be read; also an `OSError`.
        Exception: An exception raised by a file object, unchanged.
    """
    if isinstance(file, bytes | bytearray | memoryview):
        given: object = bytes(file)
    else:
        given = file_or_name(file)
    sizes = {"max_size": max_size, "max_virtual_size": max_virtual_size, "max_ratio": max_ratio}
    maxima = [None if bound is None else amount(what, bound) for what, bound in sizes.items()]
    if isinstance(allow, str):
        raise TypeError("allow must be a collection of codes, not a str")
    if format is not None and not isinstance(format, str):
        raise TypeError(f"format must be a str, not {type(format).__name__}")
    facts = _native.inspect(
        given,
        None if format is None else format.lower(),
        (maxima[0], maxima[1], maxima[2]),
        [choice("FindingCode", "allow", code) for code in allow],
        limit_pairs(limits),
    )
    inspection = Inspection._from_json(json.loads(facts))
    found = (f"{one.code}: {one.message}" for one in inspection.findings if one.severity != "note")
    _log.warnings("inspect", inspection.filename, found)
    return inspection
