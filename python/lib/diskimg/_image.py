"""An open image."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex

from diskimg import _native
from diskimg._errors import Error, InvalidError, UnsupportedError
from diskimg._file import ImageFile
from diskimg._partitions import FileSystem, PartitionTable
from diskimg._progress import Progress, progress_callback
from diskimg._results import (
    Bitmap,
    CheckReport,
    Extent,
    Finding,
    Info,
    Measure,
    Preflight,
    Snapshot,
)
from diskimg._types import amount, file_or_name, open_args, option_pairs
from diskimg._url import Url
from diskimg._words import choice
from diskimg.types import BinaryReader, Consumer, ExternalFiles, Format, Node, OptionValue, Path

if TYPE_CHECKING:
    from diskimg.iso import Entry

_EXTENTS = 4096
"""Maximum number of extents requested from the native module at a time."""

_CHUNK = 256 << 10
"""Bytes read into a caller's buffer at a time. The data passes through a copy; at this size the
copy stays in the CPU cache."""

_BITS = 1 << 20
"""Maximum number of bits of a bitmap that are read at a time."""

_SUMMARY_SECONDS = 2.0
"""Time after which a notebook shows an image without its map."""


def open(
    file: Path | BinaryReader | Node | Url,
    format: Format | None = None,
    *,
    snapshot: str | None = None,
    disk: str | int | None = None,
    external_files: ExternalFiles = "same-dir",
    limits: Mapping[str, int] | None = None,
    ignore_content_id: bool = False,
    possible_parents: Sequence[Path] = (),
    salvage: bool = False,
    force_share: bool = False,
    direct: bool = False,
    memory_map: bool = False,
    secrets: Mapping[str, bytes] | None = None,
) -> Image:
    """Open an image and its backing chain for reading.

    >>> Path("disk.raw").write_bytes(bytes(510) + b"\\x55\\xaa")
    512
    >>> with diskimg.open("disk.raw", "raw") as image:
    ...     image.size, image.read_at(510, 2)
    (512, b'U\\xaa')

    Args:
        file: A file name or a binary file object. A name may refer to a block device, or end
            in ``:2`` to select the second disk of an appliance. A seekable file object is read
            from its beginning, and its position is undefined afterwards; any other is read from
            its current position to its end and buffered in a temporary file. Files that an image
            in a file object refers to are not opened. A mapping describes an image by options,
            as QEMU's ``json:`` names do: ``{"driver": "raw", "offset": 1 << 20, "file":
            {"filename": "disk.raw"}}``, or with ``"backing": None`` without its backing file. A
            `Url` is an image on a server.
        format: One of `FORMATS`. By default the format is detected from the first bytes, which a
            guest may have written: pass it whenever you know it.
        snapshot: Show this internal snapshot (ID or name) instead of the active disk.
        disk: The disk of an appliance (OVA): its number (from 1), file name or diskId.
        external_files: Which other files the image may refer to and have opened.
        limits: Resource limits that differ from the defaults in `LIMITS`, by name.
        ignore_content_id: Accept a parent that has changed since its child was created, and a
            VMDK that has a parent's content ID but not its name.
        possible_parents: Files among which the parents of VirtualBox's differencing images (VDI,
            VMDK) are searched, which record a UUID instead of a name. The image's directory is
            searched after them.
        salvage: Open a damaged or truncated streamOptimized VMDK, also in an appliance, and find
            the data that is left. Reading what may be missing raises `CorruptError`.
        force_share: Do not lock the image's files, even if another process is writing to them.
        direct: Bypass the page cache (O_DIRECT).
        memory_map: Map the image's files into memory, so that `Image.cluster` returns stored
            bytes without copying them. *The caller must guarantee* that as long as the image or
            one of its memoryviews exists, no process truncates one of its files (which would
            kill this process with SIGBUS) or changes its bytes. Replacing a file with a rename
            is safe.
        secrets: Passwords and keys, by the IDs with which a description of the image refers to
            them (``"encrypt.key-secret": "ID"``).

    Raises:
        IoError: A file cannot be opened; also an `OSError`.
        CorruptError: The file is not a valid image of this format.
        UnsupportedError: The image uses a feature that is not supported.
        RefusedError: The image refers to files that ``external_files`` does not allow.
        LimitError: The image exceeds a limit.
        InvalidError: The arguments are invalid; also a `ValueError`.
    """
    how = open_args(
        format,
        external_files=external_files,
        limits=limits,
        snapshot=snapshot,
        disk=disk,
        ignore_content_id=ignore_content_id,
        possible_parents=possible_parents,
        salvage=salvage,
        force_share=force_share,
        direct=direct,
        memory_map=memory_map,
        secrets=secrets,
    )
    return Image(_native.Image.open(file_or_name(file), how, False, False))


class Image:
    """An open disk image with its backing chain.

    >>> diskimg.create("disk.qcow2", "1G").size
    1073741824
    >>> with diskimg.open("disk.qcow2") as image:
    ...     print(image)
    ...     print(image.layers, image.snapshots, [extent.zero for extent in image.extents()])
    <diskimg.Image name='disk.qcow2' format='qcow2' size=1073741824>
    1 () [True]

    Returned by `open`. Use it in a ``with`` statement or call `close`; after that, its methods
    raise `ValueError`. Any number of threads may use it at once.
    """

    __slots__ = ("__weakref__", "_native")

    def __init__(self, native: _native.Image, /) -> None:
        self._native = native

    def __repr__(self) -> str:
        if self.closed:
            return "<closed diskimg.Image>"
        return f"<diskimg.Image name={self.name!r} format={self.format!r} size={self.size}>"

    def _repr_html_(self) -> str:
        """Return what notebooks show: a strip of the disk and a line of facts, in a few kilobytes.

        It has no script. If the map of a very large image takes too long or cannot be read, the
        text of `repr` is shown.
        """
        try:
            summary = _native.map_summary(self._native, _SUMMARY_SECONDS)
        except (Error, OSError, ValueError):
            summary = None
        return summary or f"<code>{html.escape(repr(self))}</code>"

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
        """Close the image's files as soon as the reads in progress have ended.

        Memoryviews that `cluster` returned stay valid and keep their file open.
        """
        self._native.close()

    @property
    def closed(self) -> bool:
        """Whether the image was closed."""
        return self._native.closed

    @property
    def name(self) -> str:
        """The name that the image was opened with."""
        return self._native.name

    @property
    def format(self) -> Format:
        """The image's format: one of `FORMATS`."""
        return self._native.format

    @property
    def size(self) -> int:
        """Size of the virtual disk in bytes."""
        return self._native.size

    @property
    def cluster_size(self) -> int:
        """Size in bytes of what `cluster` returns: the format's cluster size, 64 KiB for raw."""
        return self._native.cluster_size

    @property
    def layers(self) -> int:
        """Number of images in the backing chain, this one included."""
        return self._native.layers

    @property
    def backing(self) -> str | None:
        """The backing file's name as recorded in the image."""
        return self.info().backing_filename

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        """Internal snapshots. Pass ``snapshot=`` to `open` to read one."""
        return self.info().snapshots

    @property
    def warnings(self) -> tuple[str, ...]:
        """Damage found so far, in any layer, that does not prevent reading."""
        return tuple(self._native.warnings)

    def info(self, layer: int = 0) -> Info:
        """Return information about a layer: 0 is the image, 1 its backing file, and so on.

        Raises:
            IndexError: The chain has no such layer.
            IoError: A file's size cannot be determined.
        """
        return Info._from_json(json.loads(self._native.info(amount("layer", layer))))

    def preflight(self, consumer: Consumer) -> Preflight:
        """Check what a cloud or hypervisor would reject of the image; see `preflight`.

        Raises:
            InvalidError: The consumer is not known; also a `ValueError`.
            IoError: The image cannot be read; also an `OSError`.
        """
        word = choice("Consumer", "consumer", consumer)
        return Preflight._from_json(json.loads(self._native.preflight(word)))

    def extents(self, start: int = 0, end: int | None = None) -> Iterator[Extent]:
        """Iterate over the extents of a guest range in order; adjacent like extents are merged.

        The image's tables are read piece by piece during the iteration.

        Args:
            start: First guest offset.
            end: Guest offset past the last byte; by default, and at most, the end of the disk.

        Raises:
            Error: A table cannot be read or is inconsistent.
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

    def bitmaps(self) -> tuple[Bitmap, ...]:
        """List the dirty bitmaps, not those of backing files.

        Raises:
            CorruptError: The list is damaged.
        """
        bitmaps = self._native.bitmaps()
        return tuple(map(Bitmap._from_json, json.loads(bitmaps))) if bitmaps else ()

    def dirty_ranges(
        self, bitmap: str, start: int = 0, end: int | None = None
    ) -> Iterator[tuple[int, int]]:
        """Iterate over what a dirty bitmap has recorded, in ascending order.

        >>> diskimg.create("disk.qcow2", "1G").size
        1073741824
        >>> diskimg.add_bitmap("disk.qcow2", "since-monday")
        >>> with diskimg.open("disk.qcow2", "qcow2") as image:
        ...     sum(end - start for start, end in image.dirty_ranges("since-monday"))
        0

        Args:
            bitmap: The name of the bitmap.
            start: First guest offset.
            end: Guest offset past the last byte; by default, and at most, the end of the disk.

        Returns:
            Pairs of guest offsets: the first byte, and past the last byte.

        Raises:
            InvalidError: There is no such bitmap; also a `ValueError`.
            UnsupportedError: The bitmap is inconsistent.
            Error: The bitmap cannot be read or is damaged.
        """
        at = amount("start", start)
        end = self.size if end is None else min(amount("end", end), self.size)
        sizes = [found.granularity for found in self.bitmaps() if found.name == bitmap]
        if not sizes:
            raise InvalidError(f"{self.name}: Dirty bitmap '{bitmap}' not found")
        return self._dirty_ranges(bitmap, at, end, sizes[0] * _BITS)

    def _dirty_ranges(
        self, bitmap: str, at: int, end: int, window: int
    ) -> Iterator[tuple[int, int]]:
        last = (at, at)
        while at < end:
            next_at = min((at // window + 1) * window, end)
            for first, past in self._native.dirty_ranges(bitmap, at, next_at):
                if last[1] == first:
                    last = (last[0], past)
                else:
                    if last[0] < last[1]:
                        yield last
                    last = (first, past)
            at = next_at
        if last[0] < last[1]:
            yield last

    def read_at(self, offset: int, size: int) -> bytes:
        """Read exactly ``size`` guest bytes at ``offset``.

        Raises:
            InvalidError: The range extends beyond the end of the disk; also a `ValueError`.
            Error: The image cannot be read there.
        """
        return self._native.read_at(amount("offset", offset), amount("size", size))

    def readinto_at(self, offset: int, buffer: Any) -> int:
        """Fill a writable, contiguous ``buffer`` with the guest bytes at ``offset``.

        Returns:
            The buffer's size in bytes.

        Raises:
            InvalidError: The range extends beyond the end of the disk; also a `ValueError`.
            TypeError, BufferError: ``buffer`` is not a writable, contiguous buffer.
            Error: The image cannot be read there. The buffer may have been partly filled.
        """
        offset = amount("offset", offset)
        with memoryview(buffer) as whole, whole.cast("B") as view:
            if view.readonly:
                raise TypeError(f"a {type(buffer).__name__} cannot be written")
            size = len(view)
            if offset + size > self.size:
                # Raises before anything is written to the buffer.
                self._native.read_at(offset, size)
            for at in range(0, size, _CHUNK):
                with view[at : at + _CHUNK] as part:
                    self._native.readinto_at(offset + at, part)
            return size

    def cluster(self, offset: SupportsIndex) -> memoryview:
        """Return the cluster that contains guest ``offset`` as a read-only memoryview.

        The view starts at a multiple of `cluster_size` and has `cluster_size` bytes, or fewer at
        the end of the disk. If the image was opened with ``memory_map=True`` and the cluster is
        stored verbatim and contiguously, the view refers to the mapped file; otherwise it refers
        to a copy. It stays valid after `close`.

        Raises:
            IndexError: The offset is past the end of the disk.
            ValueError: The offset is negative or does not fit into 63 bits.
            Error: The image cannot be read there.
        """
        return self._native.cluster(amount("offset", offset))

    def partitions(self, *, sector_size: int | None = None) -> PartitionTable | None:
        """Return the disk's partition table: GPT, MBR or Apple partition map.

        A partition that cannot be read has no contents, with a `RuntimeWarning`.

        Args:
            sector_size: Sector size of the disk, 512 or 4096. By default, the one that a GPT
                counts by, or 512.

        Returns:
            The table, or `None` if the disk has none. Then, `file_system` may know what it is.

        Raises:
            InvalidError: The sector size is neither 512 nor 4096; also a `ValueError`.
            Error: The image cannot be read there.
        """
        text = self._native.partitions(sector_size)
        return None if text is None else PartitionTable._from_json(json.loads(text))

    def file_system(self, partition: int = 0) -> FileSystem | None:
        """Recognize what a partition, or with 0 the whole disk, contains.

        Raises:
            InvalidError: There is no such partition; also a `ValueError`.
            Error: The image cannot be read there.
        """
        text = self._native.file_system(amount("partition", partition))
        return None if text is None else FileSystem(**json.loads(text))

    def listdir(self, path: str | bytes = "/", *, partition: int = 0) -> list[Entry]:
        """List a directory of a FAT, ext2, ext3, ext4, ISO 9660 or UDF file system.

        Nothing is mounted. FAT records local times without a time zone; they are taken as UTC.

        Args:
            path: The directory. A symbolic link to a directory is followed.
            partition: Number of the partition; 0 is the whole disk.

        Raises:
            InvalidError: There is no such partition or directory; also a `ValueError`.
            UnsupportedError: No file system is recognized, or its files cannot be listed.
            CorruptError: The file system is damaged.
            LimitError: The directory exceeds a limit.
            Error: The image cannot be read there.
        """
        from diskimg.iso._results import Entry, encode_path

        entries = self._native.listdir(amount("partition", partition), encode_path(path))
        return [Entry._from_native(fields) for fields in entries]

    def as_file(self) -> ImageFile:
        """Return the virtual disk as a seekable raw binary file object, at position 0."""
        return ImageFile(self)

    def check(self) -> CheckReport:
        """Check the consistency of the image's metadata. Its backing files are not checked.

        If the image records digests of its contents, as forensic images do, all that they cover is
        read and compared with them.

        Raises:
            UnsupportedError: The format has no metadata to check.
            Error: A table cannot be read.
        """
        checked = self._native.check()
        if checked is None:
            error = UnsupportedError(f"{self.name}: {self.format} images have no metadata to check")
            error.path = self.name
            raise error
        findings, counts = checked
        return CheckReport._from_json(
            json.loads(counts),
            filename=self.name,
            format=self.format,
            findings=tuple(Finding(*finding) for finding in findings),
        )

    def map_html(self, *, check: bool = True, progress: Progress = None) -> str:
        """Return a page with a map of the image: a single HTML file, at most a few megabytes.

        The page shows guest offsets against host offsets, the layers of the chain, partitions,
        fragmentation and findings. It loads nothing from the network, and names from the image
        are escaped. Write it as UTF-8.

        Args:
            check: Also check the consistency of the image's metadata, as `check` does.
            progress: As for `convert`. Backing files count as often as their tables are read.

        Raises:
            Error: A table cannot be read or is inconsistent.
        """
        with progress_callback(progress, "map") as callback:
            return _native.map_html(self._native, check, callback)

    def measure(
        self, format: Format = "raw", options: Mapping[str, OptionValue] | None = None
    ) -> Measure:
        """Calculate the space that the image would take in ``format``. No guest data is read.

        Raises:
            UnsupportedError: The size of an image in that format cannot be calculated.
            InvalidError: The format does not have one of the options.
        """
        chosen = choice("Format", "format", format)
        pairs = option_pairs(options, chosen)
        return Measure._from_json(json.loads(self._native.measure(chosen, pairs)))
