"""Progress reports."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from diskimg.types import Callback, Progress


@contextmanager
def progress_callback(progress: Progress, label: str) -> Iterator[Callback | None]:
    """Provide the function to call with the progress, or `None`.

    Raises:
        TypeError: ``progress`` is neither callable nor a bool.
    """
    if progress is None or progress is False:
        yield None
    elif progress is True:
        with _bar(label) as update:
            yield update
    elif callable(progress):
        yield progress
    else:
        raise TypeError(f"progress must be a callable or a bool, not {type(progress).__name__}")


@contextmanager
def _bar(label: str) -> Iterator[Callback]:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        with _percent(label) as update:
            yield update
        return
    with tqdm(desc=label, unit="B", unit_scale=True, unit_divisor=1024) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update


@contextmanager
def _percent(label: str) -> Iterator[Callback]:
    """Print a percentage if standard error is a terminal. Used if tqdm is not installed."""
    terminal = sys.stderr is not None and sys.stderr.isatty()

    def update(done: int, total: int) -> None:
        if terminal and total:
            print(f"\r{label}: {done * 100 // total} %", end="", file=sys.stderr, flush=True)

    try:
        yield update
    finally:
        if terminal:
            print(file=sys.stderr)
