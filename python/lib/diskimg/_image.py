"""An open image."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, NoReturn, SupportsIndex

from diskimg import _native
from diskimg._errors import UnsupportedError
from diskimg._file import ImageFile
from diskimg._results import CheckReport, Extent, Finding, Info, Measure, Snapshot
from diskimg._types import (
    BinaryReader,
    OptionValue,
    Path,
    References,
    amount,
    file_or_name,
    opening,
    pairs,
)

_EXTENTS = 4096
"""Extents that are asked for at a time."""

_CHUNK = 256 << 10
"""Bytes read at a time into memory of the caller's: by way of a copy, which is
still in the processor's cache then."""


def open(
    file: Path | BinaryReader,
    format: str | None = None,
    *,
    snapshot: str | None = None,
    disk: str | int | None = None,
    references: References = "same-dir",
    limits: Mapping[str, int] | None = None,
    ignore_content_id: bool = False,
    direct: bool = False,
    memory_map: bool = False,
) -> Image:
    """Open an image and all that it builds on, for reading.

    Args:
        file: Its name, or a binary file object. A name may be a block device, or end
            in ``:2`` for the second disk of an appliance. A file object is read from
            its beginning if it seeks (its position is then undefined), else from
            where it is to its end, by way of a temporary file; what *it* names is
            not opened.
        format: One of `FORMATS`. By default the first bytes tell, which a guest may
            have written: say it where you know it.
        snapshot: Show this internal snapshot, by ID or name, instead of the disk.
        disk: The disk of an appliance (OVA): its number from 1, file name or diskId.
        references: Which other files the image may name and have opened.
        limits: How much the image may ask for: other bounds than those of `LIMITS`, by name.
        ignore_content_id: Take a parent that was changed since its child was made.
        direct: Read past the page cache.
        memory_map: Map the image's files into memory, so that `Image.cluster` lends
            stored bytes without copying them. *The promise is yours:* as long as the
            image or one of its memoryviews lives, nobody, in this process or another,
            truncates one of its files (which ends the process with SIGBUS) or changes
            its bytes. Replacing a file by a rename is harmless.

    Raises:
        IoError: A file cannot be opened; also an `OSError`.
        CorruptError, UnsupportedError: It is not an image of this format, or not one
            that is read.
        RefusedError: It names files that ``references`` does not allow.
        LimitError: It asks for too much.
        InvalidError: Arguments that make no sense; also a `ValueError`.
    """
    how = opening(
        format,
        references=references,
        limits=limits,
        snapshot=snapshot,
        disk=disk,
        ignore_content_id=ignore_content_id,
        direct=direct,
        memory_map=memory_map,
    )
    return Image(_native.Image.open(file_or_name(file), how, False, False))


class Image:
    """A disk image with all that it builds on: the guest's bytes, wherever they are.

    Made by `open`, used in a ``with`` statement or closed by `close`. Once it is
    closed, its methods raise `ValueError`. Any number of threads may use it at once.
    """

    __slots__ = ("__weakref__", "_native")

    def __init__(self, native: _native.Image, /) -> None:
        self._native = native

    def __repr__(self) -> str:
        if self.closed:
            return "<closed diskimg.Image>"
        return f"<diskimg.Image name={self.name!r} format={self.format!r} size={self.size}>"

    def __enter__(self) -> Image:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        self.close()

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("cannot pickle 'Image' object")

    def close(self) -> None:
        """Close the image's files, once what reads them now has ended.

        What `cluster` lent stays as it is, and keeps open what it lies in.
        """
        self._native.close()

    @property
    def closed(self) -> bool:
        """It was closed."""
        return self._native.closed

    @property
    def name(self) -> str:
        """The name it was opened by."""
        return self._native.name

    @property
    def format(self) -> str:
        """Its format: one of `FORMATS`."""
        return self._native.format

    @property
    def size(self) -> int:
        """Guest bytes."""
        return self._native.size

    @property
    def cluster_size(self) -> int:
        """Guest bytes that `cluster` gives: the format's unit, or 64 KiB without one."""
        return self._native.cluster_size

    @property
    def layers(self) -> int:
        """Images in the chain, this one included."""
        return self._native.layers

    @property
    def backing(self) -> str | None:
        """The backing file's name as the image holds it."""
        return self.info().backing_filename

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        """Internal snapshots. `open` shows one of them (``snapshot=``)."""
        return self.info().snapshots

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was found damaged so far, in any layer, and is made up for."""
        return tuple(self._native.warnings)

    def info(self, layer: int = 0) -> Info:
        """What a layer tells of itself: 0 is the image, 1 its backing file, …

        Raises:
            IndexError: The chain is not that deep.
            IoError: The system does not tell a file's size.
        """
        return Info._from_json(json.loads(self._native.info(amount("layer", layer))))

    def extents(self, start: int = 0, end: int | None = None) -> Iterator[Extent]:
        """Which guest bytes are where, in order; neighbours that are alike are one.

        Asked of the image piece by piece, as the iteration goes along.

        Args:
            start: First guest offset.
            end: Guest offset behind the last; by default the end of the disk, which
                it is clipped to.

        Raises:
            Error: A table cannot be read, or contradicts itself.
        """
        at = amount("start", start)
        end = self.size if end is None else min(amount("end", end), self.size)
        return self._extents(at, end)

    def _extents(self, at: int, end: int) -> Iterator[Extent]:
        while at < end:
            entries = self._native.extents(at, end, _EXTENTS)
            if not entries:
                return
            for entry in entries:
                extent = Extent(*entry)
                yield extent
            at = extent.end

    def read_at(self, offset: int, size: int) -> bytes:
        """``size`` guest bytes from ``offset``, neither more nor fewer.

        Raises:
            InvalidError: They leave the disk; also a `ValueError`.
            Error: The image cannot be read there.
        """
        return self._native.read_at(amount("offset", offset), amount("size", size))

    def readinto_at(self, offset: int, buffer: Any) -> int:
        """Fill a writable, contiguous ``buffer`` with guest bytes from ``offset``.

        Returns:
            The buffer's size in bytes.

        Raises:
            InvalidError: The bytes leave the disk; also a `ValueError`.
            TypeError, BufferError: No such buffer.
            Error: The image cannot be read there. The buffer may be filled in part.
        """
        offset = amount("offset", offset)
        with memoryview(buffer) as whole, whole.cast("B") as view:
            if view.readonly:
                raise TypeError(f"a {type(buffer).__name__} cannot be written")
            size = len(view)
            if offset + size > self.size:
                # Says so before anything is written.
                self._native.read_at(offset, size)
            for at in range(0, size, _CHUNK):
                with view[at : at + _CHUNK] as part:
                    self._native.readinto_at(offset + at, part)
            return size

    def cluster(self, offset: SupportsIndex) -> memoryview:
        """The cluster that holds guest ``offset``, as a read-only memoryview.

        `cluster_size` bytes from a multiple of that on; fewer at the end of the disk.
        Of an image that was opened with ``memory_map=True`` a cluster that is stored
        verbatim is lent where it lies; otherwise, and if it is compressed or in
        pieces, its bytes are a copy. Either way the view outlives the image's
        `close`.

        Raises:
            IndexError: The offset is behind the end of the disk.
            ValueError: It is negative, or more than any disk has.
            Error: The image cannot be read there.
        """
        return self._native.cluster(amount("offset", offset))

    def as_file(self) -> ImageFile:
        """The guest's bytes as a raw binary file object that seeks, at position 0."""
        return ImageFile(self)

    def check(self) -> CheckReport:
        """Whether the image is consistent in itself; its backing files are not looked at.

        Raises:
            UnsupportedError: The format has nothing to check.
            Error: A table cannot be read.
        """
        checked = self._native.check()
        if checked is None:
            error = UnsupportedError(
                f"{self.name}: {self.format} images have nothing that could be checked"
            )
            error.path = self.name
            raise error
        findings, counts = checked
        return CheckReport._from_json(
            json.loads(counts),
            filename=self.name,
            format=self.format,
            findings=tuple(Finding(*finding) for finding in findings),
        )

    def measure(
        self, format: str = "raw", options: Mapping[str, OptionValue] | None = None
    ) -> Measure:
        """The space that the image would take in ``format``. No data is read.

        Raises:
            UnsupportedError: That format's size cannot be told beforehand.
            InvalidError: Options that the format does not take.
        """
        return Measure._from_json(json.loads(self._native.measure(format, pairs(options))))
