"""Images on servers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from diskimg import _native
from diskimg.types import Path

UrlArgs = tuple[str, list[tuple[str, str]], str | None, bool, bool, bool]
"""A URL and how its server is accessed: arguments for the native module."""


@dataclass(frozen=True, slots=True)
class Url:
    """An image on a server: an argument instead of a file name.

    Of a web server, every request is for the version of the file that was opened: a file that
    changes on the server while it is read is an error. An export of an NBD server can also be
    written, as ``convert(…, in_place=True)`` does. A text is never a URL, so that a name which a stranger has chosen
    connects to nothing.

    >>> image = diskimg.Url("https://user:password@name.invalid/disk.qcow2")
    >>> print(image)
    https://***@name.invalid/disk.qcow2
    """

    url: str
    """A URL that begins with ``http:``, ``https:``, ``nbd:``, ``nbds:``, ``nbd+unix:`` or
    ``nbds+unix:``. A user and a password of a web server may be before the host, percent-encoded.
    """
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Headers of each request to a web server, such as ``Authorization``. They are not sent to
    another host to which it redirects.
    """
    ca_bundle: Path | None = None
    """A file with certificates of authorities (PEM) that are trusted instead of the system's."""
    insecure: bool = False
    """Do not verify certificates: anyone on the way can change the image."""
    netrc: bool = True
    """Take the user and the password of a host from ``~/.netrc``, or from the file that ``NETRC``
    in the environment names, if the URL has none.
    """
    private_addresses: bool = True
    """Whether the server may have an address of a private network, of this host, or a link-local
    one. Set it to `False` for URLs of strangers.
    """

    def __str__(self) -> str:
        """Return the URL without user, password and the values of a query."""
        return _native.shown_url(self.url)

    def __repr__(self) -> str:
        """Return a description without secrets."""
        return f"Url({str(self)!r})"

    def _args(self) -> UrlArgs:
        return (
            self.url,
            list(self.headers.items()),
            None if self.ca_bundle is None else os.fsdecode(self.ca_bundle),
            self.insecure,
            self.netrc,
            self.private_addresses,
        )
