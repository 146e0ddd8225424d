"""The types of arguments, and how they are put for the native half."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Literal, Protocol, SupportsIndex, TypeAlias, TypedDict


class BinaryReader(Protocol):
    """A binary file object that can be read."""

    def read(self, size: int, /) -> bytes: ...


class BinaryWriter(Protocol):
    """A binary file object that can be written."""

    def write(self, data: bytes, /) -> Any: ...


Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]
"""A file's name."""

References: TypeAlias = Literal["none", "same-dir", "any"]
"""Which files an image may name: none, those in its own directory or below, any."""

OptionValue: TypeAlias = str | int | bool
"""The value of a create option; `True` and `False` are ``on`` and ``off``."""

SUFFIXES = {".qcow2": "qcow2", ".vmdk": "vmdk", ".ova": "ova", ".ovf": "ova"}
"""The formats that a new image's name tells."""

_LARGEST = (1 << 63) - 1


class Opening(TypedDict):
    """How an image is opened, for the native half."""

    format: str | None
    references: str
    limits: list[tuple[str, int]]
    snapshot: str | None
    disk: str | None
    ignore_content_id: bool
    direct: bool
    memory_map: bool


class Conversion(TypedDict):
    """How images are converted, for the native half."""

    format: str
    options: list[tuple[str, str]]
    compress: bool
    backing: str | None
    backing_format: str | None
    references: str
    limits: list[tuple[str, int]]
    sparse: int | None
    threads: int | None
    rate_limit: int | None
    salvage: bool
    reflink: str
    offload: bool
    recompress: bool
    verify: bool
    digest: str | None
    verify_manifest: bool
    durable: bool
    direct: bool
    in_place: bool
    target_is_zero: bool


def file_or_name(given: object) -> object:
    """A name as text; anything else as it is, to be judged by what it can do."""
    return os.fsdecode(given) if isinstance(given, str | bytes | os.PathLike) else given


def name_only(given: Path) -> str:
    """A name as text.

    Raises:
        TypeError: It is none.
    """
    return os.fsdecode(given)


def format_of(destination: object, format: str | None) -> str:
    """The format that is asked for, or that the name tells; else raw."""
    if format is not None:
        return format
    name = file_or_name(destination)
    return SUFFIXES.get(PurePath(name).suffix.lower(), "raw") if isinstance(name, str) else "raw"


def amount(what: str, given: SupportsIndex) -> int:
    """A number of bytes or things, not negative.

    Raises:
        TypeError: It is no whole number.
        ValueError: It is negative, or more than any disk has.
    """
    number = operator.index(given)
    if not 0 <= number <= _LARGEST:
        raise ValueError(f"{what} must be between 0 and {_LARGEST}, not {number}")
    return number


def pairs(options: Mapping[str, OptionValue] | None) -> list[tuple[str, str]]:
    """Create options as ``-o`` takes them."""
    return [(name, _text(value)) for name, value in dict(options or {}).items()]


def _text(value: OptionValue) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def bounds(limits: Mapping[str, int] | None) -> list[tuple[str, int]]:
    """Limits by name.

    Raises:
        TypeError: One is no whole number.
        ValueError: One is negative, or larger than any.
    """
    return [(name, amount(f"limits[{name!r}]", value)) for name, value in (limits or {}).items()]


def opening(
    format: str | None = None,
    *,
    references: References = "same-dir",
    limits: Mapping[str, int] | None = None,
    snapshot: str | None = None,
    disk: str | int | None = None,
    ignore_content_id: bool = False,
    direct: bool = False,
    memory_map: bool = False,
) -> Opening:
    """How an image is to be opened."""
    return {
        "format": format,
        "references": references,
        "limits": bounds(limits),
        "snapshot": snapshot,
        "disk": None if disk is None else str(disk),
        "ignore_content_id": ignore_content_id,
        "direct": direct,
        "memory_map": memory_map,
    }
