"""Creation of ISO images."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypeAlias, TypedDict

from diskimg import _log, _native
from diskimg._errors import InvalidError
from diskimg._progress import progress_callback
from diskimg._types import file_or_name, name_only
from diskimg._words import WORDS, choice, shown, unknown
from diskimg.iso._boot import BootArgs, BootImage, Hybrid, boot_args
from diskimg.iso._results import Created, encode_path
from diskimg.types import BinaryWriter, Hide, JolietMode, Path, Progress, RockRidgeMode

Content: TypeAlias = bytes | bytearray | memoryview | str | os.PathLike[str] | os.PathLike[bytes]
"""Contents of a file: its bytes, its text (`str`, encoded as UTF-8), or a path object
(`pathlib.Path`) that names a file or directory on the host."""

Tree: TypeAlias = Mapping[str, "Content | Tree"]
"""Contents of an image by path; a nested mapping is a directory."""

Profile: TypeAlias = Literal["openstack", "nocloud", "oemdrv"]
"""The purpose of an image, which determines its label."""

Time: TypeAlias = datetime | int
"""A time; a number is in seconds since 1970."""

Addition: TypeAlias = tuple[bytes, bytes | str | None]
"""A path in the image with its contents: bytes, a host path (`str`), or `None` for a directory."""

_LABELS: dict[str, str] = {"openstack": "config-2", "nocloud": "cidata", "oemdrv": "OEMDRV"}
"""Volume labels by profile."""

Times: TypeAlias = tuple[int | None, int | None, int | None]
"""Latest time allowed, time of the volume and time of all files, in seconds since 1970."""


class CreateArgs(TypedDict):
    """How an image is created: arguments for the native module."""

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
    udf: bool
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
    hide: list[tuple[str, str]]
    weights: list[tuple[str, int]]
    translation_tables: str | None
    charset: str
    boot: BootArgs | None


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
    rock_ridge: bool | RockRidgeMode = True,
    joliet: bool | JolietMode = True,
    udf: bool = False,
    level: Literal[1, 2, 3, 4] = 3,
    strict_names: bool = False,
    uid: int | None = None,
    gid: int | None = None,
    dir_mode: int | None = None,
    file_mode: int | None = None,
    deep_directories: bool = True,
    follow_symlinks: bool = False,
    exclude: Sequence[str] = (),
    hide: Sequence[tuple[str, Hide]] = (),
    weights: Mapping[str, int] | None = None,
    translation_tables: bool | str = False,
    charset: str = "utf-8",
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
    """Create an ISO image from a directory or from data in memory.

    >>> tree = {"hello.txt": "hello\\n", "data": {"zeros": bytes(4096)}, "empty": {}}
    >>> iso.create("new.iso", tree, volume_id="FILES").size > 4096
    True
    >>> [entry.path for entry in iso.open("new.iso").walk()]
    ['data', 'data/zeros', 'empty', 'hello.txt']

    A file ``output`` appears under its name only when it is complete. The same tree and options
    always produce the same bytes.

    Args:
        output: A file name or a binary file object, as for `diskimg.convert`. A file object that
            cannot seek is written sequentially.
        tree: The name of a directory whose contents go into the image, or a mapping of paths to
            contents:
            ``{"a.txt": "text", "dir/b": b"bytes", "c": Path("/host/file"), "empty": {}}``.
        profile: The purpose of the image, which determines its label: ``openstack`` (config-2),
            ``nocloud`` (cidata) or ``oemdrv`` (OEMDRV).
        volume_id: The volume label: at most 32 bytes, stored unchanged. ``CDROM`` by default.
        system_id: System identifier: at most 32 bytes.
        volume_set_id: Volume set identifier: at most 128 bytes, like the following three.
        publisher: Publisher identifier.
        preparer: Data preparer identifier.
        application: Application identifier.
        rock_ridge: Write Rock Ridge names and POSIX attributes. `True` means ``rationalized``:
            owned by root, readable by all, writable by nobody. ``preserved`` keeps the
            attributes of the host's files.
        joliet: Write a Joliet tree for Windows. Names have up to 64 characters, with ``long`` up
            to 103.
        udf: Write a UDF 1.02 tree, as on Windows installation media. Files may have any length.
        level: ISO 9660 level of the primary tree's names. 1: 8.3 names. 2: names of up to 31
            characters. 3: as 2, with files of 4 GiB and larger. 4: ISO 9660:1999, names of up to
            193 bytes, or 207 without Rock Ridge.
        strict_names: Restrict the primary tree's names to A-Z, 0-9 and ``_``. By default ASCII
            characters are kept.
        uid: Owner of all files and directories.
        gid: Group of all files and directories.
        dir_mode: Permissions of all directories.
        file_mode: Permissions of all files.
        deep_directories: Leave directories deeper than eight levels in place. The specification
            does not allow this, but all readers accept it.
        follow_symlinks: Store the files that symbolic links point to instead of the links.
        exclude: Host files to leave out: shell patterns for names or for whole paths.
        hide: Files to hide: a shell pattern for names or for whole paths, and how. ``primary``
            omits them from the primary tree and from Rock Ridge, ``joliet`` from Joliet, ``udf``
            from UDF; ``flag`` marks them as hidden.
        weights: The order of the contents of host files: weights by shell patterns for whole
            paths, of which the last that matches counts. Greater weights come first.
        translation_tables: Add a file ``TRANS.TBL``, or with this name, to every directory, which
            lists the original names.
        charset: Character set of the names of host files, such as ``cp437``. Joliet names are
            converted from it; Rock Ridge names become UTF-8.
        source_date_epoch: The latest time to record; later times are replaced with it. Defaults
            to the environment variable ``SOURCE_DATE_EPOCH``.
        volume_time: Creation time of the image; by default the latest modification time of its
            files.
        file_time: Modification time of all files.
        padding: Number of sectors of zeros to append; mkisofs appends 150.
        alignment: Alignment of file contents in bytes. With 4096, file systems that support
            reflinks share the contents with the source files.
        boot: The boot catalog's entries for booting from a disc, the default entry first.
        boot_catalog: Path of the boot catalog in the image; `None` makes it invisible.
        hybrid: Options for booting from a disk.
        durable: Flush a file to stable storage before it gets its name.
        progress: As for `diskimg.convert`, with the number of bytes of the image.

    Raises:
        InvalidError: A name is not a valid file name, an option is invalid or a text is too long;
            also a `ValueError`.
        IoError: A file cannot be read or has changed in the meantime, or the output cannot be
            written; also an `OSError`.
        LimitError: The image would exceed the maximum size of an ISO image.
        KeyboardInterrupt: Ctrl-C was pressed; an existing file ``output`` is unchanged.
        Exception: An exception raised by a file object or by ``progress``, unchanged.
    """
    how = create_args(
        volume_id=_label(profile, volume_id),
        system_id=system_id,
        volume_set_id=volume_set_id,
        publisher=publisher,
        preparer=preparer,
        application=application,
        level=level,
        strict_names=strict_names or level == 1,
        rock_ridge=_mode("RockRidgeMode", "rock_ridge", rock_ridge),
        joliet=_mode("JolietMode", "joliet", joliet),
        udf=udf,
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
        hide=[(pattern, choice("Hide", "hide", how)) for pattern, how in hide],
        weights=weights,
        translation_tables="TRANS.TBL" if translation_tables is True else translation_tables,
        charset=charset,
        boot=boot_args(boot, boot_catalog, hybrid),
    )
    added: Sequence[Addition] = (
        additions(tree) if isinstance(tree, Mapping) else [(b"", name_only(tree))]
    )
    given = file_or_name(output)
    with (
        _log.operation("iso.create", output) as details,
        progress_callback(progress, "create") as callback,
    ):
        size, warnings = _native.iso_create(given, how, added, durable, callback)
        details.append(f"{size} bytes")
    _log.warnings("iso.create", output, warnings)
    return Created(size, tuple(warnings))


def config_drive(
    files: Mapping[str, Any],
    *,
    publisher: str = "",
    source_date_epoch: Time | None = None,
) -> bytes:
    """Create an OpenStack config drive (label ``config-2``) in memory.

    >>> from diskimg import iso
    >>> drive = iso.config_drive({
    ...     "openstack/latest/meta_data.json": {"uuid": "83679162", "hostname": "web-1"},
    ...     "openstack/latest/user_data": "#!/bin/sh\\necho hello\\n",
    ... })
    >>> iso.open(drive).label
    'config-2'

    Args:
        files: Contents by path: `bytes`, text, or anything that `json.dumps` accepts (a `dict`
            or a `list`).
        publisher: Publisher identifier; Nova writes its product name and version.
        source_date_epoch: The time of all files. Defaults to the environment variable
            ``SOURCE_DATE_EPOCH``, else to the beginning of 1970.

    Raises:
        InvalidError: A name is not a valid file name; also a `ValueError`.
    """
    added = [(encode_path(path), _document(content)) for path, content in files.items()]
    how = create_args(volume_id="config-2", publisher=publisher, times=times(source_date_epoch))
    return _native.iso_bytes(how, added)


def nocloud(
    user_data: Any,
    meta_data: Any,
    network_config: Any = None,
    vendor_data: Any = None,
    *,
    source_date_epoch: Time | None = None,
) -> bytes:
    """Create a NoCloud seed (label ``cidata``) for cloud-init or cloudbase-init in memory.

    >>> from diskimg import iso
    >>> seed = iso.nocloud({"hostname": "web-1"}, {"instance-id": "i-1"})
    >>> iso.open(seed).read("user-data")
    b'#cloud-config\\n{"hostname": "web-1"}\\n'

    Args:
        user_data: `bytes`, text or a mapping, which becomes a cloud-config.
        meta_data: `bytes`, text or a mapping; it should contain an ``instance-id``.
        network_config: `bytes`, text or a mapping: a network configuration of version 1 or 2.
        vendor_data: Like ``user_data``.
        source_date_epoch: As for `config_drive`.
    """
    documents = {
        b"meta-data": _document(meta_data),
        b"network-config": None if network_config is None else _document(network_config),
        b"user-data": _cloud_config(user_data),
        b"vendor-data": None if vendor_data is None else _cloud_config(vendor_data),
    }
    added = [(path, content) for path, content in documents.items() if content is not None]
    how = create_args(volume_id="cidata", times=times(source_date_epoch))
    return _native.iso_bytes(how, added)


def _document(content: Any) -> bytes:
    """Return bytes and text unchanged, anything else as JSON, which is also valid YAML."""
    if isinstance(content, str):
        return content.encode()
    if isinstance(content, bytes | bytearray | memoryview):
        return bytes(content)
    return json.dumps(content).encode() + b"\n"


def _cloud_config(content: Any) -> bytes:
    header = b"#cloud-config\n" if isinstance(content, Mapping) else b""
    return header + _document(content)


def create_args(
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
    udf: bool = False,
    uid: int | None = None,
    gid: int | None = None,
    dir_mode: int | None = None,
    file_mode: int | None = None,
    deep_directories: bool = True,
    follow_symlinks: bool = False,
    padding: int = 0,
    alignment: int = 2048,
    exclude: Iterable[str] = (),
    hide: Iterable[tuple[str, str]] = (),
    weights: Mapping[str, int] | None = None,
    translation_tables: str | Literal[False] = False,
    charset: str = "utf-8",
    boot: BootArgs | None = None,
) -> CreateArgs:
    """Collect the arguments that say how an image is created."""
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
        "udf": udf,
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
        "hide": list(hide),
        "weights": list((weights or {}).items()),
        "translation_tables": translation_tables or None,
        "charset": charset,
        "boot": boot,
    }


def additions(tree: Mapping[str, Any], parent: bytes = b"") -> list[Addition]:
    """Flatten a tree into paths with their contents, in order.

    Raises:
        TypeError: A value is neither contents nor a mapping.
    """
    added: list[Addition] = []
    for name, content in tree.items():
        path = parent + encode_path(name)
        if isinstance(content, Mapping):
            added.append((path, None))
            added += additions(content, path + b"/")
        else:
            added.append((path, _content(content)))
    return added


def _content(content: object) -> bytes | str:
    """Return file contents as `bytes`, and a host path as `str`."""
    if isinstance(content, str):
        return content.encode()
    if isinstance(content, os.PathLike):
        return os.fsdecode(content)
    if isinstance(content, bytes | bytearray | memoryview):
        return bytes(content)
    raise TypeError(
        f"a file's content must be bytes, str or os.PathLike, not {type(content).__name__}"
    )


def times(
    source_date_epoch: Time | None, volume: Time | None = None, files: Time | None = None
) -> Times:
    """Convert times for the native module.

    Raises:
        InvalidError: ``SOURCE_DATE_EPOCH`` is not a number.
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
    if profile is not None and not isinstance(profile, str):
        raise TypeError(f"profile must be a str, not {type(profile).__name__}")
    if profile is not None and profile.lower() not in _LABELS:
        raise unknown(f"profile={shown(profile)} is not one of", profile, _LABELS)
    if volume_id is not None:
        return volume_id
    return "CDROM" if profile is None else _LABELS[profile.lower()]


def _mode(enumeration: str, argument: str, chosen: bool | str) -> str | None:
    """Return the word for a mode; `True` is the first one of the enumeration."""
    if isinstance(chosen, bool):
        return WORDS[enumeration][0] if chosen else None
    return choice(enumeration, argument, chosen)
