"""Words as arguments: formats, policies and modes, and the names of options and limits."""

from __future__ import annotations

from collections.abc import Iterable

from diskimg import _native
from diskimg._errors import InvalidError

WORDS: dict[str, list[str]] = dict(_native.words())
"""The words of each enumeration."""


def choice(enumeration: str, argument: str, given: str) -> str:
    """Return the word of an enumeration of `diskimg.types` that ``given`` means, in any case.

    Raises:
        TypeError: It is not a string.
        InvalidError: It is none of the words.
    """
    if not isinstance(given, str):
        raise TypeError(f"{argument} must be a str, not {type(given).__name__}")
    found = _native.word(enumeration, given)
    if found is None:
        raise unknown(f"{argument}={shown(given)} is not one of", given, WORDS[enumeration])
    return found


def optional(enumeration: str, argument: str, given: str | None) -> str | None:
    """Return the word that ``given`` means, if it is one."""
    return None if given is None else choice(enumeration, argument, given)


def shown(text: str) -> str:
    """Return a text for a message: in quotes, and not too long."""
    return repr(text if len(text) <= 60 else f"{text[:60]}…")


def unknown(what: str, given: str, known: Iterable[str]) -> InvalidError:
    """Return the error for a word that is not known, with the one that was probably meant."""
    from difflib import get_close_matches

    known = list(known)
    by_lower = {one.lower(): one for one in known}
    # A long text is no misspelled word, and comparing it takes long.
    near = get_close_matches(given.lower(), by_lower, 1) if len(given) < 100 else []
    hint = f"; did you mean {by_lower[near[0]]!r}?" if near else ""
    return InvalidError(f"{what}: {', '.join(known)}{hint}")
