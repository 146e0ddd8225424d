"""The functions: one a verb of qemu-img."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast, overload

from diskimg import _native
from diskimg._errors import InvalidError, RefusedError
from diskimg._image import Image, open
from diskimg._progress import Progress, shown
from diskimg._results import (
    CheckReport,
    Comparison,
    Created,
    Detection,
    Digests,
    Extent,
    FileDigest,
    Info,
    Inspection,
    Measure,
    Report,
    Salvaged,
)
from diskimg._types import (
    BinaryReader,
    BinaryWriter,
    Conversion,
    OptionValue,
    Path,
    References,
    amount,
    bounds,
    file_or_name,
    format_of,
    name_only,
    opening,
    pairs,
)

_BLOCK = 4096
"""How many zeros in a row become a hole, by default."""


def convert(
    src: Path | BinaryReader | Sequence[Path | BinaryReader],
    dst: Path | BinaryWriter,
    *,
    format: str | None = None,
    src_format: str | None = None,
    options: Mapping[str, OptionValue] | None = None,
    compress: bool = False,
    snapshot: str | None = None,
    disk: str | int | None = None,
    backing: Path | None = None,
    backing_format: str | None = None,
    sparse: bool | int = True,
    threads: int | None = None,
    progress: Progress = None,
    references: References = "same-dir",
    limits: Mapping[str, int] | None = None,
    ignore_content_id: bool = False,
    reflink: Literal["auto", "always", "never"] = "auto",
    offload: bool = False,
    recompress: bool = False,
    verify: bool = False,
    digest: Literal["sha256", "blake3"] | None = None,
    verify_manifest: bool = True,
    salvage: bool = False,
    rate_limit: int | None = None,
    durable: bool = True,
    direct: bool = False,
    in_place: bool = False,
    target_is_zero: bool = False,
) -> Report:
    """Convert an image into another format.

    A file ``dst`` appears under its name when it is complete and on stable storage,
    and not at all otherwise: an exception, Ctrl-C or a full disk leave what was there
    as it was. (Devices, file objects and ``in_place`` are written where they stand.)
    The output's bytes depend on source and options, and on whether the file system
    shares data between the two; not on the number of threads.

    Args:
        src: An image's name or binary file object, as for `open`; or several, whose
            guest bytes follow one another (in an OVA: become a disk each).
        dst: The output's name, or a binary file object. One that seeks and can be cut
            is emptied, once the source is open, and written from its beginning; its
            position is behind the image then. Into any other, formats are written that
            stream: raw, VMDK ``subformat=streamOptimized``, OVA.
        format: The output's format: one of `FORMATS`. By default what the name's end
            tells (``.qcow2``, ``.vmdk``, ``.ova``, ``.ovf``), else
            raw; so for a file object.
        src_format: The source's format; by default its first bytes tell.
        options: Create options of the output's format; `create_options` lists them.
        compress: Compress the output's units.
        snapshot: Convert this internal snapshot, by ID or name.
        disk: The disk of an appliance (OVA): its number from 1, file name or diskId.
        backing: The output builds on this image: only what differs from it is written.
            A relative name starts at the output's directory.
        backing_format: The format of ``backing``.
        sparse: How many zeros in a row, in bytes, become a hole: at least 512. `True`
            is 4096. `False` writes every byte: the output is fully allocated.
        threads: How many threads work; by default as many as there are processors.
        progress: Called in this thread with the guest bytes done and in all, some 50
            times a second at the most, and once when all is done but for the output's
            name; an exception in it stops the conversion and comes out. `True` shows a
            bar: tqdm's, where it is installed.
        references: Which other files the source, and ``backing``, may name.
        limits: How much the image may ask for: other bounds than those of `LIMITS`, by name.
        ignore_content_id: Take a parent that was changed since its child was made.
        reflink: Whether stored data share their blocks with the source: where it is
            possible, ``always`` (or fail), ``never``.
        offload: Let the kernel copy what cannot be shared, zeros and all.
        recompress: Compress anew what could be taken compressed as it is.
        verify: Open and read the output again when all of it is on the disk, and compare it
            with the source, before it gets its name. A file object cannot be verified.
        digest: Compute digests of the guest's bytes, as they are carried, and of each file
            that is written, which is read again for that: `Report.digests`.
        verify_manifest: Hold an appliance against its manifest first.
        salvage: Replace what cannot be read by zeros; `Report.salvaged` tells what.
        rate_limit: Bytes written per second, at the most.
        durable: Flush the output to the disk before it gets its name.
        direct: Read and write past the page cache.
        in_place: Write into the file or device ``dst``, which is there and large
            enough (``qemu-img convert -n``).
        target_is_zero: With ``in_place``: it reads as zeros now.

    Raises:
        CorruptError, UnsupportedError, LimitError: The source is not what it should be.
        RefusedError: A file is named that may not be, or ``dst`` is one of the source's.
        InvalidError: Arguments that make no sense; also a `ValueError`.
        IoError: The system refused or failed; also an `OSError`.
        KeyboardInterrupt: Ctrl-C, within a tenth of a second (at the hardest compression
            levels it may take longer); a ``dst`` of that name is as it was (or, in the
            moment of its renaming, complete).
        Exception: What a file object or ``progress`` raised, unchanged.
    """
    sources = [src] if isinstance(src, str | bytes | os.PathLike) else src
    if not isinstance(sources, Sequence):
        sources = [sources]
    if not sources:
        raise InvalidError("there is no image to convert")
    how = opening(
        src_format,
        references=references,
        limits=limits,
        snapshot=snapshot,
        disk=disk,
        ignore_content_id=ignore_content_id,
        direct=direct,
    )
    if any(source is dst for source in sources) and not isinstance(dst, str | bytes | os.PathLike):
        raise RefusedError("the output is one of the source's own files")
    if backing_format is not None and backing is None:
        raise InvalidError("backing_format without backing")
    if target_is_zero and not in_place:
        raise InvalidError("target_is_zero speaks of what is there already: in_place=True")
    if rate_limit == 0:
        raise InvalidError("rate_limit must be at least 1")
    if in_place and not isinstance(dst, str | bytes | os.PathLike):
        raise InvalidError("in_place=True needs a name: a file object is written as it stands")
    conversion: Conversion = {
        "format": format_of(dst, format),
        "options": pairs(options),
        "compress": compress,
        "backing": None if backing is None else name_only(backing),
        "backing_format": backing_format,
        "references": references,
        "limits": bounds(limits),
        "sparse": _sparse(sparse),
        "threads": None if threads is None else _threads(threads),
        "rate_limit": None if rate_limit is None else amount("rate_limit", rate_limit),
        "salvage": salvage,
        "reflink": reflink,
        "offload": offload,
        "recompress": recompress,
        "verify": verify,
        "digest": digest,
        "verify_manifest": verify_manifest,
        "durable": durable,
        "direct": direct,
        "in_place": in_place,
        "target_is_zero": target_is_zero,
    }
    with shown(progress, "convert") as callback:
        guest, stored, shared, passed, salvaged, warnings, verified, digested = _native.convert(
            [(file_or_name(source), how) for source in sources],
            file_or_name(dst),
            conversion,
            callback,
        )
    lost = tuple(Salvaged(*stretch) for stretch in salvaged)
    digests = None
    if digested is not None:
        algorithm, of_guest, files = digested
        digests = Digests(algorithm, of_guest, tuple(FileDigest(*file) for file in files))
    return Report(guest, stored, shared, passed, lost, tuple(warnings), verified, digests)


def _sparse(sparse: bool | int) -> int | None:
    if sparse is False:
        return None
    return _BLOCK if sparse is True else amount("sparse", sparse)


def _threads(threads: int) -> int:
    if amount("threads", threads) == 0:
        raise InvalidError("threads must be at least 1")
    return threads


@overload
def info(
    file: Path | BinaryReader,
    format: str | None = None,
    *,
    disk: str | int | None = None,
    references: References = "same-dir",
    limits: Mapping[str, int] | None = None,
    chain: Literal[False] = False,
) -> Info: ...
@overload
def info(
    file: Path | BinaryReader,
    format: str | None = None,
    *,
    disk: str | int | None = None,
    references: References = "same-dir",
    limits: Mapping[str, int] | None = None,
    chain: Literal[True],
) -> list[Info]: ...
@overload
def info(
    file: Path | BinaryReader,
    format: str | None = None,
    *,
    disk: str | int | None = None,
    references: References = "same-dir",
    limits: Mapping[str, int] | None = None,
    chain: bool,
) -> Info | list[Info]: ...
def info(
    file: Path | BinaryReader,
    format: str | None = None,
    *,
    disk: str | int | None = None,
    references: References = "same-dir",
    limits: Mapping[str, int] | None = None,
    chain: bool = False,
) -> Info | list[Info]:
    """What an image is. No backing file and no data file is opened for it.

    Args:
        file: Its name or a binary file object, as for `open`.
        format: Its format; by default its first bytes tell.
        disk: The disk of an appliance.
        references: Which files of a split image, in its own directory, are looked at
            (``none``: not any); with ``chain``: which backing files.
        limits: How much the image may ask for: other bounds than those of `LIMITS`, by name.
        chain: Tell of all layers, the image itself first.

    Raises:
        Error: As `open`.
    """
    native = _native.Image.open(
        file_or_name(file),
        opening(format, disk=disk, references=references, limits=limits),
        True,
        chain,
    )
    with Image(native) as image:
        if not chain:
            return image.info()
        return [image.info(layer) for layer in range(image.layers)]


def map(
    file: Path | BinaryReader,
    format: str | None = None,
    *,
    start: int = 0,
    length: int | None = None,
    snapshot: str | None = None,
    disk: str | int | None = None,
    references: References = "same-dir",
    limits: Mapping[str, int] | None = None,
    ignore_content_id: bool = False,
) -> list[Extent]:
    """Which guest bytes of an image are where.

    For large images, `Image.extents` gives them one by one.

    Args:
        file: Its name or a binary file object, as for `open`, like the rest.
        format: Its format; by default its first bytes tell.
        start: First guest offset.
        length: Bytes; by default to the end of the disk.
        snapshot: Look at this internal snapshot.
        disk: The disk of an appliance.
        references: Which other files the image may name.
        limits: How much the image may ask for: other bounds than those of `LIMITS`, by name.
        ignore_content_id: Take a parent that was changed since its child was made.

    Raises:
        Error: As `open` and `Image.extents`.
    """
    end = None if length is None else amount("start", start) + amount("length", length)
    with open(
        file,
        format,
        snapshot=snapshot,
        disk=disk,
        references=references,
        limits=limits,
        ignore_content_id=ignore_content_id,
    ) as image:
        return list(image.extents(start, end))


def create(
    path: Path,
    size: int | str | None = None,
    *,
    format: str | None = None,
    options: Mapping[str, OptionValue] | None = None,
    backing: Path | None = None,
    backing_format: str | None = None,
    references: References = "same-dir",
    limits: Mapping[str, int] | None = None,
    progress: Progress = None,
) -> Created:
    """Create an empty image. A file that was there is replaced once it is complete.

    Args:
        path: Its name.
        size: Guest bytes, or text like ``10G``; by default those of ``backing``.
        format: Its format; by default what the name's end tells, else raw.
        options: Create options; `create_options` lists them.
        backing: The image it builds on. A relative name starts at ``path``'s directory.
        backing_format: The format of ``backing``, which must be said.
        references: Which files ``backing`` may name in its turn.
        limits: How much the image may ask for: other bounds than those of `LIMITS`, by name.
        progress: As for `convert`; there is something to see where space is preallocated.

    Raises:
        InvalidError: Options that the format does not take, no size; also a `ValueError`.
        IoError: The system refused or failed; also an `OSError`.
        Error: As `open`, of ``backing``.
    """
    if backing_format is not None and backing is None:
        raise InvalidError("backing_format without backing")
    if size is not None and "size" in (options or {}):
        raise InvalidError("the size is given twice")
    name, chosen = name_only(path), format_of(path, format)
    given = pairs(options)
    if isinstance(size, str):
        given.append(("size", size))
    with shown(progress, "create") as callback:
        created, in_effect = _native.create(
            name,
            chosen,
            None if size is None or isinstance(size, str) else amount("size", size),
            given,
            None if backing is None else (name_only(backing), backing_format),
            references,
            bounds(limits),
            callback,
        )
    return Created(name, chosen, created, dict(in_effect))


def compare(
    a: Path | BinaryReader | Image,
    b: Path | BinaryReader | Image,
    *,
    a_format: str | None = None,
    b_format: str | None = None,
    strict: bool = False,
    threads: int | None = None,
    progress: Progress = None,
    references: References = "same-dir",
    limits: Mapping[str, int] | None = None,
    ignore_content_id: bool = False,
) -> Comparison:
    """Whether two images show the guest the same bytes.

    Args:
        a: An image's name, a binary file object, or an open `Image`.
        b: The other.
        a_format: The format of ``a``; by default its first bytes tell.
        b_format: The format of ``b``.
        strict: Sizes must be equal, too, and bytes held in both or in neither.
        threads: How many threads work; by default as many as there are processors.
        progress: As for `convert`.
        references: Which other files the images may name.
        limits: How much the image may ask for: other bounds than those of `LIMITS`, by name.
        ignore_content_id: Take a parent that was changed since its child was made.

    Raises:
        Error: As `open` and `Image.read_at`.
        KeyboardInterrupt: Ctrl-C, within a tenth of a second.
    """

    @contextmanager
    def opened(image: Any, format: str | None) -> Iterator[Image]:
        if isinstance(image, Image):
            yield image
        else:
            with open(
                image,
                format,
                references=references,
                limits=limits,
                ignore_content_id=ignore_content_id,
            ) as fresh:
                yield fresh

    with (
        opened(a, a_format) as first,
        opened(b, b_format) as second,
        shown(progress, "compare") as callback,
    ):
        result, offset = _native.compare(
            first._native,
            second._native,
            strict,
            None if threads is None else _threads(threads),
            callback,
        )
        return Comparison(result, offset, first.size != second.size)


def measure(
    file: Path | BinaryReader | None = None,
    *,
    size: int | None = None,
    format: str = "raw",
    options: Mapping[str, OptionValue] | None = None,
    src_format: str | None = None,
    snapshot: str | None = None,
    disk: str | int | None = None,
    references: References = "same-dir",
    limits: Mapping[str, int] | None = None,
    ignore_content_id: bool = False,
) -> Measure:
    """How much space a new image would take. No data is read.

    Args:
        file: The image to be converted, as for `open`; or
        size: the guest bytes of an empty disk.
        format: The new image's format: raw or qcow2.
        options: Its create options.
        src_format: The format of ``file``; by default its first bytes tell.
        snapshot: Measure this internal snapshot.
        disk: The disk of an appliance.
        references: Which other files the image may name.
        limits: How much the image may ask for: other bounds than those of `LIMITS`, by name.
        ignore_content_id: Take a parent that was changed since its child was made.

    Raises:
        UnsupportedError: That format's size cannot be told beforehand.
        InvalidError: Both of ``file`` and ``size``, or neither; bad options.
        Error: As `open`.
    """
    if (file is None) == (size is None):
        raise InvalidError("either an image or a size is to be measured")
    if file is None:
        facts = _native.measure_size(format, pairs(options), amount("size", cast(int, size)))
        return Measure._from_json(json.loads(facts))
    with open(
        file,
        src_format,
        snapshot=snapshot,
        disk=disk,
        references=references,
        limits=limits,
        ignore_content_id=ignore_content_id,
    ) as image:
        return image.measure(format, options)


def check(
    file: Path | BinaryReader,
    format: str | None = None,
    *,
    disk: str | int | None = None,
    references: References = "same-dir",
    limits: Mapping[str, int] | None = None,
) -> CheckReport:
    """Whether an image is consistent in itself. Its backing files are not opened.

    Args:
        file: Its name or a binary file object, as for `open`.
        format: Its format; by default its first bytes tell.
        disk: The disk of an appliance.
        references: Which files of a split image are looked at.
        limits: How much the image may ask for: other bounds than those of `LIMITS`, by name.

    Raises:
        UnsupportedError: The format has nothing to check (raw).
        Error: It cannot be opened, or is too damaged to be checked.
    """
    native = _native.Image.open(
        file_or_name(file),
        opening(format, disk=disk, references=references, limits=limits),
        True,
        False,
    )
    with Image(native) as image:
        return image.check()


def detect(file: Path | BinaryReader | bytes | bytearray | memoryview) -> Detection:
    """The format of a file, or of bytes, by what they begin with.

    Whatever the bytes, there is an answer: ``raw`` is what nothing else matched. A guest
    can write any header into its raw disk, so this tells what a file *claims* to be.

    Args:
        file: A file's name (`str` or path-like), the bytes themselves, or a binary file
            object that seeks, whose position is undefined afterwards.

    Raises:
        IoError: There is no such file, or it cannot be read; also an `OSError`.
    """
    if isinstance(file, bytes | bytearray | memoryview):
        return Detection(None, _native.detect(io.BytesIO(file)))
    given = file_or_name(file)
    name = given if isinstance(given, str) else getattr(given, "name", None)
    return Detection(name if isinstance(name, str) else None, _native.detect(given))


def inspect(
    file: Path | BinaryReader | bytes | bytearray | memoryview,
    *,
    format: str | None = None,
    max_size: int | None = None,
    max_virtual_size: int | None = None,
    max_ratio: int | None = None,
    allow: Collection[str] = (),
    limits: Mapping[str, int] | None = None,
) -> Inspection:
    """Whether an untrusted image is safe to let in.

    One file is opened, a bounded amount of it is read, and nothing that it names is
    followed. Whatever the bytes, there is an answer.

    Args:
        file: A file's name (`str` or path-like), the bytes themselves, or a binary file
            object; of one that does not seek, all is read.
        format: The format that it is said to be: another is refused. Besides `FORMATS`,
            ``gpt`` and ``mbr`` (raw, with a partition table).
        max_size: Refuse a larger file, in bytes.
        max_virtual_size: Refuse a larger disk, in bytes, or one of unknown size.
        max_ratio: Refuse a disk that is more than so many times as large as its file.
        allow: Codes of findings that are put up with: they become warnings.
        limits: How much the image may ask for: other bounds than those of `LIMITS`, by name.

    Raises:
        InvalidError: No such format or code; also a `ValueError`.
        IoError: There is no such file, or it cannot be read; also an `OSError`.
        Exception: What a file object raised, unchanged.
    """
    if isinstance(file, bytes | bytearray | memoryview):
        given: object = bytes(file)
    else:
        given = file_or_name(file)
    sizes = {"max_size": max_size, "max_virtual_size": max_virtual_size, "max_ratio": max_ratio}
    most = [None if bound is None else amount(what, bound) for what, bound in sizes.items()]
    if isinstance(allow, str):
        raise TypeError("allow wants a list of codes, not one")
    found = _native.inspect(given, format, (most[0], most[1], most[2]), list(allow), bounds(limits))
    return Inspection._from_json(json.loads(found))
