"""An open ISO image."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import ClassVar, Literal, NoReturn, SupportsIndex, TypedDict

from diskimg import _log, _native
from diskimg._errors import Error, LimitError
from diskimg._file import PositionedFile
from diskimg._progress import progress_callback
from diskimg._types import amount, file_or_name, name_only, open_args
from diskimg._words import choice
from diskimg.iso._results import (
    Boot,
    Entry,
    Extracted,
    Failure,
    FileExtent,
    Finding,
    Info,
    Session,
    encode_path,
)
from diskimg.types import (
    BinaryReader,
    ExternalFiles,
    Format,
    Namespace,
    NamespaceChoice,
    Path,
    Progress,
)

_ENTRIES = 1024
"""Maximum number of entries requested from the native module at a time."""

READ_LIMIT = 256 << 20
"""Default maximum number of bytes that `Iso.read` returns: 256 MiB."""

EXTRACT_LIMIT = 256 << 30
"""Default maximum number of bytes that `Iso.extract` writes: 256 GiB."""


class ExtractArgs(TypedDict):
    """How files are extracted: arguments for the native module."""

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
    format: Format | None = None,
    external_files: ExternalFiles = "same-dir",
    limits: Mapping[str, int] | None = None,
    namespace: NamespaceChoice = "auto",
    session: Literal["last", "first"] | int = "last",
    strict: bool = False,
) -> Iso:
    """Open an ISO image as a file system: ISO 9660, Rock Ridge, Joliet, UDF.

    >>> with iso.open(iso.nocloud("x: y", "instance-id: i")) as image:
    ...     image.label, image.namespace, image.read("user-data")
    ('cidata', 'rock-ridge', b'x: y')

    Args:
        source: A file name, the image's bytes or a binary file object, as for `diskimg.open`
            (except that `bytes` are the image itself, not its name). A disk image of any other
            format that contains an ISO image, such as a qcow2 or VMDK, can be opened directly.
        format: The format of the disk image; by default it is detected. ``raw`` is the right one
            for a plain ISO image and prevents misdetection.
        external_files: Which other files the disk image may refer to.
        limits: Resource limits that differ from the defaults in `LIMITS`, by name.
        namespace: Which directory tree to show. ``auto``: Rock Ridge, else UDF, else Joliet,
            else plain ISO 9660; of Rock Ridge and UDF, the one that contains more.
        session: Which session of a multi-session disc to show: ``last``, ``first``, or the
            session's first sector as in `Iso.sessions`.
        strict: Raise an error for deviations from the specification that are otherwise tolerated.

    Raises:
        CorruptError: The source is not a valid ISO image.
        UnsupportedError: The image uses a feature that is not supported.
        LimitError: The image exceeds a limit.
        InvalidError: The image has no such namespace or session; also a `ValueError`.
        Error: As `diskimg.open`.
    """
    if isinstance(source, bytearray | memoryview):
        source = bytes(source)
    given = source if isinstance(source, bytes) else file_or_name(source)
    how = open_args(format, external_files=external_files, limits=limits)
    shown = choice("NamespaceChoice", "namespace", namespace)
    return Iso(_native.Iso.open(given, how, shown, session, strict))


class File(PositionedFile):
    """A file in an ISO image as a read-only, seekable binary file.

    >>> with iso.open(iso.nocloud("x: y", "")) as image, image.open("user-data") as file:
    ...     file.seek(3), file.read()
    (3, b'y')

    Returned by `Iso.open`. It is unbuffered: wrap it in `io.BufferedReader` for many small reads.
    It can be read as long as its image is open.
    """

    _called: ClassVar[str] = "diskimg.iso.File"

    def __init__(self, contents: _native.IsoContents, name: str) -> None:
        super().__init__(contents, name)


class Iso:
    """An open ISO image, seen through one of its namespaces.

    >>> iso.create("new.iso", {"dir/hello.txt": "hello\\n"}).warnings
    ()
    >>> with iso.open("new.iso") as image:
    ...     image.exists("dir"), image.stat("dir/hello.txt").size, image.read("dir/hello.txt")
    (True, 6, b'hello\\n')

    Returned by `diskimg.iso.open`. Use it in a ``with`` statement or call `close`; after that,
    its methods and files raise `ValueError`. Any number of threads may use it at once.

    Paths are names separated by ``/``. Leading and trailing slashes are ignored in arguments and
    absent from results. A `str` is encoded as UTF-8 with ``surrogateescape``; `bytes` are used
    unchanged. An ISO 9660 name is found with or without its version, as in ``FILE.TXT;1``.
    Symbolic links are not followed.
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
        """Close the image as soon as the reads in progress have ended."""
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
    def namespace(self) -> Namespace:
        """The namespace that is shown."""
        return self._native.namespace

    @property
    def namespaces(self) -> tuple[Namespace, ...]:
        """All namespaces of the image."""
        return tuple(self._native.namespaces)

    @property
    def truncated(self) -> str | None:
        """What is missing if the image is shorter than its volume; the rest can be read."""
        return self._native.truncated

    @property
    def label(self) -> str:
        """The volume label."""
        return self.info().label

    @property
    def boot(self) -> Boot:
        """Boot information: boot catalog and partitions."""
        return self.info().boot

    @property
    def sessions(self) -> tuple[Session, ...]:
        """The sessions, oldest first."""
        return self.info().sessions

    def info(self) -> Info:
        """Return information about the image. Its files are not read.

        Raises:
            IoError: The image cannot be read.
        """
        if self._facts is None or self.closed:
            self._facts = Info._from_json(json.loads(self._native.info()))
        return self._facts

    def stat(self, path: str | bytes = "/") -> Entry:
        """Return the entry at ``path``. A symbolic link is not followed.

        Raises:
            FileNotFoundError: There is no such entry; also an `IoError`.
            Error: A directory in the path cannot be read.
        """
        return Entry._from_native(self._native.stat(encode_path(path)))

    def exists(self, path: str | bytes) -> bool:
        """Return whether there is a file, directory or link at ``path``.

        Raises:
            Error: A directory in the path cannot be read.
        """
        try:
            self._native.stat(encode_path(path))
        except FileNotFoundError:
            return False
        return True

    def extents(self, path: str | bytes) -> tuple[FileExtent, ...]:
        """Return the extents of a file in the image, in order; of a zisofs file, those of its
        compressed data.

        Raises:
            Error: As `stat`.
        """
        return tuple(FileExtent(*extent) for extent in self._native.extents(encode_path(path)))

    def list(self, path: str | bytes = "/") -> builtins.list[Entry]:
        """Return the entries of a directory in recorded order.

        Raises:
            NotADirectoryError: ``path`` is not a directory; also an `IoError`.
            Error: As `stat`, or the directory is too large or cannot be read completely (`walk`
                yields the readable part).
        """
        return [Entry._from_native(fields) for fields in self._native.read_dir(encode_path(path))]

    def walk(
        self,
        path: str | bytes = "/",
        *,
        onerror: Callable[[Error], object] | None = None,
    ) -> Iterator[Entry]:
        """Iterate over everything below a directory, without the directory itself. Each
        directory precedes its entries, which follow in recorded order. Directories are read
        during the iteration.

        Args:
            path: The directory.
            onerror: Called with the error if an entry cannot be followed (an unreadable
                directory, a directory that contains itself, a name like ``..``); the walk then
                continues after that entry. By default the error is raised and the walk ends.

        Raises:
            NotADirectoryError: ``path`` is not a directory; also an `IoError`.
            LimitError: The tree is too deep or too large.
            Error: As `stat`, or an entry cannot be followed.
        """
        return self._walk(self._native.walk(encode_path(path)), onerror)

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
        """Open a file as a seekable raw binary file object; a zisofs file is decompressed.

        Raises:
            IsADirectoryError: ``path`` is a directory; also an `IoError`.
            InvalidError: ``path`` is a link or a device; also a `ValueError`.
            Error: As `stat`, or the file's contents are recorded in an unsupported way.
        """
        name = path if isinstance(path, str) else path.decode("utf-8", "surrogateescape")
        return File(self._native.contents(encode_path(path)), name)

    def read(self, path: str | bytes, limit: int | None = READ_LIMIT) -> bytes:
        """Read a whole file.

        Args:
            path: The file.
            limit: Maximum size of the file in bytes. An image can claim any size: pass `None`
                (no limit) only if the image is trusted.

        Raises:
            LimitError: The file is larger.
            Error: As `open`, or the file's data are outside the image.
        """
        contents = self._native.contents(encode_path(path))
        size = contents.size
        if limit is not None and size > amount("limit", limit):
            error = LimitError(f"{self.name}: {path!r} has {size} bytes, the limit is {limit}")
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
        """Extract a directory's contents or a file into the directory ``dest``.

        Nothing is written outside ``dest``: no name in the image can lead out of it, and no
        symbolic link is followed, whether it comes from the image or existed before. An entry
        that cannot be extracted does not stop the extraction; check the result, which is true if
        nothing failed.

        Args:
            dest: The target directory; created if it does not exist.
            path: The directory whose contents are extracted, or a file.
            overwrite: Replace existing files. Otherwise an existing file is a failure.
            modes: Set the recorded permissions. Otherwise files get default permissions.
            special_modes: Also set the recorded set-ID and sticky bits.
            times: Set the recorded modification times.
            owners: Set the recorded owners and groups; needs root.
            symlinks: Create symbolic links as recorded, wherever they point.
            hard_links: Create hard links for files with several names.
            devices: Create devices, named pipes and sockets; needs root.
            limit: Maximum total size of all files in bytes.
            progress: As for `diskimg.convert`, called before each file with the number of bytes
                of the files that are complete.

        Raises:
            LimitError: The files are larger than ``limit`` or too many. Files extracted so far
                are kept.
            IoError: ``dest`` cannot be used; also an `OSError`.
            KeyboardInterrupt: Ctrl-C was pressed; extraction stops before the next file.
            Error: As `stat`.
        """
        how: ExtractArgs = {
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
        inside, outside = encode_path(path), name_only(dest)
        with (
            _log.operation("iso.extract", self, dest) as details,
            progress_callback(progress, "extract") as callback,
        ):
            files, directories, size, left_out, failed, failures = self._native.extract(
                inside, outside, how, callback
            )
            details.append(f"{files} files, {size} bytes, {failed} failures")
        reported = tuple(Failure(*failure) for failure in failures)
        _log.warnings("iso.extract", self, (f"{one.path}: {one.error}" for one in reported))
        return Extracted(files, directories, size, left_out, failed, reported)

    def verify(self) -> builtins.list[Finding]:
        """Check the image in all its namespaces and return all findings, in no particular order.

        Contents of files are checked only if they are compressed (zisofs).

        Raises:
            IoError: The image cannot be read.
        """
        return [Finding(**finding) for finding in json.loads(self._native.verify())]
