"""Internal snapshots of qcow2 images."""

from __future__ import annotations

import json
from collections.abc import Mapping

from diskimg import _log, _native
from diskimg._results import Snapshot
from diskimg._types import name_only, open_args
from diskimg.types import ExternalFiles, Format, Path


def create_snapshot(
    path: Path,
    name: str,
    *,
    format: Format | None = None,
    external_files: ExternalFiles = "same-dir",
    limits: Mapping[str, int] | None = None,
) -> Snapshot:
    """Create an internal snapshot of the disk of a qcow2 image, as it is now.

    >>> diskimg.create("disk.qcow2", "1G").size
    1073741824
    >>> diskimg.create_snapshot("disk.qcow2", "before the update").id
    '1'
    >>> [snapshot.name for snapshot in diskimg.info("disk.qcow2").snapshots]
    ['before the update']

    If the process is killed or power is lost, the image is as it was before or as it is
    afterwards. Time and memory depend on the image's metadata: no guest data is read.

    Args:
        path: The image's file name, or a block device.
        name: The name of the snapshot, at most 255 bytes, which need not be unique.
        format: ``qcow2``; by default it is detected. Pass it whenever you know it.
        external_files: Which other files the image may refer to.
        limits: Resource limits that differ from the defaults in `LIMITS`, by name.

    Returns:
        The snapshot. Its ID is the highest one of the image and 1.

    Raises:
        LockedError: Another process uses the image.
        UnsupportedError: It is not a qcow2 image, or it has an external data file.
        LimitError: The image cannot have more snapshots, or its refcounts are too narrow.
        CorruptError: The image is damaged, or was not closed properly.
        InvalidError: The name cannot be stored; also a `ValueError`.
        Error: As `open`.
    """
    image = name_only(path)
    how = open_args(format, external_files=external_files, limits=limits)
    with _log.operation("create_snapshot", image) as details:
        created = Snapshot._from_json(json.loads(_native.create_snapshot(image, name, how)))
        details.append(f"snapshot {created.id}")
    return created


def apply_snapshot(
    path: Path,
    snapshot: str | Snapshot,
    *,
    format: Format | None = None,
    external_files: ExternalFiles = "same-dir",
    limits: Mapping[str, int] | None = None,
) -> None:
    """Make the disk of a qcow2 image equal to an internal snapshot, which remains.

    The disk gets the size that it had then. What was written since then is lost.

    >>> diskimg.create("disk.qcow2", "1G").size
    1073741824
    >>> before = diskimg.create_snapshot("disk.qcow2", "before")
    >>> diskimg.resize("disk.qcow2", "2G").new_size
    2147483648
    >>> diskimg.apply_snapshot("disk.qcow2", before)
    >>> diskimg.info("disk.qcow2").virtual_size
    1073741824

    If the process is killed or power is lost, the image is as it was before or as it is
    afterwards.

    Args:
        path: The image's file name, or a block device.
        snapshot: The snapshot, its ID, or its name. The ID is preferred.
        format: ``qcow2``; by default it is detected. Pass it whenever you know it.
        external_files: Which other files the image may refer to.
        limits: Resource limits that differ from the defaults in `LIMITS`, by name.

    Raises:
        LockedError: Another process uses the image.
        UnsupportedError: It is not a qcow2 image, or it has bitmaps or an external data file, or
            it has version 2 and the snapshot another size than the disk.
        InvalidError: There is no such snapshot; also a `ValueError`.
        LimitError: The image's refcounts are too narrow.
        CorruptError: The image is damaged, or was not closed properly.
        Error: As `open`.
    """
    image = name_only(path)
    how = open_args(format, external_files=external_files, limits=limits)
    with _log.operation("apply_snapshot", image) as details:
        _native.apply_snapshot(image, _id(snapshot), how)
        details.append(f"snapshot {_id(snapshot)}")


def delete_snapshot(
    path: Path,
    snapshot: str | Snapshot,
    *,
    format: Format | None = None,
    external_files: ExternalFiles = "same-dir",
    limits: Mapping[str, int] | None = None,
) -> None:
    """Delete an internal snapshot of a qcow2 image.

    >>> diskimg.create("disk.qcow2", "1G").size
    1073741824
    >>> before = diskimg.create_snapshot("disk.qcow2", "before")
    >>> diskimg.delete_snapshot("disk.qcow2", before)
    >>> diskimg.info("disk.qcow2").snapshots
    ()

    If the process is killed or power is lost, the image is as it was before or as it is
    afterwards.

    Args:
        path: The image's file name, or a block device.
        snapshot: The snapshot, its ID, or its name. The ID is preferred.
        format: ``qcow2``; by default it is detected. Pass it whenever you know it.
        external_files: Which other files the image may refer to.
        limits: Resource limits that differ from the defaults in `LIMITS`, by name.

    Raises:
        LockedError: Another process uses the image.
        UnsupportedError: It is not a qcow2 image, or it has an external data file.
        InvalidError: There is no such snapshot; also a `ValueError`.
        CorruptError: The image is damaged, or was not closed properly.
        Error: As `open`.
    """
    image = name_only(path)
    how = open_args(format, external_files=external_files, limits=limits)
    with _log.operation("delete_snapshot", image) as details:
        _native.delete_snapshot(image, _id(snapshot), how)
        details.append(f"snapshot {_id(snapshot)}")


def _id(snapshot: str | Snapshot) -> str:
    """Return the ID of a snapshot, or the ID or name that was given."""
    return snapshot.id if isinstance(snapshot, Snapshot) else snapshot
