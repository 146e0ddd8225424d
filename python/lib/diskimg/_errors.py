"""What is raised.

::

    Exception
    └─ Error                     whatever is wrong with images
       ├─ CorruptError           the image contradicts itself or its format
       ├─ UnsupportedError       the image is right, but asks for what is not implemented
       ├─ RefusedError           a policy said no: a file that the image names, …
       ├─ LimitError             a stated limit would be exceeded
       ├─ InvalidError           also a ValueError: impossible arguments
       └─ IoError                also an OSError: the system refused or failed
          └─ NotFoundError, …    also the FileNotFoundError, PermissionError … it is
"""

from __future__ import annotations


class Error(Exception):
    """Whatever is wrong with an image, or with what was asked of it.

    ``str()`` of it is one line for people: file, structure, offset, what was
    found, what to do.
    """

    path: str | None = None
    """The file concerned, as it was named."""
    structure: str | None = None
    """The image's structure concerned ("L2 table")."""
    offset: int | None = None
    """The host offset concerned: bytes from the start of the file."""


class CorruptError(Error):
    """The image contradicts itself, its specification or its own length."""


class UnsupportedError(Error):
    """The image, or the request, is right but asks for what is not implemented."""


class RefusedError(Error):
    """A policy said no.

    A file that the image names is not to be opened (``references``), or the output
    would overwrite one of the source's own files.
    """


class LimitError(Error):
    """The image asks for more than a stated limit."""

    limit: str | None = None
    """The name of the limit, where it is one that ``limits=`` can raise."""


class InvalidError(Error, ValueError):
    """Something impossible was asked for: a bad option, a range behind the end."""


class IoError(Error, OSError):
    """The operating system refused or failed: ``errno`` and ``filename`` say what.

    What Python has an exception of its own for (`FileNotFoundError`,
    `PermissionError`, …) is also that.
    """

    message: str = ""

    def __str__(self) -> str:
        return self.message


class NotFoundError(IoError, FileNotFoundError):
    """A file that is not there."""


class ExistsError(IoError, FileExistsError):
    """A file that is there already."""


class AccessError(IoError, PermissionError):
    """A file that may not be read, or written."""


class DirectoryError(IoError, IsADirectoryError):
    """A directory where a file is needed."""


class NoDirectoryError(IoError, NotADirectoryError):
    """A file where a directory is needed."""


class PipeError(IoError, BrokenPipeError):
    """A pipe whose reader has gone."""


_SPECIAL: dict[type[OSError], type[IoError]] = {
    FileNotFoundError: NotFoundError,
    FileExistsError: ExistsError,
    PermissionError: AccessError,
    IsADirectoryError: DirectoryError,
    NotADirectoryError: NoDirectoryError,
    BrokenPipeError: PipeError,
}


def io_error(number: int, message: str, path: str | None) -> IoError:
    """The exception for the system's error ``number``."""
    kind = _SPECIAL.get(type(OSError(number, "")), IoError)
    error = kind(number, message, path)
    error.message = message
    error.path = path
    return error
