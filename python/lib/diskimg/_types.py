"""Conversion of arguments for the native module."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Mapping, Sequence
from typing import SupportsIndex, TypedDict, cast, get_args

from diskimg import _native
from diskimg._formats import LIMITS, option_names
from diskimg._url import Url
from diskimg._words import choice, optional, shown, unknown
from diskimg.types import ExternalFiles, Format, OptionValue, Path, VmdkSubformat

_MAX_AMOUNT = (1 << 63) - 1


class OpenArgs(TypedDict):
    """How an image is opened: arguments for the native module."""

    format: str | None
    external_files: str
    limits: list[tuple[str, int]]
    snapshot: str | None
    disk: str | None
    ignore_content_id: bool
    possible_parents: list[str]
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
    part: tuple[int, int] | None
    backing: str | None
    backing_format: str | None
    external_files: str
    limits: list[tuple[str, int]]
    possible_parents: list[str]
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
    bitmaps: bool
    skip_broken_bitmaps: bool


_MAX_PATH = 4096
"""Maximum length of a path: ``PATH_MAX`` of Linux."""


def file_or_name(given: object) -> object:
    """Return a file name as text, the options of a node as JSON, and a URL as a tuple.

    Any other object is returned unchanged (it should be a file object).

    Raises:
        TypeError: ``given`` is bytes that are an image, and not a file name.
    """
    if isinstance(given, Url):
        return given._args()
    if isinstance(given, Mapping):
        return (json.dumps(dict(given)),)
    named = isinstance(given, str | bytes | bytearray | memoryview | os.PathLike)
    return name_only(cast(Path, given)) if named else given


def name_only(given: Path) -> str:
    """Return a file name as text.

    Raises:
        TypeError: ``given`` is not a file name. Bytes that cannot be one are probably an image.
        ValueError: A text that cannot be a file name.
    """
    if isinstance(given, bytearray | memoryview):
        raise _not_a_name(given)
    name = os.fspath(given)
    if isinstance(name, bytes) and (len(name) > _MAX_PATH or b"\0" in name):
        raise _not_a_name(name)
    if isinstance(name, str) and "\0" in name:
        raise ValueError(f"a text with null characters is not a file name: {shown(name)}")
    text = os.fsdecode(name)
    if len(text) > _MAX_PATH and not text.startswith("json:"):
        raise ValueError(f"{len(text)} characters are not a file name: {shown(text)}")
    return text


def _not_a_name(given: bytes | bytearray | memoryview) -> TypeError:
    size = memoryview(given).nbytes
    return TypeError(
        f"{type(given).__name__} object of {size} bytes is not a file name; for an image in "
        "memory, use io.BytesIO"
    )


def format_of(destination: object, format: str | None) -> Format:
    """Return the requested format, or the one that the name's suffix implies; else raw."""
    if format is not None:
        return cast(Format, choice("Format", "format", format))
    # Not the parameters of a URL.
    url = destination.url.split("?")[0] if isinstance(destination, Url) else None
    name = url or file_or_name(destination)
    return _native.format_of_name(name) if isinstance(name, str) else "raw"


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


def option_pairs(
    options: Mapping[str, OptionValue] | None, format: str | None
) -> list[tuple[str, str]]:
    """Return create options of a format, or any options, as text, as in ``-o NAME=VALUE``.

    Raises:
        InvalidError: The format does not have one of the options.
    """
    pairs = [(name, _text(name, value)) for name, value in dict(options or {}).items()]
    names = None if format is None else option_names(format)
    for name, _ in pairs:
        if names is not None and name not in names:
            what = f"the format {format} has no option {shown(name)}; its options are"
            raise unknown(what, name, names)
    return pairs


_SUBFORMATS = {word.lower(): word for word in get_args(VmdkSubformat)}


def _text(name: str, value: OptionValue) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    text = str(value)
    return _SUBFORMATS.get(text.lower(), text) if name == "subformat" else text


def limit_pairs(limits: Mapping[str, int] | None) -> list[tuple[str, int]]:
    """Return limits as pairs of name and value.

    Raises:
        TypeError: A value is not an integer.
        ValueError: A value is negative or too large, or there is no such limit.
    """
    for name in limits or {}:
        if name not in LIMITS:
            raise unknown(f"unknown limit {shown(name)}; the limits are", name, LIMITS)
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
    possible_parents: Sequence[Path] = (),
    strict: bool = False,
    salvage: bool = False,
    force_share: bool = False,
    direct: bool = False,
    memory_map: bool = False,
    secrets: Mapping[str, bytes] | None = None,
    argument: str = "format",
) -> OpenArgs:
    """Collect the arguments that say how an image is opened.

    ``argument`` is the caller's name for ``format``.
    """
    return {
        "format": optional("Format", argument, format),
        "external_files": choice("ExternalFiles", "external_files", external_files),
        "limits": limit_pairs(limits),
        "snapshot": snapshot,
        "disk": None if disk is None else str(disk),
        "ignore_content_id": ignore_content_id,
        "possible_parents": [os.fsdecode(path) for path in possible_parents],
        "strict": strict,
        "salvage": salvage,
        "force_share": force_share,
        "direct": direct,
        "memory_map": memory_map,
        "secrets": secret_pairs(secrets),
    }
