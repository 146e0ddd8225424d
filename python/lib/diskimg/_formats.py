"""Image formats, create options and limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import cast

from diskimg import _native
from diskimg._words import choice
from diskimg.types import Format


@dataclass(frozen=True, slots=True)
class CreateOption:
    """A create option of a format.

    >>> [option] = [o for o in diskimg.create_options("qcow2") if o.name == "cluster_size"]
    >>> option.kind, option.default
    ('<size>', '65536')
    """

    name: str
    """Name of the option, as in ``options``."""
    kind: str
    """Type of its value: ``<str>``, ``<size>``, ``<num>`` or ``<bool (on/off)>``."""
    help: str
    """Description, one line."""
    default: str | None
    """Value used if the option is not given, if there is a fixed one."""


_OPTIONS = {
    cast(Format, format): tuple(CreateOption(*option) for option in options)
    for format, options in _native.formats()
}

FORMATS: tuple[Format, ...] = tuple(_OPTIONS)
"""The names of all formats, in the order in which they are probed."""

LIMITS: Mapping[str, int] = MappingProxyType({n: value for n, value, _ in _native.limits()})
"""The default resource limits, by the names that ``limits=`` accepts.
``diskimg info --limit help`` describes each of them."""


def create_options(format: Format) -> tuple[CreateOption, ...]:
    """Return the create options of ``format`` (``qemu-img create -f FORMAT -o help``).

    >>> [option.name for option in diskimg.create_options("raw")]
    ['size', 'nocow', 'preallocation', 'extent_size_hint', 'subformat', 'compression_level']

    Raises:
        InvalidError: The format is unknown.
    """
    return _OPTIONS[cast(Format, choice("Format", "format", format))]


def option_names(format: str) -> list[str]:
    """Return the names of the create options of a format."""
    return [option.name for option in create_options(cast(Format, format))]
