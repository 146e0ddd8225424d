"""The formats, the options of new images, and the bounds on those that are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from diskimg import _native
from diskimg._errors import InvalidError


@dataclass(frozen=True, slots=True)
class CreateOption:
    """What a new image of a format can be given in ``options``."""

    name: str
    """Its name."""
    kind: str
    """What it takes: ``<str>``, ``<size>``, ``<num>`` or ``<bool (on/off)>``."""
    help: str
    """One line."""
    default: str | None
    """The value in effect where none is given, if it is to be told."""


_OPTIONS = {
    format: tuple(CreateOption(*option) for option in options)
    for format, options in _native.formats()
}

FORMATS: tuple[str, ...] = tuple(_OPTIONS)
"""The names of all formats, in the order in which files are looked at for them."""

LIMITS: Mapping[str, int] = MappingProxyType({n: value for n, value, _ in _native.limits()})
"""How much an image may ask for, by default, and by the names that ``limits=`` takes.
``diskimg info --limit help`` says what each of them bounds."""


def create_options(format: str) -> tuple[CreateOption, ...]:
    """The options that a new image of ``format`` takes (``qemu-img … -o help``).

    Raises:
        InvalidError: There is no such format.
    """
    try:
        return _OPTIONS[format]
    except KeyError:
        raise InvalidError(f"Unknown format '{format}' (one of: {', '.join(FORMATS)})") from None
