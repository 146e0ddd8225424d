"""Types of arguments and results, for annotations.

>>> import diskimg.types
>>> def store(disk: diskimg.types.Path, format: diskimg.types.Format = "qcow2") -> None:
...     diskimg.create(disk, "1G", format=format)
>>> store("disk.vmdk", "vmdk")

The words of the enumerations are those of the library. Functions accept them in any case:
``format="QCOW2"`` is ``format="qcow2"``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeAlias


class BinaryReader(Protocol):
    """A binary file object that can be read.

    >>> import io
    >>> reader: diskimg.types.BinaryReader = io.BytesIO(bytes(1 << 20))
    >>> diskimg.info(reader, format="raw").virtual_size
    1048576
    """

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes; none at the end."""
        ...


class BinaryWriter(Protocol):
    """A binary file object that can be written.

    >>> import io
    >>> writer: diskimg.types.BinaryWriter = io.BytesIO()
    >>> diskimg.convert(io.BytesIO(bytes(1 << 20)), writer, src_format="raw").guest_bytes
    1048576
    """

    def write(self, data: bytes, /) -> Any:
        """Write ``data`` and return how many bytes were written; `None` means all."""
        ...


Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]
"""A file name."""

Node: TypeAlias = Mapping[str, Any]
"""An image that is described by options, as QEMU's ``json:`` names are."""

OptionValue: TypeAlias = str | int | bool
"""The value of a create option; `True` means ``on``, `False` means ``off``."""

Callback: TypeAlias = Callable[[int, int], object]
"""Called with the number of bytes done and the total number of bytes."""

Progress: TypeAlias = Callback | bool | None
"""A callable, or `True` for a progress bar on standard error."""

Format: TypeAlias = Literal[
    "qcow2",
    "vmdk",
    "vpc",
    "vhdx",
    "vdi",
    "qed",
    "qcow",
    "parallels",
    "sparseimage",
    "sparsebundle",
    "asif",
    "ewf",
    "cloop",
    "bochs",
    "dmg",
    "ova",
    "iso",
    "raw",
]
"""The name of a format; `FORMATS` has them all."""

VmdkSubformat: TypeAlias = Literal[
    "monolithicSparse",
    "monolithicFlat",
    "twoGbMaxExtentSparse",
    "twoGbMaxExtentFlat",
    "streamOptimized",
    "vmfs",
]
"""The layout of a VMDK: ``options={"subformat": …}``."""

ExternalFiles: TypeAlias = Literal["none", "same-dir", "any"]
"""Which other files an image may refer to: none, those in its own directory or below, any."""

Reflink: TypeAlias = Literal["auto", "always", "never"]
"""Whether stored data share their blocks with the source: where possible, always (or fail),
never."""

DigestAlgorithm: TypeAlias = Literal["sha256", "blake3"]
"""The algorithm of a digest."""

Preallocation: TypeAlias = Literal["off", "metadata", "falloc", "full"]
"""How space is allocated: not at all, in the metadata only (qcow2), reserved, written with
zeros."""

RepairScope: TypeAlias = Literal["leaks", "all"]
"""What a repair may change: only space that is allocated without being used, or all damage that can
be repaired without a choice between guest data."""

Severity: TypeAlias = Literal["note", "warning", "error"]
"""The severity of a finding."""

FindingCode: TypeAlias = Literal[
    "several-formats",
    "format-mismatch",
    "format-not-read",
    "rejected-format",
    "unreadable",
    "unknown-version",
    "unknown-features",
    "extended-l2",
    "backing-file",
    "data-file",
    "parent",
    "extents",
    "encrypted",
    "marked-corrupt",
    "subformat",
    "descriptor",
    "footer",
    "partition-table",
    "table-outside",
    "tables-overlap",
    "copies-differ",
    "capacity-mismatch",
    "trees-differ",
    "ambiguous-archive",
    "packed",
    "file-too-large",
    "disk-too-large",
    "ratio-too-large",
    "unlisted-image",
    "dirty",
    "partitions",
    "truncated",
    "hybrid-iso",
    "unknown-compatible-features",
    "raw-sectors",
    "snapshots",
    "partial-sector",
    "archive",
    "empty",
]
"""The code of a finding of `inspect`; SECURITY.md describes them."""

Consumer: TypeAlias = Literal[
    "aws",
    "azure",
    "esxi",
    "gcp",
    "glance",
    "hyperv",
    "ovirt",
    "proxmox",
    "virtualbox",
    "vsphere",
    "workstation",
]
"""A cloud or hypervisor that receives images."""

PreflightCode: TypeAlias = Literal[
    "format",
    "variant",
    "version",
    "damaged",
    "compressed",
    "backing-file",
    "external-file",
    "encrypted",
    "unsafe",
    "size-multiple",
    "size-range",
    "partition-beyond-end",
    "firmware-format",
    "disk-driver",
    "network-driver",
    "no-partition-table",
    "partition-table",
    "sector-size",
    "mbr-size",
    "no-boot-loader",
    "sparse-file",
    "dirty",
    "snapshots",
    "not-examined",
    "uefi",
]
"""The code of a finding of `preflight`."""

Namespace: TypeAlias = Literal["rock-ridge", "joliet", "iso", "udf"]
"""One of the directory trees that an ISO image can have for the same files."""

NamespaceChoice: TypeAlias = Literal["auto", "rock-ridge", "joliet", "iso", "udf"]
"""The directory tree of an ISO image to show; ``auto`` is the richest."""

RockRidgeMode: TypeAlias = Literal["rationalized", "preserved"]
"""The POSIX attributes in a new ISO image: readable by all, or those of the host's files."""

JolietMode: TypeAlias = Literal["standard", "long"]
"""The length of Joliet names: up to 64 or 103 characters."""

Hide: TypeAlias = Literal["primary", "joliet", "udf", "flag"]
"""How a file is hidden in a new ISO image."""

Droppable: TypeAlias = Literal["hfsplus", "partitions", "system-area"]
"""A part of an ISO image that cannot be kept in a modified copy: HFS+ file systems, partitions that
contain neither a boot image nor an appended partition, or boot code in the system area whose
addresses are not known."""

Emulation: TypeAlias = Literal["none", "floppy", "hard-disk"]
"""The drive that the BIOS emulates from a boot image."""

CylinderAlignment: TypeAlias = Literal["auto", "on", "all", "off"]
"""Whether a new ISO image consists of whole cylinders."""
