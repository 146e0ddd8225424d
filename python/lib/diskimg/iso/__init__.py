"""ISO images as file systems: read, extract, verify, create, change.

>>> from diskimg import iso
>>> seed = iso.nocloud("#cloud-config\\n", "instance-id: i-1\\n")
>>> with iso.open(seed) as image:
...     image.label, [entry.path for entry in image.walk()]
('cidata', ['meta-data', 'user-data'])

ISO 9660 with Rock Ridge, Joliet and UDF, whichever the image has; El Torito, MBR and GPT.
No xorriso, no mkisofs: all of it is in the wheel.

Images are not trusted. Whatever is in one, the answer is a result or an exception under
`diskimg.Error`; what is extracted stays in its directory.
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

__all__ = [
    "EXTRACT_LIMIT",
    "READ_LIMIT",
    "AppendedPartition",
    "Boot",
    "BootEntry",
    "BootImage",
    "Content",
    "Created",
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
