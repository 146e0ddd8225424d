"""Modified copies of ISO images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TypeAlias, TypedDict, overload

from diskimg import _log, _native
from diskimg._errors import RefusedError
from diskimg._progress import progress_callback
from diskimg._types import file_or_name
from diskimg._words import choice
from diskimg.iso._create import Addition, Content, Time, Times, Tree, additions, times
from diskimg.iso._image import Iso, open
from diskimg.iso._results import Created, encode_path
from diskimg.types import (
    BinaryReader,
    BinaryWriter,
    Droppable,
    ExternalFiles,
    Format,
    Path,
    Progress,
)

Source: TypeAlias = Path | bytes | bytearray | memoryview | BinaryReader | Iso


class RemasterArgs(TypedDict):
    """What to change: arguments for the native module."""

    volume_id: str | None
    drop: list[str]
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
    drop: Sequence[Droppable] = (),
    format: Format | None = None,
    external_files: ExternalFiles = "same-dir",
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
    drop: Sequence[Droppable] = (),
    format: Format | None = None,
    external_files: ExternalFiles = "same-dir",
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
    drop: Sequence[Droppable] = (),
    format: Format | None = None,
    external_files: ExternalFiles = "same-dir",
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
    drop: Sequence[Droppable] = (),
    format: Format | None = None,
    external_files: ExternalFiles = "same-dir",
    limits: Mapping[str, int] | None = None,
    source_date_epoch: Time | None = None,
    durable: bool = True,
    progress: Progress = None,
) -> bytes | Created:
    """Create a modified copy of an image. Everything else is kept, including the label, the boot
    images, the boot code and the partitions.

    >>> iso.create("old.iso", {"a": "old", "b": "kept", "c": "removed"}).warnings
    ()
    >>> with iso.open(iso.remaster("old.iso", {"a": "new", "c": None})) as image:
    ...     [(entry.path, image.read(entry.path)) for entry in image.walk()]
    [('a', b'new'), ('b', b'kept')]

    Args:
        source: The image, as for `open`, or an open one.
        changes: New contents by path, as for `create`; `None` removes a file, or a directory
            with everything in it.
        output: The output, as for `create`. By default the new image is returned as `bytes`.
        volume_id: New volume label.
        drop: What may be left out if it cannot be kept; each part that is left out is a warning.
        format: The source's format; by default it is detected.
        external_files: Which other files the source may refer to.
        limits: Resource limits that differ from the defaults in `LIMITS`, by name.
        source_date_epoch: As for `create`.
        durable: As for `create`.
        progress: As for `create`.

    Raises:
        CorruptError, UnsupportedError, LimitError: The source cannot be read completely, or a part
            cannot be kept; nothing is silently left out.
        InvalidError: A path to be removed does not exist; also as for `create`.
        Error: As `open` and `create`.
    """
    is_output = output is not None and not isinstance(output, str | bytes | os.PathLike)
    if is_output and source is output:
        raise RefusedError("the output is one of the source's own files")
    how: RemasterArgs = {
        "volume_id": volume_id,
        "drop": [choice("Droppable", "drop", one) for one in drop],
        "times": times(source_date_epoch),
        "removed": [encode_path(path) for path, content in changes.items() if content is None],
        "added": additions({p: c for p, c in changes.items() if c is not None}),
    }
    if isinstance(source, Iso):
        return _remaster(source, how, output, durable, progress)
    with open(source, format=format, external_files=external_files, limits=limits) as image:
        return _remaster(image, how, output, durable, progress)


def _remaster(
    image: Iso,
    how: RemasterArgs,
    output: Path | BinaryWriter | None,
    durable: bool,
    progress: Progress,
) -> bytes | Created:
    if output is None:
        return _native.iso_remaster_bytes(image._native, how)
    given = file_or_name(output)
    with (
        _log.operation("iso.remaster", image, output) as details,
        progress_callback(progress, "remaster") as callback,
    ):
        size, warnings = _native.iso_remaster(image._native, how, given, durable, callback)
        details.append(f"{size} bytes")
    _log.warnings("iso.remaster", image, warnings)
    return Created(size, tuple(warnings))
