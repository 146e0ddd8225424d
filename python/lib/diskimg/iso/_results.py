"""What ISO images tell: values that show, compare and turn into JSON."""

from __future__ import annotations

import copy
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias

from diskimg._errors import Error
from diskimg._results import Json, _fields

Kind: TypeAlias = Literal[
    "file", "directory", "symlink", "block-device", "char-device", "fifo", "socket"
]
"""What a file is."""

Shown: TypeAlias = Literal["rock-ridge", "joliet", "iso", "udf"]
"""A name space: one of the trees that an image can have over the same files."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def encoded(path: str | bytes) -> bytes:
    """A path in an image as bytes, without slashes in front and behind.

    Raises:
        TypeError: It is none.
    """
    if isinstance(path, str):
        path = path.encode("utf-8", "surrogateescape")
    elif not isinstance(path, bytes):
        raise TypeError(f"a path in an image is str or bytes, not {type(path).__name__}")
    return path.strip(b"/")


def _moment(nanoseconds: int | None) -> datetime | None:
    """The nearest moment that Python knows."""
    if nanoseconds is None:
        return None
    try:
        return _EPOCH + timedelta(microseconds=nanoseconds // 1000)
    except OverflowError:
        edge = datetime.min if nanoseconds < 0 else datetime.max
        return edge.replace(tzinfo=UTC)


def _parsed(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:  # the year 0, or one of five digits
        return None


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or directory in an image, with all that its name space records."""

    path: str
    """Its path: names with ``/`` between them, none in front. Decoded as UTF-8; bytes that
    are none as `os.fsdecode` has them (``surrogateescape``), so that nothing is lost."""
    kind: Kind
    """What it is."""
    size: int
    """Bytes of a file, as read."""
    link_target: str | None = None
    """Where a symbolic link leads, decoded as `path`."""
    mode: int | None = None
    """Permissions, set-id and sticky bits: the low twelve bits of POSIX's mode."""
    uid: int | None = None
    """Owner."""
    gid: int | None = None
    """Group."""
    links: int | None = None
    """Names that the file has."""
    serial: int | None = None
    """What tells that two names are one file."""
    device: tuple[int, int] | None = None
    """Major and minor number of a device."""
    mtime_ns: int | None = None
    """Last change of the content: nanoseconds since 1970, UTC."""
    atime_ns: int | None = None
    """Last read."""
    ctime_ns: int | None = None
    """Last change of the attributes."""
    birthtime_ns: int | None = None
    """Creation."""

    @classmethod
    def _from_native(cls, fields: tuple[Any, ...]) -> Entry:
        path, kind, size, target, numbers, times = fields
        return cls(path, kind, size, target, *numbers, *times)

    @property
    def name(self) -> str:
        """The last name of the path."""
        return posixpath.basename(self.path)

    @property
    def path_bytes(self) -> bytes:
        """The path as recorded; of Joliet and UDF, as UTF-8."""
        return self.path.encode("utf-8", "surrogateescape")

    @property
    def mtime(self) -> datetime | None:
        """Last change of the content, in UTC."""
        return _moment(self.mtime_ns)

    def is_file(self) -> bool:
        """It is a regular file."""
        return self.kind == "file"

    def is_dir(self) -> bool:
        """It is a directory."""
        return self.kind == "directory"

    def is_symlink(self) -> bool:
        """It is a symbolic link."""
        return self.kind == "symlink"

    def to_dict(self) -> Json:
        """The fields that are recorded."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class FileExtent:
    """A stretch of a file, and where it lies."""

    offset: int | None
    """Bytes from the start of the image; `None`: nothing is recorded, it reads as zeros."""
    length: int
    """Bytes."""

    def to_dict(self) -> Json:
        """The fields."""
        return {"offset": self.offset, "length": self.length}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong with an image."""

    code: str
    """What, as a word: ``directory-loop``, ``path-table``, …"""
    severity: Literal["note", "warning", "error"]
    """``note``: against the letter, every reader gets along with it. ``warning``: some
    readers stumble over it. ``error``: something cannot be read, or not as it should."""
    message: str
    """What, in words."""
    offset: int | None = None
    """Where: bytes from the start of the image."""
    path: str | None = None
    """In which file or directory."""

    def to_dict(self) -> Json:
        """The fields that are known."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Failure:
    """An entry that could not be extracted."""

    path: str
    """Its path below the destination; empty if not even that is known."""
    error: Error
    """Why."""

    def to_dict(self) -> Json:
        """The fields, the error as text."""
        return {"path": self.path, "error": str(self.error)}


@dataclass(frozen=True, slots=True)
class Extracted:
    """What was extracted, and what was not. True if nothing failed."""

    files: int
    """Files, links and devices."""
    directories: int
    """Directories."""
    bytes: int
    """Bytes of the files."""
    left_out: int
    """Entries that were left out as the options say: devices, links."""
    failed: int
    """Entries that could not be extracted."""
    failures: tuple[Failure, ...] = ()
    """The first thousand of them."""

    def __bool__(self) -> bool:
        return not self.failed

    def to_dict(self) -> Json:
        """The fields."""
        fields: Json = {name: getattr(self, name) for name in self.__slots__}
        return {**fields, "failures": [failure.to_dict() for failure in self.failures]}


@dataclass(frozen=True, slots=True)
class Created:
    """An image that was created."""

    size: int
    """Its bytes."""
    warnings: tuple[str, ...] = ()
    """What had to be changed: names that Joliet cannot hold as they are."""

    def to_dict(self) -> Json:
        """The fields."""
        return {"size": self.size, "warnings": list(self.warnings)}


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume descriptor: one tree, and what is said of the volume."""

    kind: Literal["primary", "joliet", "enhanced", "other"]
    """Which tree."""
    sector: int
    """Its own sector, of 2048 bytes."""
    volume_id: str
    """The label."""
    system_id: str
    """For which system."""
    volume_set_id: str
    """Of which set."""
    publisher: str
    """Who published it."""
    preparer: str
    """Who prepared its data."""
    application: str
    """What made it."""
    sectors: int
    """Sectors of the volume."""
    created: datetime | None = None
    """Creation."""
    modified: datetime | None = None
    """Last modification."""

    @classmethod
    def _from_json(cls, facts: Json) -> Volume:
        facts = _fields(facts)
        known: Json = {name: facts.get(name) for name in cls.__slots__}
        known["created"] = _parsed(known["created"])
        known["modified"] = _parsed(known["modified"])
        return cls(**known)


@dataclass(frozen=True, slots=True)
class BootEntry:
    """An entry of El Torito's boot catalog: something that a machine can start."""

    platform: str
    """For which firmware: ``bios``, ``efi``, …"""
    bootable: bool
    """It may be started."""
    media: str
    """What it poses as: ``none``, ``floppy-1.44``, ``hard-disk``, …"""
    load_segment: int
    """The segment that a BIOS loads it to; 0 is 0x7C0."""
    load_sectors: int
    """Sectors of 512 bytes that are loaded; to UEFI, 0 and 1 mean: to the end."""
    start_sector: int
    """Where it begins: a sector of 2048 bytes."""

    @classmethod
    def _from_json(cls, facts: Json) -> BootEntry:
        facts = _fields(facts)
        return cls(*(facts[name] for name in cls.__slots__))


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition that the system area names."""

    table: Literal["mbr", "gpt", "apm"]
    """Which table names it: MBR, GPT or Apple's partition map."""
    number: int
    """Its place there, from 1."""
    kind: str
    """What it is for: a number (``0xef``), a GUID, or Apple's word."""
    name: str
    """Its name; an MBR has none."""
    start: int | None
    """Its first byte in the image; `None` in Apple's map, whose blocks are of no sure size."""
    size: int | None
    """Its bytes."""

    @classmethod
    def _all(cls, area: Json) -> tuple[Partition, ...]:
        def of(table: str) -> Iterable[Json]:
            partitions: Iterable[Json] = (area.get(table) or {}).get("partitions", ())
            return map(_fields, partitions)

        found = [
            cls(
                "mbr",
                p["number"],
                _number(p["kind"]),
                "",
                p["first_sector"] * 512,
                p["sectors"] * 512,
            )
            for p in of("mbr")
        ]
        for p in of("gpt"):
            first, last = p["first_sector"], p["last_sector"]
            size = max(0, last + 1 - first) * 512
            found.append(cls("gpt", p["number"], p["kind"], p["name"], first * 512, size))
        found += [cls("apm", p["number"], p["kind"], p["name"], None, None) for p in of("apm")]
        return tuple(found)


def _number(kind: int | str) -> str:
    return kind if isinstance(kind, str) else f"{kind:#04x}"


@dataclass(frozen=True, slots=True)
class Boot:
    """How an image starts a machine, and how it is divided for one. True if it starts any."""

    entries: tuple[BootEntry, ...]
    """The boot catalog: how it starts from a disc."""
    partitions: tuple[Partition, ...]
    """What MBR, GPT and Apple's partition map say: how it starts from a disk."""
    loader: str | None
    """What the MBR's code is: ``isohybrid`` or ``grub2``, where that is clear."""
    oddities: tuple[str, ...]
    """What is odd about all this."""

    def __bool__(self) -> bool:
        return bool(self.entries)

    @classmethod
    def _from_json(cls, catalog: Json | None, area: Json) -> Boot:
        catalog = catalog or {}
        odd = [*catalog.get("oddities", ()), *area.get("oddities", ())]
        return cls(
            tuple(map(BootEntry._from_json, catalog.get("entries", ()))),
            Partition._all(area),
            (area.get("loader") or {}).get("kind"),
            tuple(oddity["message"] for oddity in odd),
        )


@dataclass(frozen=True, slots=True)
class Session:
    """A session of a disc that was written several times."""

    start_sector: int
    """Its first sector, of 2048 bytes: what `open` takes as ``session``."""
    descriptors_sector: int
    """Where its volume descriptors begin."""
    volume_sectors: int
    """Sectors of its volume."""
    label: str
    """The volume's name."""

    @classmethod
    def _from_json(cls, facts: Json) -> Session:
        facts = _fields(facts)
        return cls(*(facts[name] for name in cls.__slots__))


@dataclass(frozen=True, slots=True)
class Info:
    """What an image says of itself."""

    label: str
    """The volume's name."""
    namespace: Shown
    """The name space that is shown."""
    namespaces: tuple[Shown, ...]
    """All that could be shown."""
    image_bytes: int
    """Bytes of the image, in sectors of 2048."""
    volume_bytes: int
    """Bytes of the volume. More than the image has if it was cut short; fewer if something
    follows: partitions, padding."""
    volumes: tuple[Volume, ...]
    """The volume descriptors of the session that is shown."""
    boot: Boot
    """What it starts."""
    sessions: tuple[Session, ...]
    """Sessions, the first one first."""
    udf: Mapping[str, Any] | None = field(default=None, hash=False)
    """What UDF says of itself."""
    _facts: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def _from_json(cls, facts: Json) -> Info:
        known = _fields(facts)
        return cls(
            label=known["label"],
            namespace=known["namespace"],
            namespaces=tuple(known["namespaces"]),
            image_bytes=known["image_bytes"],
            volume_bytes=known["volume_bytes"],
            volumes=tuple(map(Volume._from_json, known["volumes"])),
            boot=Boot._from_json(known.get("boot"), known["system_area"]),
            sessions=tuple(map(Session._from_json, known["sessions"])),
            udf=known.get("udf"),
            _facts=facts,
        )

    def to_dict(self) -> Json:
        """All that is known, more than the fields have."""
        return copy.deepcopy(dict(self._facts))
