"""Images on servers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from diskimg import _native
from diskimg._errors import InvalidError
from diskimg.types import Path

S3Args = tuple[
    str | None,
    str | None,
    str | None,
    tuple[str, str, str | None] | None,
    bool,
    bool,
    bool,
    str | None,
]
"""How an S3 store is accessed: arguments for the native module."""

SwiftArgs = tuple[
    str | None,
    str | None,
    str | None,
    tuple[str, str, str] | None,
    tuple[str, str] | None,
    bool,
]
"""How Swift is accessed: arguments for the native module."""

UrlArgs = tuple[str, list[tuple[str, str]], str | None, bool, bool, bool, S3Args, SwiftArgs]
"""A URL and how its server is accessed: arguments for the native module."""


@dataclass(frozen=True, slots=True)
class S3:
    """How the store of an ``s3:`` URL is accessed.

    What is not set is taken from the variables and files that Amazon's own tools use, such as
    ``AWS_ACCESS_KEY_ID`` and ``~/.aws/credentials``; unless private addresses are refused: URLs of
    strangers are not for the keys of this user.

    >>> store = diskimg.S3("https://store.invalid", access_key="AK", secret_key="secret")
    >>> print(diskimg.Url("s3://bucket/disk.qcow2", s3=store))
    s3://bucket/disk.qcow2
    """

    endpoint: str | None = None
    """The URL of a store that is compatible with Amazon's."""
    region: str | None = None
    """The region of the bucket. If it is wrong, the store names the right one."""
    profile: str | None = None
    """The profile in the files of AWS whose keys and settings are used."""
    access_key: str | None = None
    """An access key, with `secret_key`."""
    secret_key: str | None = field(default=None, repr=False)
    """The secret of the access key."""
    session_token: str | None = field(default=None, repr=False)
    """The token of a temporary access key."""
    anonymous: bool = False
    """Sign no requests: for public objects."""
    requester_pays: bool = False
    """Pay for the requests to a bucket of others."""
    create_only: bool = False
    """Do not replace an existing object, as far as the store can guarantee that."""
    resume: Path | None = None
    """A file that records the upload of one object: an upload that was interrupted, also by the end
    of the process, is kept, and continued by the next one with the same URL and file. It is removed
    at the end. In its directory, files are created and removed.
    """

    def _args(self) -> S3Args:
        if (self.access_key is None) != (self.secret_key is None):
            raise InvalidError("access_key and secret_key belong together")
        keys = None
        if self.access_key is not None and self.secret_key is not None:
            keys = (self.access_key, self.secret_key, self.session_token)
        return (
            self.endpoint,
            self.region,
            self.profile,
            keys,
            self.anonymous,
            self.requester_pays,
            self.create_only,
            None if self.resume is None else os.fsdecode(self.resume),
        )


@dataclass(frozen=True, slots=True)
class Swift:
    """How OpenStack's object store is accessed, for a ``swift:`` URL.

    What is not set is taken from the variables and files that OpenStack's own tools use, such as
    ``OS_CLOUD``, ``OS_AUTH_URL`` and ``clouds.yaml``; unless private addresses are refused: URLs of
    strangers are not for the passwords of this user.

    >>> store = diskimg.Swift(cloud="backup")
    >>> print(diskimg.Url("swift://images/disk.qcow2", swift=store))
    swift://images/disk.qcow2
    """

    cloud: str | None = None
    """The cloud in ``clouds.yaml`` whose settings are used."""
    region: str | None = None
    """The region, if the service is in several."""
    interface: str | None = None
    """Which endpoint is used: ``public`` (by default), ``internal`` or ``admin``."""
    auth_url: str | None = None
    """The URL of Swift's own authentication (v1), with `user` and `key`."""
    user: str | None = None
    """A user of Swift's own authentication."""
    key: str | None = field(default=None, repr=False)
    """The key of the user."""
    storage_url: str | None = None
    """The URL of an account, with `token`."""
    token: str | None = field(default=None, repr=False)
    """A token for that account. It cannot be renewed."""
    create_only: bool = False
    """Do not replace an existing object."""

    def _args(self) -> SwiftArgs:
        v1 = (self.auth_url, self.user, self.key)
        token = (self.storage_url, self.token)
        for together in (v1, token):
            if None in together and together.count(None) < len(together):
                raise InvalidError(
                    "auth_url, user and key belong together, and so do storage_url and token"
                )
        return (
            self.cloud,
            self.region,
            self.interface,
            None if v1[0] is None or v1[1] is None or v1[2] is None else (v1[0], v1[1], v1[2]),
            None if token[0] is None or token[1] is None else (token[0], token[1]),
            self.create_only,
        )


@dataclass(frozen=True, slots=True)
class Url:
    """An image on a server: an argument instead of a file name.

    Every request to a web server or a store is for the version of the file that was opened: a file
    that changes on the server while it is read is an error. A text is never a URL, so that a name
    which a stranger has chosen connects to nothing.

    A URL of ``s3:``, ``swift:`` or ``rbd:`` can also be the output of `convert`; one of ``nbd:`` or
    ``rbd:`` with ``in_place``, for an existing image.

    >>> image = diskimg.Url("https://user:password@name.invalid/disk.qcow2")
    >>> print(image)
    https://***@name.invalid/disk.qcow2
    """

    url: str
    """A URL that begins with ``http:`` or ``https:``, in which a user and a password may be before
    the host, percent-encoded; ``s3://BUCKET/KEY``; ``swift://CONTAINER/OBJECT``; ``nbd:``,
    ``nbds:``, ``nbd+unix:`` or ``nbds+unix:``; or ``rbd:POOL/IMAGE``.
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
    s3: S3 = field(default_factory=S3)
    """How the store of an ``s3:`` URL is accessed."""
    swift: Swift = field(default_factory=Swift)
    """How the store of a ``swift:`` URL is accessed."""

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
            self.s3._args(),
            self.swift._args(),
        )
