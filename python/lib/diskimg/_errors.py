"""Exceptions.

::

    Exception
    └─ Error                     base class
       ├─ CorruptError           the image violates its format's specification
       ├─ UnsupportedError       the image or the request needs an unsupported feature
       ├─ RefusedError           a policy forbids it: an external file, overwriting the source
       ├─ LockedError            another process uses the image
       ├─ LimitError             a resource limit would be exceeded
       ├─ InvalidError           invalid arguments; also a ValueError
       └─ IoError                an operating system error; also an OSError
          ├─ TransientError      the storage could not be reached; try again later
          └─ NotFoundError, …    also a FileNotFoundError, PermissionError, …
"""

from __future__ import annotations


class Error(Exception):
    """Base class of all errors in images and requests.

    >>> try:
    ...     diskimg.open("missing.qcow2")
    ... except diskimg.Error as error:
    ...     print(error, error.path, error.structure, sep="; ")
    missing.qcow2: cannot open it: No such file or directory; missing.qcow2; None

    ``str()`` returns one line for people: file, structure, offset, what was found and what to
    do about it.
    """

    path: str | None = None
    """The file in which the error occurred, as it was named."""
    structure: str | None = None
    """The on-disk structure in which the error occurred ("L2 table")."""
    offset: int | None = None
    """Host offset of the error: bytes from the start of the file."""


class CorruptError(Error):
    """The image is inconsistent, truncated or violates its format's specification.

    >>> try:
    ...     diskimg.open(io.BytesIO(b"QFI\\xfb" + bytes(4)), "qcow2")
    ... except diskimg.CorruptError as error:
    ...     print(error.structure)
    header
    """


class UnsupportedError(Error):
    """The image or the request is valid but needs a feature that is not supported.

    >>> try:
    ...     diskimg.open(io.BytesIO(b"MSWIM" + bytes(4088)))
    ... except diskimg.UnsupportedError as error:
    ...     print("WIM" in str(error))
    True
    """


class RefusedError(Error):
    """A policy forbids the operation.

    >>> diskimg.create("disk.qcow2", "1G").size
    1073741824
    >>> try:
    ...     diskimg.resize("disk.qcow2", "512M")
    ... except diskimg.RefusedError as error:
    ...     print("shrink=True" in str(error))
    True

    The image refers to a file that ``external_files`` does not allow to be opened, or the output
    would overwrite one of the source's files.
    """


class LockedError(Error):
    """Another process uses the image: a virtual machine that writes to it, for example.

    >>> try:
    ...     diskimg.create("disk.qcow2", "1G").size
    ... except diskimg.LockedError:
    ...     print("a virtual machine is running")
    1073741824
    """


class LimitError(Error):
    """The image exceeds a resource limit.

    >>> diskimg.create("disk.qcow2", "1G").size
    1073741824
    >>> try:
    ...     diskimg.open("disk.qcow2", limits={"table_bytes": 1})
    ... except diskimg.LimitError as error:
    ...     print(error.limit)
    table_bytes
    """

    limit: str | None = None
    """The name of the limit if ``limits=`` can raise it."""


class InvalidError(Error, ValueError):
    """The arguments are invalid: an unknown option, a range beyond the end of the disk.

    >>> try:
    ...     diskimg.create("disk.qcow2", "1G", options={"cluster_sise": "1M"})
    ... except ValueError as error:
    ...     print(str(error)[-28:])
    did you mean 'cluster_size'?
    """


class IoError(Error, OSError):
    """An operating system error, with ``errno`` and ``filename``.

    >>> try:
    ...     diskimg.open("missing.qcow2")
    ... except OSError as error:
    ...     print(isinstance(error, FileNotFoundError), error.errno, error.filename)
    True 2 missing.qcow2

    Where Python has a more specific exception (`FileNotFoundError`, `PermissionError`, …), the
    error is also an instance of that.
    """

    message: str = ""
    """What ``str()`` returns."""

    def __str__(self) -> str:
        return self.message


class StoppedError(Error):
    """Another thread has stopped the operation; `diskimg.aio` handles this."""


class TransientError(IoError):
    """The storage could not be reached, was busy, or took too long.

    >>> issubclass(diskimg.TransientError, (diskimg.Error, OSError))
    True

    Trying again later may succeed.
    """


class NotFoundError(IoError, FileNotFoundError):
    """A file does not exist."""


class ExistsError(IoError, FileExistsError):
    """A file already exists."""


class AccessError(IoError, PermissionError):
    """A file may not be read or written."""


class DirectoryError(IoError, IsADirectoryError):
    """A path that must name a file names a directory."""


class NoDirectoryError(IoError, NotADirectoryError):
    """A path that must name a directory names a file."""


class PipeError(IoError, BrokenPipeError):
    """The reader of a pipe has closed it."""


_SPECIAL: dict[type[OSError], type[IoError]] = {
    FileNotFoundError: NotFoundError,
    FileExistsError: ExistsError,
    PermissionError: AccessError,
    IsADirectoryError: DirectoryError,
    NotADirectoryError: NoDirectoryError,
    BrokenPipeError: PipeError,
}


def io_error(number: int, message: str, path: str | None, *, transient: bool = False) -> IoError:
    """Create the exception for the error ``number`` (an errno value)."""
    special = _SPECIAL.get(type(OSError(number, "")), IoError)
    kind = TransientError if transient else special
    error = kind(number, message, path)
    error.message = message
    error.path = path
    return error
