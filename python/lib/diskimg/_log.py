"""Messages for the logger ``diskimg`` of Python's `logging`.

They are written by Python code in the thread that called a function, before and after the native
module works, so that no handler runs while a lock of the library is held.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from diskimg import _native

if TYPE_CHECKING:
    import logging

_LONGEST = 200
"""Maximum length of the names in a message."""

_has_warned = False
"""Whether the program was told that a file system has no locks."""


def _logger() -> logging.Logger | None:
    """Return the logger; `None` if the program has not imported `logging`, which takes long."""
    module = sys.modules.get("logging")
    if module is None or not hasattr(module, "NullHandler"):
        return None
    logger: logging.Logger = module.getLogger("diskimg")
    if not logger.handlers:
        # Without one, warnings would be printed if the program configures no logging.
        logger.addHandler(module.NullHandler())
    return logger


def _write(level: str, message: str, *values: object) -> None:
    logger = _logger()
    if logger is None:
        return
    try:
        getattr(logger, level)(message, *values)
    except Exception:
        # A filter or handler of the program has failed. The operation has not.
        return


@contextmanager
def operation(what: str, *names: object) -> Iterator[list[str]]:
    """Log the beginning of an operation on images at DEBUG and its end at INFO.

    Provides a list to which details for the last message can be added.
    """
    shown = " -> ".join(name_of(name) for name in names)
    _write("debug", "%s: %s: started", what, shown)
    begin = time.monotonic()
    details: list[str] = []
    try:
        yield details
    except BaseException as error:
        seconds = time.monotonic() - begin
        # The error itself is raised; who handles it decides whether it is worth a warning.
        _write("info", "%s: %s: %s after %.3f s", what, shown, type(error).__name__, seconds)
        raise
    done = ", ".join([f"completed in {time.monotonic() - begin:.3f} s", *details])
    _write("info", "%s: %s: %s", what, shown, done)
    _warn_of_missing_locks(what, shown)


def _warn_of_missing_locks(what: str, shown: str) -> None:
    global _has_warned
    if not _has_warned and _native.take_modified_without_locks():
        _has_warned = True
        message = "the file system has no locks: other programs that use it are not noticed"
        _write("warning", "%s: %s: %s", what, shown, message)


def warnings(what: str, name: object, messages: Iterable[str]) -> None:
    """Log what is wrong with an image but did not prevent the operation: WARNING."""
    for message in messages:
        _write("warning", "%s: %s: %s", what, name_of(name), message)


def name_of(image: object) -> str:
    """Return the name of an image, or of a file object, for a message."""
    if isinstance(image, Sequence) and not isinstance(image, str | bytes | bytearray | memoryview):
        name = ", ".join(name_of(one) for one in image[:3]) + (", …" if len(image) > 3 else "")
    elif isinstance(image, str | bytes | os.PathLike):
        name = os.fsdecode(image)
    else:
        given = getattr(image, "name", None)
        name = given if isinstance(given, str) else f"<{type(image).__name__}>"
    name = name if len(name) <= _LONGEST else name[:_LONGEST] + "…"
    return name if name.isprintable() else ascii(name)[1:-1]
