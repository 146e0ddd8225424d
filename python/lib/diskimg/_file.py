"""File objects over data that is read by offset, such as the virtual disk."""

from __future__ import annotations

import io
import operator
import threading
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Protocol, SupportsIndex

if TYPE_CHECKING:
    from diskimg._image import Image

_CHUNK = 256 << 10
"""Bytes read into a caller's buffer at a time. The data passes through a copy; at this size the
copy stays in the CPU cache."""

_LINE = 8 << 10
"""Bytes read at a time while looking for the end of a line."""


class Positioned(Protocol):
    """Data that can be read at any offset."""

    @property
    def size(self) -> int: ...
    def read_at(self, offset: int, size: int, /) -> bytes: ...
    def readinto_at(self, offset: int, buffer: memoryview, /) -> object: ...


class PositionedFile(io.RawIOBase):
    """A read-only, seekable raw binary file."""

    _called: ClassVar[str]

    def __init__(self, source: Positioned, name: str) -> None:
        super().__init__()
        self._source = source
        self._size = source.size
        self._position = 0
        self._lock = threading.Lock()
        self.name = name
        self.mode = "rb"

    def __repr__(self) -> str:
        state = "closed " if self.closed else ""
        return f"<{state}{self._called} name={self.name!r} size={self._size}>"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")

    def _require_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file.")

    def readable(self) -> bool:
        """Return `True`."""
        self._require_open()
        return True

    def seekable(self) -> bool:
        """Return `True`."""
        self._require_open()
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        self._require_open()
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to ``offset`` bytes from the beginning, the current position or the end.

        As with `io.BytesIO`, a position past the end is allowed, and one before the beginning
        becomes the beginning.

        Raises:
            ValueError: ``offset`` is negative and relative to the beginning, or ``whence`` is
                unknown.
        """
        self._require_open()
        offset = operator.index(offset)
        with self._lock:
            if whence == io.SEEK_SET:
                if offset < 0:
                    raise ValueError(f"negative seek value {offset}")
                self._position = offset
            elif whence == io.SEEK_CUR:
                self._position = max(0, self._position + offset)
            elif whence == io.SEEK_END:
                self._position = max(0, self._size + offset)
            else:
                raise ValueError(f"invalid whence ({whence}, should be 0, 1 or 2)")
            return self._position

    def readinto(self, buffer: Any, /) -> int:
        """Read bytes from the current position into a writable buffer.

        Returns:
            The number of bytes read; 0 at the end.

        Raises:
            Error: The image cannot be read there.
        """
        self._require_open()
        view = memoryview(buffer)
        if view.readonly:
            raise TypeError(
                "readinto() argument must be read-write bytes-like object, "
                f"not {type(buffer).__name__}"
            )
        with self._lock, view.cast("B") as view:
            length = min(len(view), max(0, self._size - self._position))
            for at in range(0, length, _CHUNK):
                with view[at : min(at + _CHUNK, length)] as part:
                    self._source.readinto_at(self._position, part)
                    self._position += len(part)
            return length

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most ``size`` bytes; all remaining bytes if it is negative or `None`.

        Raises:
            Error: The image cannot be read there.
        """
        self._require_open()
        wanted = -1 if size is None else operator.index(size)
        with self._lock:
            left = max(0, self._size - self._position)
            length = left if wanted < 0 else min(wanted, left)
            data = self._source.read_at(self._position, length) if length else b""
            self._position += length
            return data

    def readline(self, size: int | None = -1, /) -> bytes:
        """Read through the next newline, but at most ``size`` bytes if it is not negative.

        Raises:
            Error: The image cannot be read there.
        """
        self._require_open()
        wanted = -1 if size is None else operator.index(size)
        line = bytearray()
        with self._lock:
            end = self._size if wanted < 0 else min(self._size, self._position + wanted)
            while self._position < end and not line.endswith(b"\n"):
                piece = self._source.read_at(self._position, min(_LINE, end - self._position))
                piece = piece[: piece.find(b"\n") + 1 or len(piece)]
                line += piece
                self._position += len(piece)
        return bytes(line)

    def readall(self) -> bytes:
        """Read all remaining bytes."""
        return self.read()

    def write(self, data: Any, /) -> NoReturn:
        """Raise `io.UnsupportedOperation`."""
        self._require_open()
        raise io.UnsupportedOperation("not writable")


class ImageFile(PositionedFile):
    """The virtual disk as a read-only, seekable binary file.

    >>> with diskimg.open(io.BytesIO(b"first line\\nsecond".ljust(512)), "raw") as image:
    ...     with image.as_file() as disk:
    ...         disk.readline(), disk.tell(), disk.seek(-1, io.SEEK_END)
    (b'first line\\n', 11, 511)

    Returned by `Image.as_file`. It is unbuffered: wrap it in `io.BufferedReader` for many small
    reads. Closing it does not close the image.
    """

    _called = "diskimg.ImageFile"

    def __init__(self, image: Image) -> None:
        super().__init__(image, image.name)
