"""Results as JSON, and back: between a process and its confined child.

The child may have been taken over by an image, so that its messages are not trusted: every value
must have the type that the result's class declares.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union

from diskimg import _errors
from diskimg._errors import Error, IoError, io_error

T = TypeVar("T")

_CLASSES: dict[str, type[Error]] = {
    kind.__name__: kind
    for kind in (
        Error,
        _errors.CorruptError,
        _errors.UnsupportedError,
        _errors.RefusedError,
        _errors.LockedError,
        _errors.LimitError,
        _errors.InvalidError,
    )
}
"""Classes of exceptions that have only a message."""

_PLAIN: dict[str, type[Exception]] = {
    "TypeError": TypeError,
    "ValueError": ValueError,
    "MemoryError": MemoryError,
}
"""Exceptions of Python that have only a message."""


def encode(value: Any) -> Any:
    """Return ``value`` as JSON values."""
    if dataclasses.is_dataclass(value):
        return {one.name: encode(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [encode(one) for one in value]
    if isinstance(value, Mapping):
        return {key: encode(one) for key, one in value.items()}
    return value


def decode(kind: Any, value: Any) -> Any:
    """Return the value of the type ``kind`` that `encode` has returned as ``value``.

    Raises:
        ValueError: It is not of this type.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return _decode_any(arguments, value)
    if origin is Literal:
        if any(value == one and type(value) is type(one) for one in arguments):
            return value
    elif origin in (list, tuple):
        if isinstance(value, list):
            return origin(decode(arguments[0], one) for one in value)
    elif origin is not None and issubclass(origin, Mapping):
        if isinstance(value, dict):
            return {key: decode(arguments[1], one) for key, one in value.items()}
    elif dataclasses.is_dataclass(kind):
        if isinstance(value, dict):
            return _decode_dataclass(kind, value)
    # `True` is an `int`, but not where a number is declared.
    elif kind is Any or (kind in (str, int, bool, float) and type(value) is kind):
        return value
    elif kind in (None, type(None)) and value is None:
        return None
    raise ValueError(f"a value is not of the type {kind}")


def _decode_any(kinds: tuple[Any, ...], value: Any) -> Any:
    for kind in kinds:
        try:
            return decode(kind, value)
        except ValueError:
            pass
    raise ValueError("a value is of none of the types")


def _decode_dataclass(kind: Any, value: dict[str, Any]) -> Any:
    hints = typing.get_type_hints(kind)
    if value.keys() != {one.name for one in dataclasses.fields(kind)}:
        raise ValueError(f"the fields are not those of {kind}")
    return kind(**{name: decode(hints[name], one) for name, one in value.items()})


def encode_error(error: BaseException) -> dict[str, Any]:
    """Return an exception of this package, or any other one, as JSON values."""
    facts: dict[str, Any] = {"message": str(error)}
    for name in ("path", "structure", "offset", "limit"):
        facts[name] = getattr(error, name, None)
    if isinstance(error, IoError):
        transient = isinstance(error, _errors.TransientError)
        return {"class": "IoError", "errno": error.errno, "transient": transient, **facts}
    named = [kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _CLASSES]
    if named:
        return {"class": named[0], **facts}
    if isinstance(error, OSError) and error.errno is not None:
        return {"class": "OSError", "errno": error.errno, "message": error.strerror or ""}
    name = type(error).__name__
    return {"class": name if name in _PLAIN else "Error", **facts}


def _printable(text: str) -> str:
    """Return ``text`` with all characters escaped that are not printable, except newlines.

    Terminals interpret control characters, and lone surrogates cannot be encoded.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in text)


def decode_error(facts: Any) -> Exception:
    """Return the exception that `encode_error` has returned as ``facts``.

    Raises:
        ValueError: There is no such exception.
    """
    if not isinstance(facts, dict):
        raise ValueError("an error is not an object")
    name, message = facts.get("class"), _printable(decode(str, facts.get("message")))
    if isinstance(name, str) and name in _PLAIN:
        return _PLAIN[name](message)
    if name == "OSError":
        return OSError(decode(int, facts.get("errno")), message)
    path = decode(str | None, facts.get("path"))
    error: Error
    if name == "IoError":
        number = decode(int, facts.get("errno"))
        error = io_error(number, message, path, transient=facts.get("transient") is True)
    elif isinstance(name, str) and name in _CLASSES:
        error = _CLASSES[name](message)
        error.path = path
    else:
        raise ValueError("an error has no known class")
    structure = decode(str | None, facts.get("structure"))
    error.structure = None if structure is None else _printable(structure)
    error.offset = decode(int | None, facts.get("offset"))
    if isinstance(error, _errors.LimitError):
        error.limit = decode(str | None, facts.get("limit"))
    return error
