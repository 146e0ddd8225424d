"""Types of arguments, and their conversion for the native module."""

from __future__ import annotations

import json
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
"""A file name."""

Node: TypeAlias = Mapping[str, Any]
"""An image that is described by options, as QEMU's ``json:`` names are."""

ExternalFiles: TypeAlias = Literal["none", "same-dir", "any"]
"""Which other files an image may refer to: none, those in its own directory or below, any."""

OptionValue: TypeAlias = str | int | bool
"""The value of a create option; `True` means ``on``, `False` means ``off``."""

SUFFIXES = {".qcow2": "qcow2", ".vmdk": "vmdk", ".ova": "ova", ".ovf": "ova"}
"""The formats of new images, by file name suffix."""

_MAX_AMOUNT = (1 << 63) - 1


class OpenArgs(TypedDict):
    """How an image is opened: arguments for the native module."""

    format: str | None
    external_files: str
    limits: list[tuple[str, int]]
    snapshot: str | None
    disk: str | None
    ignore_content_id: bool
    strict: bool
    salvage: bool
    force_share: bool
    direct: bool
    memory_map: bool
    secrets: list[tuple[str, bytes]]


class ConvertArgs(TypedDict):
    """How images are converted: arguments for the native module."""

    format: str
    options: list[tuple[str, str]]
    compress: bool
    backing: str | None
    backing_format: str | None
    external_files: str
    limits: list[tuple[str, int]]
    force_share: bool
    sparse: int | None
    threads: int | None
    rate_limit: int | None
    max_size: int | None
    salvage: bool
    reflink: str
    offload: bool
    recompress: bool
    trust_source: bool
    verify: bool
    digest: str | None
    verify_manifest: bool
    sha256: str | None
    durable: bool
    direct: bool
    in_place: bool
    target_is_zero: bool


_MAX_PATH = 4096
"""Maximum length of a path: ``PATH_MAX`` of Linux."""


def file_or_name(given: object) -> object:
    """Return a file name as text and the options of a node as JSON.

    Any other object is returned unchanged (it should be a file object).
    """
    if isinstance(given, Mapping):
        return (json.dumps(dict(given)),)
    return name_only(given) if isinstance(given, str | bytes | os.PathLike) else given


def name_only(given: Path) -> str:
    """Return a file name as text.

    Raises:
        TypeError: ``given`` is not a file name. Bytes that cannot be one are probably an image.
    """
    if isinstance(given, bytes) and (len(given) > _MAX_PATH or b"\0" in given):
        raise TypeError(
            f"{len(given)} bytes are not a path; for an image in memory, use io.BytesIO"
        )
    return os.fsdecode(given)


def format_of(destination: object, format: str | None) -> str:
    """Return the requested format, or the one that the name's suffix implies; else raw."""
    if format is not None:
        return format
    name = file_or_name(destination)
    return SUFFIXES.get(PurePath(name).suffix.lower(), "raw") if isinstance(name, str) else "raw"


def amount(what: str, given: SupportsIndex) -> int:
    """Return ``given`` as a non-negative integer of at most 63 bits.

    Raises:
        TypeError: It is not an integer.
        ValueError: It is negative or too large.
    """
    number = operator.index(given)
    if not 0 <= number <= _MAX_AMOUNT:
        raise ValueError(f"{what} must be between 0 and {_MAX_AMOUNT}, not {number}")
    return number


def option_pairs(options: Mapping[str, OptionValue] | None) -> list[tuple[str, str]]:
    """Return create options as text, as in ``-o NAME=VALUE``."""
    return [(name, _text(value)) for name, value in dict(options or {}).items()]


def _text(value: OptionValue) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def limit_pairs(limits: Mapping[str, int] | None) -> list[tuple[str, int]]:
    """Return limits as pairs of name and value.

    Raises:
        TypeError: A value is not an integer.
        ValueError: A value is negative or too large.
    """
    return [(name, amount(f"limits[{name!r}]", value)) for name, value in (limits or {}).items()]


def secret_pairs(secrets: Mapping[str, bytes] | None) -> list[tuple[str, bytes]]:
    """Return secrets as pairs of ID and bytes.

    Raises:
        TypeError: An ID is not a string, or a secret is not bytes.
    """
    pairs = list((secrets or {}).items())
    for name, secret in pairs:
        if not isinstance(name, str) or not isinstance(secret, bytes):
            # The message must not contain the secret.
            raise TypeError("secrets must map strings to bytes")
    return pairs


def open_args(
    format: str | None = None,
    *,
    external_files: ExternalFiles = "same-dir",
    limits: Mapping[str, int] | None = None,
    snapshot: str | None = None,
    disk: str | int | None = None,
    ignore_content_id: bool = False,
    strict: bool = False,
    salvage: bool = False,
    force_share: bool = False,
    direct: bool = False,
    memory_map: bool = False,
    secrets: Mapping[str, bytes] | None = None,
) -> OpenArgs:
    """Collect the arguments that say how an image is opened."""
    return {
        "format": format,
        "external_files": external_files,
        "limits": limit_pairs(limits),
        "snapshot": snapshot,
        "disk": None if disk is None else str(disk),
        "ignore_content_id": ignore_content_id,
        "strict": strict,
        "salvage": salvage,
        "force_share": force_share,
        "direct": direct,
        "memory_map": memory_map,
        "secrets": secret_pairs(secrets),
    }
