"""The function that measures requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from diskimg import _log, _native
from diskimg._types import amount, name_only, open_args

if TYPE_CHECKING:
    from diskimg.types import ExternalFiles, Format, Path


def bench(
    path: Path,
    *,
    format: Format | None = None,
    requests: int = 75_000,
    depth: int = 64,
    length: int = 4096,
    offset: int = 0,
    step: int | None = None,
    pattern: int | None = None,
    flush_interval: int | None = None,
    external_files: ExternalFiles = "same-dir",
    limits: Mapping[str, int] | None = None,
    force_share: bool = False,
) -> float:
    """Make requests of one length to a disk, and return how many seconds they took.

    >>> diskimg.create("disk.qcow2", "1M").size
    1048576
    >>> diskimg.bench("disk.qcow2", requests=100, length=65_536) < 60
    True

    After the end of the disk, requests continue at its beginning.

    Args:
        path: The image's file name, or a block device.
        format: One of `FORMATS`; by default it is detected. For writing, it is required.
        requests: Number of requests.
        depth: How many are made at the same time, each by a thread; at most 64 are.
        length: Length of a request in bytes.
        offset: Offset of the first request in bytes.
        step: Distance in bytes from one request to the next; by default ``length``.
        pattern: Write this byte instead of reading. The content of the disk is lost.
        flush_interval: Flush the file after this number of requests, when writing.
        external_files: Which other files the image may refer to.
        limits: Resource limits that differ from the defaults in `LIMITS`, by name.
        force_share: Do not lock the files, even if another process is writing to them.

    Raises:
        InvalidError: A request exceeds the disk; also a `ValueError`.
        UnsupportedError: The format is not given for writing, or the image can only be written as
            a whole.
        Error: As `open`.
    """
    name = name_only(path)
    how = open_args(format, external_files=external_files, limits=limits, force_share=force_share)
    numbers = (
        amount("requests", requests),
        amount("depth", depth),
        amount("length", length),
        amount("offset", offset),
        amount("step", length if step is None else step),
        amount("flush_interval", flush_interval or 0),
    )
    byte = None if pattern is None else amount("pattern", pattern)
    if byte is not None and byte > 0xFF:
        raise ValueError(f"pattern must be a byte, not {pattern}")
    with _log.operation("bench", name):
        return _native.bench(name, how, numbers, byte)
