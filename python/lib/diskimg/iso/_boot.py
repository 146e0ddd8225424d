"""What a new image starts a machine with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from diskimg._errors import InvalidError
from diskimg._types import Path


@dataclass(frozen=True, slots=True)
class BootImage:
    """An entry of a new image's boot catalog: what a machine starts from a disc."""

    path: str | int
    """The file in the image; or the number of an appended partition (see `Hybrid`)."""
    platform: Literal["bios", "efi"] | int = "bios"
    """For which firmware; or its number in El Torito."""
    emulation: Literal["none", "floppy", "hard-disk"] = "none"
    """Whether it poses as a disk."""
    load_segment: int = 0
    """Where a BIOS loads it; 0 is 0x7C0."""
    load_sectors: int | None = None
    """Sectors of 512 bytes that are loaded. By default all of it or, of a disk that is
    emulated, one. isolinux and GRUB want 4."""
    info_table: bool = False
    """Write the boot info table into it, as isolinux wants it."""
    grub2_info: bool = False
    """Write into it where it lies, as GRUB wants it."""
    in_gpt: bool = False
    """Show it as a partition of the GPT, too: how an EFI system starts from a disk."""


@dataclass(frozen=True, slots=True)
class AppendedPartition:
    """A partition behind the file system: a file, byte for byte."""

    number: int
    """Its number: 1 to 4 in an MBR."""
    file: Path
    """The file of the host."""
    kind: int = 0xEF
    """Its type, as an MBR has it: 0xEF is an EFI system partition."""


@dataclass(frozen=True, slots=True)
class Hybrid:
    """What makes a new image start from a disk, too."""

    isohybrid_mbr: bytes | None = None
    """isohybrid's MBR: the contents of syslinux's ``isohdpfx.bin``."""
    grub2_mbr: bytes | None = None
    """GRUB's MBR: the contents of its ``boot_hybrid.img``."""
    partition_offset: int = 0
    """Where the first partition begins: a sector of 2048 bytes."""
    appended: Sequence[AppendedPartition] = ()
    """Partitions behind the file system."""
    appended_as_gpt: bool = False
    """They are in a GPT."""


class Booting(TypedDict):
    """What a new image starts, for the native half."""

    entries: list[BootEntry]
    catalog: str
    catalog_visible: bool
    isohybrid_mbr: bytes | None
    grub2_mbr: bytes | None
    partition_offset: int
    appended: list[tuple[int, int, str]]
    appended_as_gpt: bool


class BootEntry(TypedDict):
    """A `BootImage`, for the native half."""

    path: str | int
    platform: int
    emulation: str
    load_segment: int
    load_sectors: int | None
    info_table: bool
    grub2_info: bool
    in_gpt: bool


_PLATFORMS = {"bios": 0, "efi": 0xEF}


def booting(
    images: Sequence[BootImage], catalog: str | None, hybrid: Hybrid | None
) -> Booting | None:
    """How the native half takes it; nothing, if there is nothing to start."""
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
