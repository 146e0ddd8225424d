"""Boot options of new ISO images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from diskimg._errors import InvalidError
from diskimg._types import Path


@dataclass(frozen=True, slots=True)
class BootImage:
    """A boot catalog entry of a new image: an image that firmware boots from a disc."""

    path: str | int
    """The file's path in the image, or the number of an appended partition (see `Hybrid`)."""
    platform: Literal["bios", "efi"] | int = "bios"
    """The firmware that the entry is for, or its El Torito platform ID."""
    emulation: Literal["none", "floppy", "hard-disk"] = "none"
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


@dataclass(frozen=True, slots=True)
class AppendedPartition:
    """A partition after the file system, with the contents of a file."""

    number: int
    """Partition number: 1 to 4 in an MBR."""
    file: Path
    """Name of the file on the host."""
    kind: int = 0xEF
    """MBR partition type: 0xEF is an EFI system partition."""


@dataclass(frozen=True, slots=True)
class Hybrid:
    """What makes a new image bootable from a disk as well (isohybrid)."""

    isohybrid_mbr: bytes | None = None
    """MBR code of isohybrid: the contents of syslinux's ``isohdpfx.bin``."""
    grub2_mbr: bytes | None = None
    """MBR code of GRUB: the contents of its ``boot_hybrid.img``."""
    partition_offset: int = 0
    """Start of the first partition in sectors of 2048 bytes."""
    appended: Sequence[AppendedPartition] = ()
    """Partitions after the file system."""
    appended_as_gpt: bool = False
    """Whether the appended partitions are listed in a GPT."""


class BootArgs(TypedDict):
    """Boot options: arguments for the native module."""

    entries: list[BootEntry]
    catalog: str
    catalog_visible: bool
    isohybrid_mbr: bytes | None
    grub2_mbr: bytes | None
    partition_offset: int
    appended: list[tuple[int, int, str]]
    appended_as_gpt: bool


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
        "partition_offset": hybrid.partition_offset,
        "appended": [(p.number, p.kind, os.fsdecode(p.file)) for p in hybrid.appended],
        "appended_as_gpt": hybrid.appended_as_gpt,
    }


def _entry(image: BootImage) -> BootEntry:
    platform = image.platform
    if not isinstance(platform, int):
        if platform not in _PLATFORMS:
            raise InvalidError(f"platform={platform!r} must be bios, efi or a number")
        platform = _PLATFORMS[platform]
    return {
        "path": image.path.strip("/") if isinstance(image.path, str) else image.path,
        "platform": platform,
        "emulation": image.emulation,
        "load_segment": image.load_segment,
        "load_sectors": image.load_sectors,
        "info_table": image.info_table,
        "grub2_info": image.grub2_info,
        "in_gpt": image.in_gpt,
    }
