"""An open ISO image."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import ClassVar, Literal, NoReturn, SupportsIndex, TypedDict

from diskimg import _native
from diskimg._errors import Error, LimitError
from diskimg._file import PositionedFile
from diskimg._progress import Progress, shown
from diskimg._types import (
    BinaryReader,
    Path,
    References,
    amount,
    file_or_name,
    name_only,
    opening,
)
from diskimg.iso._results import (
    Boot,
    Entry,
    Extracted,
    Failure,
    FileExtent,
    Finding,
    Info,
    Session,
    Shown,
    encoded,
)

_ENTRIES = 1024
"""Entries that a walk asks for at a time."""

READ_LIMIT = 256 << 20
"""Bytes that `Iso.read` gives at most, by default: 256 MiB."""

EXTRACT_LIMIT = 256 << 30
"""Bytes that `Iso.extract` writes at most, by default: 256 GiB."""


class Extraction(TypedDict):
    """How files are extracted, for the native half."""

    overwrite: bool
    modes: bool
    special_modes: bool
    times: bool
    owners: bool
    symlinks: bool
    hard_links: bool
    devices: bool
    limit: int


def open(
    source: Path | bytes | bytearray | memoryview | BinaryReader,
    *,
    format: str | None = None,
    references: References = "same-dir",
    limits: Mapping[str, int] | None = None,
    namespace: Literal["auto"] | Shown = "auto",
    session: Literal["last", "first"] | int = "last",
    strict: bool = False,
) -> Iso:
    """Open an ISO image as a file system: ISO 9660, Rock Ridge, Joliet, UDF.

    Args:
        source: Its name, its bytes, or a binary file object, as for `diskimg.open`
            (but `bytes` are the image itself here, not a name). It may lie in an image of
            any other format: a qcow2 or VMDK that holds an ISO is opened as it is.
        format: The format of what is opened; by default its first bytes tell. ``raw`` is
            right for any plain ISO image, and cannot be fooled.
        references: Which other files such an image may name.
        limits: How much the image may ask for: other bounds than those of `LIMITS`, by name.
        namespace: Which of the trees is shown. ``auto``: Rock Ridge, else Joliet, else ISO
            9660's own; UDF where it holds more.
        session: Which session of a disc that was written several times: or its first
            sector, as in `Iso.sessions`.
        strict: What could be made up for is an error.

    Raises:
        CorruptError, UnsupportedError, LimitError: It is no ISO image, or none that is read.
        InvalidError: There is no such name space or session; also a `ValueError`.
        Error: As `diskimg.open`.
    """
    if isinstance(source, bytearray | memoryview):
        source = bytes(source)
    given = source if isinstance(source, bytes) else file_or_name(source)
    how = opening(format, references=references, limits=limits)
    return Iso(_native.Iso.open(given, how, namespace, session, strict))


class File(PositionedFile):
    """A file in an ISO image as a read-only binary file that seeks.

    Made by `Iso.open`. It is a raw file: wrap it in `io.BufferedReader` for many small
    reads. It can be read as long as its image is open.
    """

    _called: ClassVar[str] = "diskimg.iso.File"

    def __init__(self, contents: _native.IsoContents, name: str) -> None:
        super().__init__(contents, name)


class Iso:
    """An ISO image, seen through one of its name spaces.

    Made by `diskimg.iso.open`, used in a ``with`` statement or closed by `close`. Once it
    is closed, its methods and files raise `ValueError`. Any number of threads may use it
    at once.

    Paths are names with ``/`` between them, one in front or behind or not; those that
    come out have none. `str` stands for UTF-8, with ``surrogateescape`` for what is none;
    `bytes` are taken as they are. ``FILE.TXT;1`` is found as ISO 9660 records it. Links
    are not followed.
    """

    __slots__ = ("__weakref__", "_facts", "_native")

    def __init__(self, native: _native.Iso, /) -> None:
        self._native = native
        self._facts: Info | None = None

    def __repr__(self) -> str:
        if self.closed:
            return "<closed diskimg.iso.Iso>"
        return f"<diskimg.iso.Iso name={self.name!r} namespace={self.namespace!r}>"

    def __enter__(self) -> Iso:
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
        raise TypeError("cannot pickle 'Iso' object")

    def close(self) -> None:
        """Close the image, once what reads it now has ended."""
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
    def namespace(self) -> Shown:
        """The name space that is shown."""
        return self._native.namespace

    @property
    def namespaces(self) -> tuple[Shown, ...]:
        """All name spaces that could be shown."""
        return tuple(self._native.namespaces)

    @property
    def label(self) -> str:
        """The volume's name."""
        return self.info().label

    @property
    def boot(self) -> Boot:
        """How it starts a machine: boot catalog and partitions."""
        return self.info().boot

    @property
    def sessions(self) -> tuple[Session, ...]:
        """Its sessions, the first one first."""
        return self.info().sessions

    def info(self) -> Info:
        """What the image says of itself, without a look at its files.

        Raises:
            IoError: It cannot be read.
        """
        if self._facts is None or self.closed:
            self._facts = Info._from_json(json.loads(self._native.info()))
        return self._facts

    def stat(self, path: str | bytes = "/") -> Entry:
        """The file or directory of this path. A link is not followed.

        Raises:
            FileNotFoundError: There is none (an `IoError`, too).
            Error: A directory on the way cannot be read.
        """
        return Entry._from_native(self._native.stat(encoded(path)))

    def exists(self, path: str | bytes) -> bool:
        """There is such a file, directory or link.

        Raises:
            Error: A directory on the way cannot be read.
        """
        try:
            self._native.stat(encoded(path))
        except FileNotFoundError:
            return False
        return True

    def extents(self, path: str | bytes) -> tuple[FileExtent, ...]:
        """Where the bytes of a file lie in the image, in order: packed ones, if it is packed.

        Raises:
            Error: As `stat`.
        """
        return tuple(FileExtent(*extent) for extent in self._native.extents(encoded(path)))

    def list(self, path: str | bytes = "/") -> builtins.list[Entry]:
        """What is in a directory, in recorded order.

        Raises:
            NotADirectoryError: It is none (an `IoError`, too).
            Error: As `stat`; it is too large, or cannot be read, or only in part (which
                `walk` gives).
        """
        return [Entry._from_native(fields) for fields in self._native.read_dir(encoded(path))]

    def walk(
        self,
        path: str | bytes = "/",
        *,
        onerror: Callable[[Error], object] | None = None,
    ) -> Iterator[Entry]:
        """All that is below a directory, without itself: directories before what is in
        them, each in recorded order. Read as the iteration goes along.

        Args:
            path: The directory.
            onerror: Called with what cannot be followed (a directory that cannot be read,
                or that lies within itself, a name like ``..``); the walk goes on behind it.
                By default it is raised, and the walk has ended.

        Raises:
            NotADirectoryError: It is none (an `IoError`, too).
            LimitError: The tree is too deep, or too large.
            Error: As `stat`; what cannot be followed.
        """
        return self._walk(self._native.walk(encoded(path)), onerror)

    def _walk(
        self, walk: _native.IsoWalk, onerror: Callable[[Error], object] | None
    ) -> Iterator[Entry]:
        while True:
            entries, error = walk.next(_ENTRIES)
            for fields in entries:
                yield Entry._from_native(fields)
            if error is not None:
                if onerror is None:
                    raise error
                onerror(error)
            elif not entries:
                return

    def open(self, path: str | bytes) -> File:
        """A file as a raw binary file object that seeks; a packed one is unpacked.

        Raises:
            IsADirectoryError: It is a directory (an `IoError`, too).
            InvalidError: It is a link or a device; also a `ValueError`.
            Error: As `stat`; its contents are recorded in a way that is not read.
        """
        name = path if isinstance(path, str) else path.decode("utf-8", "surrogateescape")
        return File(self._native.contents(encoded(path)), name)

    def read(self, path: str | bytes, limit: int | None = READ_LIMIT) -> bytes:
        """All bytes of a file.

        Args:
            path: The file.
            limit: How many there may be. An image can claim any length: `None` only for
                one that is trusted.

        Raises:
            LimitError: There are more.
            Error: As `open`; they lie outside the image.
        """
        contents = self._native.contents(encoded(path))
        size = contents.size
        if limit is not None and size > amount("limit", limit):
            error = LimitError(
                f"{self.name}: {path!r} has {size} bytes, more than the limit of {limit}"
            )
            error.path = self.name
            raise error
        return contents.read_at(0, size)

    def extract(
        self,
        dest: Path,
        path: str | bytes = "/",
        *,
        overwrite: bool = False,
        modes: bool = True,
        special_modes: bool = False,
        times: bool = True,
        owners: bool = False,
        symlinks: bool = True,
        hard_links: bool = True,
        devices: bool = False,
        limit: int = EXTRACT_LIMIT,
        progress: Progress = None,
    ) -> Extracted:
        """Extract what is in a directory into the directory ``dest``, and nowhere else.

        No name of the image leads out of ``dest``, and no link is followed, be it the
        image's or one that was there. What cannot be extracted hinders nothing else: look
        at the result, which is true if nothing failed.

        Args:
            dest: Where to; made if it is not there.
            path: What: a directory, for what is in it, or a file.
            overwrite: Files that are there already are replaced. Otherwise each of them is
                a failure.
            modes: Permissions as recorded. Otherwise as new files have them.
            special_modes: Set-id and sticky bits, too.
            times: Times of last modification as recorded.
            owners: Owners and groups as recorded: needs root.
            symlinks: Symbolic links, as they are recorded, wherever they lead.
            hard_links: Names of one file become hard links to it.
            devices: Devices, named pipes and sockets: needs root.
            limit: Bytes that all files together may have.
            progress: As for `diskimg.convert`, with the bytes of files that are done; told
                before each file.

        Raises:
            LimitError: The files have more bytes, or there are too many. What was
                extracted until then is there.
            IoError: ``dest`` cannot be used; also an `OSError`.
            KeyboardInterrupt: Ctrl-C, before the next file.
            Error: As `stat`.
        """
        how: Extraction = {
            "overwrite": overwrite,
            "modes": modes,
            "special_modes": special_modes,
            "times": times,
            "owners": owners,
            "symlinks": symlinks,
            "hard_links": hard_links,
            "devices": devices,
            "limit": amount("limit", limit),
        }
        with shown(progress, "extract") as callback:
            files, directories, size, left_out, failed, failures = self._native.extract(
                encoded(path), name_only(dest), how, callback
            )
        told = tuple(Failure(*failure) for failure in failures)
        return Extracted(files, directories, size, left_out, failed, told)

    def verify(self) -> builtins.list[Finding]:
        """Everything that is wrong with the image, in all its name spaces; worst or not.

        Contents of files are looked at only where they are packed.

        Raises:
            IoError: It cannot be read.
        """
        return [Finding(**finding) for finding in json.loads(self._native.verify())]
