"""Results: dataclasses that can be printed, compared and converted to JSON."""

from __future__ import annotations

import copy
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias

from diskimg._errors import Error
from diskimg._results import Json, _fields
from diskimg.types import Namespace, Severity

Kind: TypeAlias = Literal[
    "file", "directory", "symlink", "block-device", "char-device", "fifo", "socket"
]
"""The type of a file."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def encode_path(path: str | bytes) -> bytes:
    """Return a path in an image as bytes, without leading and trailing slashes.

    Raises:
        TypeError: ``path`` is neither str nor bytes.
    """
    if isinstance(path, str):
        path = path.encode("utf-8", "surrogateescape")
    elif not isinstance(path, bytes):
        raise TypeError(f"a path in an image must be str or bytes, not {type(path).__name__}")
    return path.strip(b"/")


def _datetime(nanoseconds: int | None) -> datetime | None:
    """Return the nearest time that `datetime` can represent."""
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
    except ValueError:  # year 0, or a year of more than four digits
        return None


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or directory in an image, with the attributes that the namespace records.

    >>> entry = iso.open(iso.nocloud("x: y", "")).stat("user-data")
    >>> entry.kind, entry.path, entry.size
    ('file', 'user-data', 4)
    """

    path: str
    """Path: names separated by ``/``, without a leading slash. Decoded as UTF-8 with
    ``surrogateescape`` (as in `os.fsdecode`), so that every name can be represented."""
    kind: Kind
    """Type of the file."""
    size: int
    """Size of a file in bytes, after decompression."""
    link_target: str | None = None
    """Target of a symbolic link, decoded like `path`."""
    mode: int | None = None
    """Permissions, set-ID and sticky bits: the low 12 bits of the POSIX mode."""
    uid: int | None = None
    """User ID of the owner."""
    gid: int | None = None
    """Group ID."""
    links: int | None = None
    """Number of hard links."""
    serial: int | None = None
    """Serial number (inode number): equal for names of the same file."""
    device: tuple[int, int] | None = None
    """Major and minor number of a device."""
    mtime_ns: int | None = None
    """Last modification, in nanoseconds since 1970, UTC."""
    atime_ns: int | None = None
    """Last access, likewise."""
    ctime_ns: int | None = None
    """Last change of the attributes, likewise."""
    birthtime_ns: int | None = None
    """Creation, likewise."""

    @classmethod
    def _from_native(cls, fields: tuple[Any, ...]) -> Entry:
        path, kind, size, target, numbers, times = fields
        return cls(path, kind, size, target, *numbers, *times)

    @property
    def name(self) -> str:
        """The last component of the path."""
        return posixpath.basename(self.path)

    @property
    def path_bytes(self) -> bytes:
        """The path as recorded; for Joliet and UDF, encoded as UTF-8."""
        return self.path.encode("utf-8", "surrogateescape")

    @property
    def mtime(self) -> datetime | None:
        """Last modification, in UTC."""
        return _datetime(self.mtime_ns)

    def is_file(self) -> bool:
        """Return whether this is a regular file."""
        return self.kind == "file"

    def is_dir(self) -> bool:
        """Return whether this is a directory."""
        return self.kind == "directory"

    def is_symlink(self) -> bool:
        """Return whether this is a symbolic link."""
        return self.kind == "symlink"

    def to_dict(self) -> Json:
        """The fields that are not `None`."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class FileExtent:
    """A contiguous part of a file and its location.

    >>> [extent.length for extent in iso.open(iso.nocloud("x: y", "")).extents("user-data")]
    [4]
    """

    offset: int | None
    """Offset in the image in bytes; `None` for a hole, which reads as zeros."""
    length: int
    """Length in bytes."""

    def to_dict(self) -> Json:
        """The fields."""
        return {"offset": self.offset, "length": self.length}


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem found in an image.

    >>> [finding.message for finding in iso.open(iso.nocloud("x: y", "")).verify()]
    []
    """

    code: str
    """A stable identifier: ``directory-loop``, ``path-table``, …"""
    severity: Severity
    """``note``: violates the specification, but every reader accepts it. ``warning``: some
    readers fail. ``error``: something cannot be read or is read wrongly."""
    message: str
    """Description."""
    offset: int | None = None
    """Offset in the image in bytes."""
    path: str | None = None
    """The file or directory affected."""

    def to_dict(self) -> Json:
        """The fields that are not `None`."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Failure:
    """An entry that could not be extracted.

    >>> Path("out").mkdir()
    >>> Path("out/user-data").write_bytes(b"existing")
    8
    >>> extracted = iso.open(iso.nocloud("x: y", "")).extract("out")
    >>> [(failure.path, type(failure.error).__name__) for failure in extracted.failures]
    [('user-data', 'ExistsError')]
    """

    path: str
    """Path below the destination; empty if it is unknown."""
    error: Error
    """The error."""

    def to_dict(self) -> Json:
        """The fields, with the error as text."""
        return {"path": self.path, "error": str(self.error)}


@dataclass(frozen=True, slots=True)
class Extracted:
    """Summary of an extraction. True if nothing failed.

    >>> extracted = iso.open(iso.nocloud("x: y", "instance-id: i")).extract("out")
    >>> bool(extracted), extracted.files
    (True, 2)
    """

    files: int
    """Number of files, links and devices extracted."""
    directories: int
    """Number of directories extracted."""
    bytes: int
    """Total size of the files in bytes."""
    left_out: int
    """Number of entries skipped because of the options: devices, links."""
    failed: int
    """Number of entries that could not be extracted."""
    failures: tuple[Failure, ...] = ()
    """Details of the first thousand failures."""

    def __bool__(self) -> bool:
        return not self.failed

    def to_dict(self) -> Json:
        """The fields."""
        fields: Json = {name: getattr(self, name) for name in self.__slots__}
        return {**fields, "failures": [failure.to_dict() for failure in self.failures]}


@dataclass(frozen=True, slots=True)
class Created:
    """Summary of a newly created image.

    >>> created = iso.create("new.iso", {"hello.txt": "hello"})
    >>> created.size == Path("new.iso").stat().st_size, created.warnings
    (True, ())
    """

    size: int
    """Size of the image in bytes."""
    warnings: tuple[str, ...] = ()
    """What had to be changed, such as names that Joliet cannot represent."""

    def to_dict(self) -> Json:
        """The fields."""
        return {"size": self.size, "warnings": list(self.warnings)}


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume descriptor: a directory tree and the attributes of the volume.

    >>> [volume.kind for volume in iso.open(iso.nocloud("x: y", "")).info().volumes]
    ['primary', 'joliet']
    """

    kind: Literal["primary", "joliet", "enhanced", "other"]
    """Type of the descriptor."""
    sector: int
    """Location of the descriptor in sectors of 2048 bytes."""
    volume_id: str
    """Volume label."""
    system_id: str
    """System identifier."""
    volume_set_id: str
    """Volume set identifier."""
    publisher: str
    """Publisher identifier."""
    preparer: str
    """Data preparer identifier."""
    application: str
    """Application identifier."""
    sectors: int
    """Size of the volume in sectors of 2048 bytes."""
    created: datetime | None = None
    """Creation time."""
    modified: datetime | None = None
    """Last modification time."""

    @classmethod
    def _from_json(cls, facts: Json) -> Volume:
        facts = _fields(facts)
        known: Json = {name: facts.get(name) for name in cls.__slots__}
        known["created"] = _parsed(known["created"])
        known["modified"] = _parsed(known["modified"])
        return cls(**known)


@dataclass(frozen=True, slots=True)
class BootEntry:
    """An entry of the El Torito boot catalog.

    >>> boot = iso.BootImage("boot.img", load_sectors=4)
    >>> iso.create("boot.iso", {"boot.img": bytes(2048)}, boot=[boot]).warnings
    ()
    >>> [entry.platform for entry in iso.open("boot.iso").boot.entries]
    ['bios']
    """

    platform: str
    """The firmware that the entry is for: ``bios``, ``efi``, …"""
    bootable: bool
    """Whether the entry is marked as bootable."""
    media: str
    """Emulated drive: ``none``, ``floppy-1.44``, ``hard-disk``, …"""
    load_segment: int
    """The segment at which a BIOS loads the boot image; 0 means 0x7C0."""
    load_sectors: int
    """Number of 512-byte sectors to load; for UEFI, 0 and 1 mean up to the end."""
    start_sector: int
    """Start of the boot image in sectors of 2048 bytes."""

    @classmethod
    def _from_json(cls, facts: Json) -> BootEntry:
        facts = _fields(facts)
        return cls(*(facts[name] for name in cls.__slots__))


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition listed in the image's partition tables.

    >>> iso.create("disk.iso", {}, hybrid=iso.Hybrid(protective_label=True)).size > 0
    True
    >>> [partition.table for partition in iso.open("disk.iso").boot.partitions]
    ['mbr']
    """

    table: Literal["mbr", "gpt", "apm"]
    """The table that lists it: MBR, GPT or Apple Partition Map."""
    number: int
    """Its number in the table, from 1."""
    kind: str
    """Partition type: a number (``0xef``), a GUID or an Apple type name."""
    name: str
    """Partition name; empty in an MBR."""
    start: int | None
    """Offset in the image in bytes; `None` in an Apple Partition Map: its block size is unknown."""
    size: int | None
    """Size in bytes; `None` in an Apple Partition Map."""

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
    """Boot information of an image. True if it has a boot catalog entry.

    >>> boot = iso.open(iso.nocloud("x: y", "")).boot
    >>> boot.entries, boot.partitions
    ((), ())
    """

    entries: tuple[BootEntry, ...]
    """The boot catalog's entries, for booting from a disc."""
    partitions: tuple[Partition, ...]
    """The partitions in MBR, GPT and Apple Partition Map, for booting from a disk."""
    loader: str | None
    """The boot loader in the MBR: ``isohybrid`` or ``grub2``, if recognized."""
    oddities: tuple[str, ...]
    """Irregularities in the boot information."""

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
    """A session of a multi-session disc.

    >>> len(iso.open(iso.nocloud("x: y", "")).sessions)
    1
    """

    start_sector: int
    """First sector (of 2048 bytes), which `open` accepts as ``session``."""
    descriptors_sector: int
    """First sector of the volume descriptors."""
    volume_sectors: int
    """Size of the volume in sectors."""
    label: str
    """The volume label."""

    @classmethod
    def _from_json(cls, facts: Json) -> Session:
        facts = _fields(facts)
        return cls(*(facts[name] for name in cls.__slots__))


@dataclass(frozen=True, slots=True)
class Info:
    """Information about an ISO image.

    >>> info = iso.open(iso.nocloud("x: y", "")).info()
    >>> info.label
    'cidata'
    """

    label: str
    """The volume label."""
    namespace: Namespace
    """The namespace that is shown."""
    namespaces: tuple[Namespace, ...]
    """All namespaces of the image."""
    image_bytes: int
    """Size of the image in bytes, a multiple of 2048."""
    volume_bytes: int
    """Size of the volume in bytes. Larger than the image if the image is truncated; smaller if
    partitions or padding follow the volume."""
    volumes: tuple[Volume, ...]
    """Volume descriptors of the session that is shown."""
    boot: Boot
    """Boot information."""
    sessions: tuple[Session, ...]
    """Sessions, oldest first."""
    udf: Mapping[str, Any] | None = field(default=None, hash=False)
    """Information about the UDF file system, if there is one."""
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
        """All information as JSON, including details that have no field."""
        return copy.deepcopy(dict(self._facts))
