"""ISO images as file systems: read, extract, verify, create and modify.

>>> from diskimg import iso
>>> seed = iso.nocloud("#cloud-config\\n", "instance-id: i-1\\n")
>>> with iso.open(seed) as image:
...     image.label, [entry.path for entry in image.walk()]
('cidata', ['meta-data', 'user-data'])

Supports ISO 9660 with Rock Ridge, Joliet and UDF, and for booting El Torito, MBR and GPT.
Neither xorriso nor mkisofs is needed.

Images are not trusted. Whatever an image contains, an operation returns a result or raises an
exception derived from `diskimg.Error`, and extraction writes only below its target directory.
"""

from diskimg.iso._boot import AppendedPartition, BootImage, Hybrid
from diskimg.iso._create import (
    Content,
    Profile,
    Tree,
    config_drive,
    create,
    nocloud,
)
from diskimg.iso._image import EXTRACT_LIMIT, READ_LIMIT, File, Iso, open
from diskimg.iso._remaster import remaster
from diskimg.iso._results import (
    Boot,
    BootEntry,
    Created,
    Entry,
    Extracted,
    Failure,
    FileExtent,
    Finding,
    Info,
    Partition,
    Session,
    Volume,
)
from diskimg.types import Droppable

__all__ = [
    "EXTRACT_LIMIT",
    "READ_LIMIT",
    "AppendedPartition",
    "Boot",
    "BootEntry",
    "BootImage",
    "Content",
    "Created",
    "Droppable",
    "Entry",
    "Extracted",
    "Failure",
    "File",
    "FileExtent",
    "Finding",
    "Hybrid",
    "Info",
    "Iso",
    "Partition",
    "Profile",
    "Session",
    "Tree",
    "Volume",
    "config_drive",
    "create",
    "nocloud",
    "open",
    "remaster",
]
