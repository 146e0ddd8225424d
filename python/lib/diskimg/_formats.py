"""Image formats, create options and limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from diskimg import _native
from diskimg._errors import InvalidError


@dataclass(frozen=True, slots=True)
class CreateOption:
    """A create option of a format."""

    name: str
    """Name of the option, as in ``options``."""
    kind: str
    """Type of its value: ``<str>``, ``<size>``, ``<num>`` or ``<bool (on/off)>``."""
    help: str
    """Description, one line."""
    default: str | None
    """Value used if the option is not given, if there is a fixed one."""


_OPTIONS = {
    format: tuple(CreateOption(*option) for option in options)
    for format, options in _native.formats()
}

FORMATS: tuple[str, ...] = tuple(_OPTIONS)
"""The names of all formats, in the order in which they are probed."""

LIMITS: Mapping[str, int] = MappingProxyType({n: value for n, value, _ in _native.limits()})
"""The default resource limits, by the names that ``limits=`` accepts.
``diskimg info --limit help`` describes each of them."""


def create_options(format: str) -> tuple[CreateOption, ...]:
    """Return the create options of ``format`` (``qemu-img create -f FORMAT -o help``).

    Raises:
        InvalidError: The format is unknown.
    """
    try:
        return _OPTIONS[format]
    except KeyError:
        raise InvalidError(f"Unknown format '{format}' (one of: {', '.join(FORMATS)})") from None
