"""Images behind URLs that `fsspec <https://filesystem-spec.readthedocs.io>`_ can open.

>>> from diskimg import fsspec
>>> with fsspec.output("memory://bucket/disk.qcow2") as file:
...     diskimg.create(file.name, "1G", format="qcow2").size
1073741824
>>> with diskimg.open(fsspec.source("memory://bucket/disk.qcow2")) as image:
...     image.size, image.format
(1073741824, 'qcow2')

Install ``diskimg[fsspec]``, and the package that fsspec needs for the protocol: ``s3fs``,
``gcsfs``, ``adlfs``, ``aiohttp`` for HTTP.

Only a URL that is passed to these functions is opened by fsspec. A name with a scheme that is
passed to another function of the package is not, and no name in an image is: opening an image
behind a URL that refers to other files is an error (`RefusedError`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from diskimg._errors import InvalidError, UnsupportedError
from diskimg._file import PositionedFile

__all__ = ["RemoteFile", "output", "source"]

_COPY = 8 << 20
"""Bytes that are uploaded at a time."""

_NO_PARTS = "the server does not send parts of a file; download it, as simplecache::URL does"


def _file_system(url: str, storage_options: Mapping[str, Any] | None) -> tuple[Any, str]:
    """Return the file system of a URL and the path in it."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        message = "fsspec is not installed: pip install 'diskimg[fsspec]'"
        raise UnsupportedError(message) from None
    if not isinstance(url, str):
        raise TypeError(f"a URL must be a str, not {type(url).__name__}")
    if "://" not in url and "::" not in url:
        raise InvalidError(f"{url!r} is not a URL; pass the name of a file itself")
    # An instance of its own: the transaction of an output must not contain other files.
    fs, path = url_to_fs(url, skip_instance_cache=True, **(storage_options or {}))
    return fs, path


def _without_secrets(url: str) -> str:
    """Return a URL for messages: without a password, and a query, which may be a signature."""
    return re.sub(r"(?<=://)[^/@]*@|\?.*", "", url)


class _Remote:
    """A file of an fsspec file system, which is read at any offset."""

    def __init__(self, fs: Any, path: str) -> None:
        self._fs = fs
        self._path = path
        # Only asynchronous file systems may be used by several threads at once.
        self._one_at_a_time = contextlib.nullcontext() if fs.async_impl else threading.Lock()
        facts = fs.info(path)
        if facts.get("type") == "directory":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if facts["size"] is None or facts.get("partial") is False:
            raise UnsupportedError(f"{_without_secrets(path)}: {_NO_PARTS}")
        self.size = int(facts["size"])

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of pairs of offset and length."""
        starts = [offset for offset, _ in ranges]
        ends = [offset + length for offset, length in ranges]
        with self._one_at_a_time:
            if len(ranges) == 1:
                found = [self._fs.cat_file(self._path, starts[0], ends[0])]
            else:
                # Concurrently, if the file system is asynchronous.
                paths = [self._path] * len(starts)
                found = self._fs.cat_ranges(paths, starts, ends, on_error="raise")
        for (_, length), answer in zip(ranges, found, strict=True):
            if isinstance(answer, BaseException):  # `on_error` of old versions
                raise answer
            if len(answer) != length:
                short = f"{len(answer)} bytes were read instead of {length}"
                reason = "has the file changed?" if len(answer) < length else _NO_PARTS
                name = _without_secrets(self._path)
                raise OSError(errno.EIO, f"{short}: {reason}", name)
        return found

    def read_at(self, offset: int, size: int, /) -> bytes:
        return self.read_ranges([(offset, size)])[0] if size else b""

    def readinto_at(self, offset: int, buffer: memoryview, /) -> None:
        buffer[:] = self.read_at(offset, len(buffer))


class RemoteFile(PositionedFile):
    """A file behind a URL as a read-only, seekable binary file. Returned by `source`.

    >>> import fsspec as files
    >>> with files.open("memory://disk.raw", "wb") as file:
    ...     file.write(bytes(1 << 20))
    1048576
    >>> diskimg.info(fsspec.source("memory://disk.raw"), format="raw").virtual_size
    1048576

    The functions of the package read it at several offsets at once. They keep up to 64 MiB of an
    image's tables in memory, so that each is fetched once, read ahead, and request guest data in
    pieces of up to 4 MiB. For other readers it is unbuffered: wrap it in `io.BufferedReader`.
    """

    _called = "diskimg.fsspec.RemoteFile"

    def __init__(self, fs: Any, path: str, name: str, /) -> None:
        self._remote = _Remote(fs, path)
        super().__init__(self._remote, name)

    @property
    def size(self) -> int:
        """Length in bytes, when the file was opened."""
        return self._remote.size

    def _read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Called by the native module, in any thread."""
        return self._remote.read_ranges(ranges)


def source(url: str, *, storage_options: Mapping[str, Any] | None = None) -> RemoteFile:
    """Open the file behind a URL, as the source of any function of the package.

    >>> import fsspec as files
    >>> with files.open("memory://notes.txt", "wb") as file:
    ...     file.write(b"not an image")
    12
    >>> diskimg.detect(fsspec.source("memory://notes.txt")).format
    'raw'

    Args:
        url: A URL of a protocol that fsspec knows, such as ``s3://bucket/disk.vmdk``. URLs may be
            chained, as in ``simplecache::https://host/disk.qcow2``.
        storage_options: Arguments for the file system, such as credentials.

    Raises:
        UnsupportedError: fsspec is not installed.
        InvalidError: ``url`` is not a URL.
        ValueError, ImportError: fsspec does not know the protocol, or a package for it is missing.
        OSError: The file does not exist or cannot be read, as the file system raises it.
    """
    fs, path = _file_system(url, storage_options)
    return RemoteFile(fs, path, _without_secrets(url))


@contextlib.contextmanager
def output(url: str, *, storage_options: Mapping[str, Any] | None = None) -> Iterator[IO[bytes]]:
    """Write a file that is uploaded to a URL when the ``with`` statement ends without an exception.

    >>> with fsspec.output("memory://disk.vmdk") as file:
    ...     import io
    ...     disk = io.BytesIO(bytes(1 << 20))
    ...     diskimg.convert(disk, file, src_format="raw", format="vmdk").guest_bytes
    1048576
    >>> diskimg.info(fsspec.source("memory://disk.vmdk")).format
    'vmdk'

    The file is a temporary one on this host, which can have any format. Nothing is visible behind
    the URL before the upload has ended, and nothing after an error, as far as the file system has
    fsspec's transactions: local files, memory, and object stores do.

    Args:
        url: A URL of a protocol that fsspec can write to.
        storage_options: Arguments for the file system, such as credentials.

    Yields:
        A binary file, for ``dst`` of `diskimg.convert` or as ``file.name``.

    Raises:
        UnsupportedError: fsspec is not installed.
        InvalidError: ``url`` is not a URL.
        Exception: What the file system raises.
    """
    fs, path = _file_system(url, storage_options)
    with tempfile.TemporaryDirectory(prefix="diskimg-") as folder:
        suffix = os.path.splitext(path)[1]
        name = os.path.join(folder, f"image{suffix if suffix.isascii() else ''}")
        with open(name, "w+b") as file:
            yield file
        # Functions that got the name have replaced the file.
        with open(name, "rb") as done, fs.transaction, fs.open(path, "wb") as remote:
            shutil.copyfileobj(done, remote, _COPY)
