"""New ISO images."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypeAlias, TypedDict

from diskimg import _native
from diskimg._errors import InvalidError
from diskimg._progress import Progress, shown
from diskimg._types import BinaryWriter, Path, file_or_name
from diskimg.iso._boot import BootImage, Booting, Hybrid, booting
from diskimg.iso._results import Created, encoded

Content: TypeAlias = bytes | bytearray | memoryview | str | os.PathLike[str] | os.PathLike[bytes]
"""A file's bytes; or `str`, its text (UTF-8); or a path object (`pathlib.Path`): the file or
directory that it names."""

Tree: TypeAlias = Mapping[str, "Content | Tree"]
"""What an image holds, by path; a mapping in it is a directory."""

Profile: TypeAlias = Literal["openstack", "nocloud", "oemdrv"]
"""What an image is for."""

Time: TypeAlias = datetime | int
"""A moment; a number counts the seconds since 1970."""

Addition: TypeAlias = tuple[bytes, bytes | str | None]
"""A path in the image, and for the native half: bytes, a name of the host, or nothing."""

_LABELS: dict[str, str] = {"openstack": "config-2", "nocloud": "cidata", "oemdrv": "OEMDRV"}
"""By profile."""

Times: TypeAlias = tuple[int | None, int | None, int | None]
"""The latest moment of all, the volume's, all files': in seconds, for the native half."""


class Making(TypedDict):
    """What a new image is like, for the native half."""

    volume_id: str
    system_id: str
    volume_set_id: str
    publisher: str
    preparer: str
    application: str
    level: int
    strict_names: bool
    rock_ridge: str | None
    joliet: str | None
    uid: int | None
    gid: int | None
    dir_mode: int | None
    file_mode: int | None
    deep_directories: bool
    follow_symlinks: bool
    times: Times
    padding: int
    alignment: int
    exclude: list[str]
    boot: Booting | None


def create(
    output: Path | BinaryWriter,
    tree: Path | Tree,
    *,
    profile: Profile | None = None,
    volume_id: str | None = None,
    system_id: str = "LINUX",
    volume_set_id: str = "",
    publisher: str = "",
    preparer: str = "",
    application: str = "",
    rock_ridge: bool | Literal["rationalized", "preserved"] = True,
    joliet: bool | Literal["standard", "long"] = True,
    level: Literal[1, 2, 3] = 3,
    strict_names: bool = False,
    uid: int | None = None,
    gid: int | None = None,
    dir_mode: int | None = None,
    file_mode: int | None = None,
    deep_directories: bool = True,
    follow_symlinks: bool = False,
    exclude: Sequence[str] = (),
    source_date_epoch: Time | None = None,
    volume_time: Time | None = None,
    file_time: Time | None = None,
    padding: int = 0,
    alignment: int = 2048,
    boot: Sequence[BootImage] = (),
    boot_catalog: str | None = "boot.cat",
    hybrid: Hybrid | None = None,
    durable: bool = True,
    progress: Progress = None,
) -> Created:
    """Create an ISO image of a directory, or of what is in memory.

    A file ``output`` appears under its name when it is complete, and not at all otherwise.
    The same tree and options make the same bytes.

    Args:
        output: Its name, or a binary file object: written as `diskimg.convert` does, and
            strictly in order where it cannot seek.
        tree: A directory's name, for what is in it; or a mapping of paths to contents:
            ``{"a.txt": "text", "dir/b": b"bytes", "c": Path("/host/file"), "empty": {}}``.
        profile: What it is for, which gives it its label: ``openstack`` (config-2),
            ``nocloud`` (cidata), ``oemdrv`` (OEMDRV).
        volume_id: The label: at most 32 bytes, taken as they are. ``CDROM`` by default.
        system_id: For which system: at most 32 bytes.
        volume_set_id: Of which set: at most 128 bytes, as the following ones.
        publisher: Who publishes it.
        preparer: Who prepared its data.
        application: What made it.
        rock_ridge: POSIX names and attributes. `True` is ``rationalized``: owned by root,
            readable by all, writable by none. ``preserved``: as in the tree.
        joliet: A tree of names for Windows, up to 64 characters, or ``long``: 103.
        level: Of the primary tree's names. 1: eight characters and three. 2: 31 characters.
            3: and files of 4 GiB and more.
        strict_names: The primary tree's names consist of A to Z, digits and ``_``. By
            default they stay as they are, as far as they are ASCII.
        uid: Owner of everything.
        gid: Group of everything.
        dir_mode: Permissions of every directory.
        file_mode: Permissions of every file.
        deep_directories: Directories deeper than eight stay where they are, as all readers
            take it, though the specification does not allow it.
        follow_symlinks: Take what links lead to, not the links.
        exclude: Shell patterns for names, or whole paths, of the host's files that are left out.
        source_date_epoch: No moment recorded is later. By default the environment's
            ``SOURCE_DATE_EPOCH``.
        volume_time: When the image was made; by default when its youngest file changed.
        file_time: When all files were changed.
        padding: Sectors of zeros behind the end: mkisofs has 150.
        alignment: Contents begin at a multiple of so many bytes; at 4096, file systems
            with reflinks share them with the files they come from.
        boot: What a machine starts from a disc: the boot catalog's entries, the default one
            first.
        boot_catalog: The catalog's path in the image; `None`: it has none.
        hybrid: What a machine starts from a disk.
        durable: Flush a file to the disk before it gets its name.
        progress: As for `diskimg.convert`, with bytes of the image.

    Raises:
        InvalidError: Names that no file can have, options that make no sense, a text that
            is too long; also a `ValueError`.
        IoError: A file cannot be read, or changed meanwhile; the output cannot be written;
            also an `OSError`.
        LimitError: It would be larger than an ISO image can be.
        KeyboardInterrupt: Ctrl-C; a file ``output`` is as it was.
        Exception: What a file object or ``progress`` raised, unchanged.
    """
    how = making(
        volume_id=_label(profile, volume_id),
        system_id=system_id,
        volume_set_id=volume_set_id,
        publisher=publisher,
        preparer=preparer,
        application=application,
        level=level,
        strict_names=strict_names or level == 1,
        rock_ridge=_choice(rock_ridge, "rationalized"),
        joliet=_choice(joliet, "standard"),
        uid=uid,
        gid=gid,
        dir_mode=dir_mode,
        file_mode=file_mode,
        deep_directories=deep_directories,
        follow_symlinks=follow_symlinks,
        times=times(source_date_epoch, volume_time, file_time),
        padding=padding,
        alignment=alignment,
        exclude=[exclude] if isinstance(exclude, str) else list(exclude),
        boot=booting(boot, boot_catalog, hybrid),
    )
    added: Sequence[Addition] = (
        additions(tree) if isinstance(tree, Mapping) else [(b"", os.fsdecode(tree))]
    )
    with shown(progress, "create") as callback:
        size, warnings = _native.iso_create(file_or_name(output), how, added, durable, callback)
    return Created(size, tuple(warnings))


def config_drive(
    files: Mapping[str, Any],
    *,
    publisher: str = "",
    source_date_epoch: Time | None = None,
) -> bytes:
    """A config drive, as OpenStack gives it to its machines, in memory: label ``config-2``.

    >>> from diskimg import iso
    >>> drive = iso.config_drive({
    ...     "openstack/latest/meta_data.json": {"uuid": "83679162", "hostname": "web-1"},
    ...     "openstack/latest/user_data": "#!/bin/sh\\necho hello\\n",
    ... })
    >>> iso.open(drive).label
    'config-2'

    Args:
        files: Contents by path: `bytes`, text, or what `json.dumps` takes (a `dict`, a
            `list`).
        publisher: Who publishes it: Nova writes its product and version.
        source_date_epoch: The time of all files; by default the environment's
            ``SOURCE_DATE_EPOCH``, else the beginning of 1970.

    Raises:
        InvalidError: Names that no file can have; also a `ValueError`.
    """
    added = [(encoded(path), _document(content)) for path, content in files.items()]
    how = making(volume_id="config-2", publisher=publisher, times=times(source_date_epoch))
    return _native.iso_bytes(how, added)


def nocloud(
    user_data: Any,
    meta_data: Any,
    network_config: Any = None,
    vendor_data: Any = None,
    *,
    source_date_epoch: Time | None = None,
) -> bytes:
    """A seed for cloud-init and cloudbase-init, in memory: label ``cidata``.

    >>> from diskimg import iso
    >>> seed = iso.nocloud({"hostname": "web-1"}, {"instance-id": "i-1"})
    >>> iso.open(seed).read("user-data")
    b'#cloud-config\\n{"hostname": "web-1"}\\n'

    Args:
        user_data: `bytes`, text, or a mapping: a cloud-config.
        meta_data: `bytes`, text, or a mapping; it should have an ``instance-id``.
        network_config: `bytes`, text, or a mapping, in version 1 or 2.
        vendor_data: As ``user_data``.
        source_date_epoch: As for `config_drive`.
    """
    documents = {
        b"meta-data": _document(meta_data),
        b"network-config": None if network_config is None else _document(network_config),
        b"user-data": _cloud_config(user_data),
        b"vendor-data": None if vendor_data is None else _cloud_config(vendor_data),
    }
    added = [(path, content) for path, content in documents.items() if content is not None]
    how = making(volume_id="cidata", times=times(source_date_epoch))
    return _native.iso_bytes(how, added)


def _document(content: Any) -> bytes:
    """As it is, or as JSON, which YAML's readers take as well."""
    if isinstance(content, str):
        return content.encode()
    if isinstance(content, bytes | bytearray | memoryview):
        return bytes(content)
    return json.dumps(content).encode() + b"\n"


def _cloud_config(content: Any) -> bytes:
    header = b"#cloud-config\n" if isinstance(content, Mapping) else b""
    return header + _document(content)


def making(
    *,
    volume_id: str,
    times: Times,
    system_id: str = "LINUX",
    volume_set_id: str = "",
    publisher: str = "",
    preparer: str = "",
    application: str = "",
    level: int = 3,
    strict_names: bool = False,
    rock_ridge: str | None = "rationalized",
    joliet: str | None = "standard",
    uid: int | None = None,
    gid: int | None = None,
    dir_mode: int | None = None,
    file_mode: int | None = None,
    deep_directories: bool = True,
    follow_symlinks: bool = False,
    padding: int = 0,
    alignment: int = 2048,
    exclude: Iterable[str] = (),
    boot: Booting | None = None,
) -> Making:
    """What a new image is like."""
    return {
        "volume_id": volume_id,
        "system_id": system_id,
        "volume_set_id": volume_set_id,
        "publisher": publisher,
        "preparer": preparer,
        "application": application,
        "level": level,
        "strict_names": strict_names,
        "rock_ridge": rock_ridge,
        "joliet": joliet,
        "uid": uid,
        "gid": gid,
        "dir_mode": dir_mode,
        "file_mode": file_mode,
        "deep_directories": deep_directories,
        "follow_symlinks": follow_symlinks,
        "times": times,
        "padding": padding,
        "alignment": alignment,
        "exclude": list(exclude),
        "boot": boot,
    }


def additions(tree: Mapping[str, Any], above: bytes = b"") -> list[Addition]:
    """What a mapping says, in the order in which it is added.

    Raises:
        TypeError: Something in it is neither contents nor a directory.
    """
    added: list[Addition] = []
    for name, content in tree.items():
        path = above + encoded(name)
        if isinstance(content, Mapping):
            added.append((path, None))
            added += additions(content, path + b"/")
        else:
            added.append((path, _content(content)))
    return added


def _content(content: object) -> bytes | str:
    """Bytes as `bytes`, a name of the host as `str`."""
    if isinstance(content, str):
        return content.encode()
    if isinstance(content, os.PathLike):
        return os.fsdecode(content)
    if isinstance(content, bytes | bytearray | memoryview):
        return bytes(content)
    raise TypeError(f"a file's content is bytes, str or os.PathLike, not {type(content).__name__}")


def times(
    source_date_epoch: Time | None, volume: Time | None = None, files: Time | None = None
) -> Times:
    """Moments as the native half takes them.

    Raises:
        InvalidError: ``SOURCE_DATE_EPOCH`` is no number.
    """
    if source_date_epoch is None:
        text = os.environ.get("SOURCE_DATE_EPOCH")
        if text:
            try:
                source_date_epoch = int(text)
            except ValueError:
                message = f"SOURCE_DATE_EPOCH={text!r} must be a number: seconds since 1970"
                raise InvalidError(message) from None
    return _seconds(source_date_epoch), _seconds(volume), _seconds(files)


def _seconds(time: Time | None) -> int | None:
    return int(time.timestamp()) if isinstance(time, datetime) else time


def _label(profile: str | None, volume_id: str | None) -> str:
    if profile is not None and profile not in _LABELS:
        raise InvalidError(f"profile={profile!r} must be one of: {', '.join(_LABELS)}")
    if volume_id is not None:
        return volume_id
    return "CDROM" if profile is None else _LABELS[profile]


def _choice(chosen: bool | str, default: str) -> str | None:
    return (default if chosen else None) if isinstance(chosen, bool) else chosen
