"""Boot options of new ISO images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, TypeVar

from diskimg._errors import InvalidError
from diskimg._words import choice
from diskimg.types import CylinderAlignment, Emulation, Path


@dataclass(frozen=True, slots=True)
class BootImage:
    """A boot catalog entry of a new image: an image that firmware boots from a disc.

    >>> boot = iso.BootImage("boot/efi.img", platform="efi")
    >>> iso.create("boot.iso", {"boot/efi.img": bytes(512)}, boot=[boot]).warnings
    ()
    >>> [entry.platform for entry in iso.open("boot.iso").boot.entries]
    ['efi']
    """

    path: str | int
    """The file's path in the image, or the number of an appended partition (see `Hybrid`)."""
    platform: Literal["bios", "efi"] | int = "bios"
    """The firmware that the entry is for, or its El Torito platform ID."""
    emulation: Emulation = "none"
    """The drive that the BIOS emulates from the boot image, if any."""
    load_segment: int = 0
    """The segment at which a BIOS loads the boot image; 0 means 0x7C0."""
    load_sectors: int | None = None
    """Number of 512-byte sectors to load. The default is the whole boot image, or 1 with
    emulation. isolinux and GRUB need 4."""
    info_table: bool = False
    """Write the boot info table that isolinux needs into the boot image."""
    grub2_info: bool = False
    """Write the boot image's own location into it, as GRUB needs."""
    in_gpt: bool = False
    """Also list the boot image as a GPT partition, so that UEFI can boot it from a disk."""
    in_apm: bool = False
    """Also list the boot image in an Apple partition map."""
    identifier: str | bytes = b""
    """The identifier of the boot catalog for the first boot image, up to 24 bytes, or of the
    section that begins with this one, up to 28."""
    criteria: bytes = b""
    """Selection criteria, up to 20 bytes."""


@dataclass(frozen=True, slots=True)
class AppendedPartition:
    """A partition after the file system, with the contents of a file.

    >>> Path("efi.img").write_bytes(bytes(4096))
    4096
    >>> partition = iso.AppendedPartition(2, "efi.img")
    >>> iso.create("disk.iso", {}, hybrid=iso.Hybrid(appended=[partition])).size > 0
    True
    >>> [one.table for one in iso.open("disk.iso").boot.partitions]
    ['mbr', 'mbr']
    """

    number: int
    """Partition number: 1 to 4 in an MBR."""
    file: Path
    """Name of the file on the host."""
    kind: int = 0xEF
    """MBR partition type: 0xEF is an EFI system partition."""
    gpt_kind: str | None = None
    """GPT partition type, a GUID; by default it is derived from `kind`."""


@dataclass(frozen=True, slots=True)
class Hybrid:
    """What makes a new image bootable from a disk as well (isohybrid).

    >>> iso.create("disk.iso", {}, hybrid=iso.Hybrid(protective_label=True)).size > 0
    True
    >>> len(iso.open("disk.iso").boot.partitions)
    1
    """

    isohybrid_mbr: bytes | None = None
    """MBR code of isohybrid: the contents of syslinux's ``isohdpfx.bin``."""
    grub2_mbr: bytes | None = None
    """MBR code of GRUB: the contents of its ``boot_hybrid.img``."""
    system_area: bytes | None = None
    """The first bytes of the image, up to 32 KiB, before partition tables are written."""
    partition_offset: int = 0
    """Start of the first partition in sectors of 2048 bytes: 0, or 16 or more, with a second set of
    volume descriptors and directories that makes the partition mountable."""
    protective_label: bool = False
    """Whether there is a partition table whose first partition is the volume."""
    force_active: bool = False
    """Whether a partition of the MBR is marked as active in any case."""
    volume_kind: int | str | None = None
    """The type of the volume's partition: an MBR partition type, or a GUID."""
    heads: int = 0
    """Heads per cylinder in the MBR; 0 means 64."""
    sectors_per_track: int = 0
    """Sectors per track in the MBR; 0 means 32."""
    cylinder_alignment: CylinderAlignment = "auto"
    """Whether the image consists of whole cylinders: with an isohybrid MBR (``auto``), or with any
    MBR of a single volume (``on``), including the appended partitions (``all``), or not."""
    appended: Sequence[AppendedPartition] = ()
    """Partitions after the file system."""
    appended_as_gpt: bool = False
    """Whether the appended partitions are listed in a GPT."""
    appended_as_apm: bool = False
    """Whether the appended partitions are listed in an Apple partition map."""
    efi_partition: str | int | None = None
    """The boot image that a GPT lists as EFI system partition, as `BootImage.path`."""
    gpt_disk_id: str | None = None
    """The GUID of the disk; by default it is derived from the contents."""


class BootArgs(TypedDict):
    """Boot options: arguments for the native module."""

    entries: list[BootEntry]
    catalog: str
    catalog_visible: bool
    isohybrid_mbr: bytes | None
    grub2_mbr: bytes | None
    system_area: bytes | None
    partition_offset: int
    protective_label: bool
    force_active: bool
    volume_kind: int | str | None
    heads: int
    sectors_per_track: int
    cylinder_alignment: str
    appended: list[tuple[int, int, str | None, str]]
    appended_as_gpt: bool
    appended_as_apm: bool
    efi_partition: str | int | None
    gpt_disk_id: str | None


class BootEntry(TypedDict):
    """A `BootImage`: arguments for the native module."""

    path: str | int
    platform: int
    emulation: str
    load_segment: int
    load_sectors: int | None
    info_table: bool
    grub2_info: bool
    in_gpt: bool
    in_apm: bool
    identifier: bytes
    criteria: bytes


_PLATFORMS = {"bios": 0, "efi": 0xEF}


def boot_args(
    images: Sequence[BootImage], catalog: str | None, hybrid: Hybrid | None
) -> BootArgs | None:
    """Convert boot options for the native module; `None` if the image is not bootable."""
    if not images and hybrid is None:
        return None
    hybrid = hybrid or Hybrid()
    return {
        "entries": [_entry(image) for image in images],
        "catalog": "boot.cat" if catalog is None else catalog.strip("/"),
        "catalog_visible": catalog is not None,
        "isohybrid_mbr": hybrid.isohybrid_mbr,
        "grub2_mbr": hybrid.grub2_mbr,
        "system_area": hybrid.system_area,
        "partition_offset": hybrid.partition_offset,
        "protective_label": hybrid.protective_label,
        "force_active": hybrid.force_active,
        "volume_kind": hybrid.volume_kind,
        "heads": hybrid.heads,
        "sectors_per_track": hybrid.sectors_per_track,
        "cylinder_alignment": choice(
            "CylinderAlignment", "cylinder_alignment", hybrid.cylinder_alignment
        ),
        "appended": [(p.number, p.kind, p.gpt_kind, os.fsdecode(p.file)) for p in hybrid.appended],
        "appended_as_gpt": hybrid.appended_as_gpt,
        "appended_as_apm": hybrid.appended_as_apm,
        "efi_partition": _path(hybrid.efi_partition),
        "gpt_disk_id": hybrid.gpt_disk_id,
    }


def _entry(image: BootImage) -> BootEntry:
    platform = image.platform
    if not isinstance(platform, int):
        if platform.lower() not in _PLATFORMS:
            raise InvalidError(f"platform={platform!r} must be bios, efi or a number")
        platform = _PLATFORMS[platform.lower()]
    return {
        "path": _path(image.path),
        "platform": platform,
        "emulation": choice("Emulation", "emulation", image.emulation),
        "load_segment": image.load_segment,
        "load_sectors": image.load_sectors,
        "info_table": image.info_table,
        "grub2_info": image.grub2_info,
        "in_gpt": image.in_gpt,
        "in_apm": image.in_apm,
        "identifier": image.identifier.encode()
        if isinstance(image.identifier, str)
        else image.identifier,
        "criteria": image.criteria,
    }


_PathOrNumber = TypeVar("_PathOrNumber", str, int, None, str | int, str | int | None)


def _path(path: _PathOrNumber) -> _PathOrNumber:
    return path.strip("/") if isinstance(path, str) else path
