"""The server that exports a disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from diskimg import _native
from diskimg._types import amount, file_or_name, name_only, open_args

if TYPE_CHECKING:
    from typing import Self

    from diskimg._url import Url
    from diskimg.types import BinaryReader, ExternalFiles, Format, Node, Path

ServeArgs = tuple[str | None, tuple[str, int] | None, str, str, int]
"""Where to listen, and how: arguments for the native module."""


def serve(
    file: Path | BinaryReader | Node | Url,
    format: Format | None = None,
    *,
    socket: Path | None = None,
    port: int | None = None,
    address: str = "127.0.0.1",
    writable: bool = False,
    export_name: str = "",
    description: str = "",
    clients: int = 16,
    snapshot: str | None = None,
    external_files: ExternalFiles = "same-dir",
    limits: Mapping[str, int] | None = None,
    force_share: bool = False,
) -> Server:
    """Export a disk by the NBD protocol until the server that is returned is closed.

    Other programs can use an image of any format with it: QEMU, ``nbdcopy``, guestfish. It runs in
    threads of its own, without the GIL.

    >>> diskimg.create("disk.vmdk", "8M").size
    8388608
    >>> with diskimg.serve("disk.vmdk", port=0, export_name="disk") as server:
    ...     print(server.uri.startswith("nbd://127.0.0.1:"), server.uri.endswith("/disk"))
    True True

    There is no authentication and no encryption: any client that connects can read the disk, and
    write it if it is writable.

    Args:
        file: As for `open`; a file name if it is ``writable``.
        format: One of `FORMATS`; by default it is detected. For writing, it is required.
        socket: Create a socket of this name and listen on it. One that a server has left behind
            is replaced.
        port: Listen on this TCP port; 0 is any that is free.
        address: The IP address of the port. With any other than the default, other machines can
            connect.
        writable: Allow clients to write. The image is locked meanwhile.
        export_name: The name of the export. Clients find it by the empty name, too.
        description: A text about the export for people.
        clients: How many clients can be connected at the same time; further ones wait.
        snapshot: Export this internal snapshot (ID or name) instead of the active disk.
        external_files: Which other files the image may refer to.
        limits: Resource limits that differ from the defaults in `LIMITS`, by name.
        force_share: Do not lock the image's files, even if another process is writing to them.

    Raises:
        IoError: It cannot listen there; also an `OSError`.
        UnsupportedError: The format is not given for writing, or the image can only be written
            as a whole.
        ValueError: Neither ``socket`` nor ``port`` is given, or both.
        Error: As `open`.
    """
    if (socket is None) == (port is None):
        raise ValueError("either socket or port must be given")
    if writable and snapshot is not None:
        raise ValueError("snapshots are not written")
    how = open_args(
        format,
        external_files=external_files,
        limits=limits,
        snapshot=snapshot,
        force_share=force_share,
    )
    args: ServeArgs = (
        None if socket is None else os.path.abspath(name_only(socket)),
        None if port is None else (address, amount("port", port)),
        export_name,
        description,
        amount("clients", clients),
    )
    return Server(_native.Server.start(file_or_name(file), how, writable, args))


class Server:
    """A server that exports a disk until it is closed.

    >>> diskimg.create("disk.qcow2", "8M").size
    8388608
    >>> server = diskimg.serve("disk.qcow2", port=0)
    >>> server.close()
    >>> server.closed
    True

    Returned by `serve`. Use it in a ``with`` statement or call `close`.
    """

    __slots__ = ("__weakref__", "_native")

    def __init__(self, native: _native.Server, /) -> None:
        self._native = native

    @property
    def uri(self) -> str:
        """The URI of the export, such as ``nbd+unix:///?socket=/tmp/disk.sock``."""
        return self._native.uri

    @property
    def closed(self) -> bool:
        """Whether the server has been closed."""
        return self._native.closed

    def close(self) -> None:
        """End the server: answer the requests that it has received, and store what was written.

        Raises:
            IoError: What was written cannot be stored; also an `OSError`.
        """
        self._native.close()

    def __enter__(self) -> Self:
        """Return the server itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the server."""
        self.close()
