"""ISO images out of others."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TypeAlias, TypedDict, overload

from diskimg import _native
from diskimg._errors import RefusedError
from diskimg._progress import Progress, shown
from diskimg._types import BinaryReader, BinaryWriter, Path, References, file_or_name
from diskimg.iso._create import Addition, Content, Time, Times, Tree, additions, times
from diskimg.iso._image import Iso, open
from diskimg.iso._results import Created, encoded

Source: TypeAlias = Path | bytes | bytearray | memoryview | BinaryReader | Iso


class Changes(TypedDict):
    """What shall be different, for the native half."""

    volume_id: str | None
    times: Times
    removed: list[bytes]
    added: list[Addition]


@overload
def remaster(
    source: Source,
    changes: Mapping[str, Content | Tree | None],
    output: None = None,
    *,
    volume_id: str | None = None,
    format: str | None = None,
    references: References = "same-dir",
    limits: Mapping[str, int] | None = None,
    source_date_epoch: Time | None = None,
    durable: bool = True,
    progress: Progress = None,
) -> bytes: ...
@overload
def remaster(
    source: Source,
    changes: Mapping[str, Content | Tree | None],
    output: Path | BinaryWriter,
    *,
    volume_id: str | None = None,
    format: str | None = None,
    references: References = "same-dir",
    limits: Mapping[str, int] | None = None,
    source_date_epoch: Time | None = None,
    durable: bool = True,
    progress: Progress = None,
) -> Created: ...
@overload
def remaster(
    source: Source,
    changes: Mapping[str, Content | Tree | None],
    output: Path | BinaryWriter | None = None,
    *,
    volume_id: str | None = None,
    format: str | None = None,
    references: References = "same-dir",
    limits: Mapping[str, int] | None = None,
    source_date_epoch: Time | None = None,
    durable: bool = True,
    progress: Progress = None,
) -> bytes | Created: ...
def remaster(
    source: Source,
    changes: Mapping[str, Content | Tree | None],
    output: Path | BinaryWriter | None = None,
    *,
    volume_id: str | None = None,
    format: str | None = None,
    references: References = "same-dir",
    limits: Mapping[str, int] | None = None,
    source_date_epoch: Time | None = None,
    durable: bool = True,
    progress: Progress = None,
) -> bytes | Created:
    """Make an image anew, with changes: all that is in it, its label, and what it starts a
    machine with stay.

    Args:
        source: The image, as for `open`; or an open one.
        changes: By path, what a file shall hold, as for `create`; `None` takes a file, or a
            directory with all in it, away.
        output: Where to, as for `create`. By default the new image is what is returned.
        volume_id: Another label.
        format: The source's format; by default its first bytes tell.
        references: Which other files the source may name.
        limits: How much the image may ask for: other bounds than those of `LIMITS`, by name.
        source_date_epoch: As for `create`.
        durable: As for `create`.
        progress: As for `create`.

    Raises:
        CorruptError, UnsupportedError, LimitError: Not all of the source can be read:
            nothing is left out in silence.
        InvalidError: There is nothing to be taken away; as for `create`.
        Error: As `open` and `create`.
    """
    is_output = output is not None and not isinstance(output, str | bytes | os.PathLike)
    if is_output and source is output:
        raise RefusedError("the output is one of the source's own files")
    how: Changes = {
        "volume_id": volume_id,
        "times": times(source_date_epoch),
        "removed": [encoded(path) for path, content in changes.items() if content is None],
        "added": additions({p: c for p, c in changes.items() if c is not None}),
    }
    if isinstance(source, Iso):
        return _remaster(source, how, output, durable, progress)
    with open(source, format=format, references=references, limits=limits) as image:
        return _remaster(image, how, output, durable, progress)


def _remaster(
    image: Iso,
    how: Changes,
    output: Path | BinaryWriter | None,
    durable: bool,
    progress: Progress,
) -> bytes | Created:
    if output is None:
        return _native.iso_remaster_bytes(image._native, how)
    with shown(progress, "remaster") as callback:
        size, warnings = _native.iso_remaster(
            image._native, how, file_or_name(output), durable, callback
        )
    return Created(size, tuple(warnings))
