"""Partition tables, and what partitions contain."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from diskimg._results import Json


@dataclass(frozen=True, slots=True)
class FileSystem:
    """A file system, or other contents of a disk or partition, recognized by its signature.

    >>> volume = b"LUKS\\xba\\xbe\\x00\\x01".ljust(1 << 20, b"\\0")
    >>> diskimg.open(io.BytesIO(volume), "raw").file_system().type
    'crypto_LUKS'
    """

    type: str
    """The name by which blkid and ``/etc/fstab`` call it: ``ext4``, ``vfat``, ``LVM2_member``."""
    label: str | None = None
    """Label."""
    uuid: str | None = None
    """UUID; that of FAT is such as ``1234-ABCD``."""

    def to_dict(self) -> Json:
        """The fields that are not `None`."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition of a disk.

    >>> disk = bytearray(1 << 20)
    >>> disk[446:462] = bytes.fromhex("00000000 83000000 01000000 ff070000")
    >>> disk[510:520] = b"\\x55\\xaaLUKS\\xba\\xbe\\x00\\x01"
    >>> image = diskimg.open(io.BytesIO(disk), "raw")
    >>> [partition] = image.partitions().partitions
    >>> partition.start, partition.length, partition.type_name, partition.file_system.type
    (512, 1048064, 'Linux', 'crypto_LUKS')
    """

    number: int
    """Number, as Linux counts them: logical partitions of an MBR begin at 5."""
    start: int
    """Offset in bytes from the start of the disk."""
    length: int
    """Length in bytes. The end may be beyond that of the disk."""
    type: str
    """``0x83`` in an MBR, a GUID in a GPT, a name in an Apple partition map."""
    bootable: bool
    """Whether it is marked as bootable by a BIOS."""
    role: Literal["primary", "extended", "logical"]
    """What it is in an MBR; ``primary`` in other tables."""
    type_name: str | None = None
    """The name by which fdisk calls a well-known type."""
    name: str | None = None
    """Name, if the table has names."""
    id: str | None = None
    """Unique identifier (PARTUUID)."""
    file_system: FileSystem | None = None
    """What it contains, if that is recognized."""

    def to_dict(self) -> Json:
        """The fields that are not `None`."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class PartitionTable:
    """The partition table of a disk.

    >>> disk = bytearray(1 << 20)
    >>> disk[446:462] = bytes.fromhex("00000000 83000000 01000000 ff070000")
    >>> disk[510:520] = b"\\x55\\xaaLUKS\\xba\\xbe\\x00\\x01"
    >>> image = diskimg.open(io.BytesIO(disk), "raw")
    >>> image.partitions().scheme, len(image.partitions().partitions)
    ('mbr', 1)
    """

    scheme: Literal["mbr", "gpt", "apm"]
    """Kind of the table."""
    others: tuple[str, ...]
    """Other tables of the disk: hybrid images have two or three, for different firmware."""
    sector_bytes: int
    """Sector size in bytes by which the table counts."""
    id: str | None
    """Identifier of the disk."""
    partitions: tuple[Partition, ...]
    """Partitions in use."""
    oddities: tuple[str, ...]
    """Violations of the specifications."""

    @classmethod
    def _from_json(cls, facts: Json) -> PartitionTable:
        partitions = []
        for partition, contents in zip(facts["partitions"], facts["contents"], strict=True):
            fields = {key.replace("-", "_"): value for key, value in partition.items()}
            found = None if contents is None else FileSystem(**contents)
            partitions.append(Partition(**fields, file_system=found))
        return cls(
            scheme=facts["scheme"],
            others=tuple(facts["others"]),
            sector_bytes=facts["sector-bytes"],
            id=facts.get("id"),
            partitions=tuple(partitions),
            oddities=tuple(oddity["message"] for oddity in facts["oddities"]),
        )

    def to_dict(self) -> Json:
        """The fields, of which ``partitions`` are dictionaries."""
        return {**asdict(self), "partitions": [p.to_dict() for p in self.partitions]}
