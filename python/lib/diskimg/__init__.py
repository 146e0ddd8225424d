"""Disk images: read, write and convert qcow2, VMDK, OVA and raw, without qemu-img.

>>> import diskimg
>>> report = diskimg.convert("disk.vmdk", "disk.qcow2", compress=True)   # doctest: +SKIP
>>> with diskimg.open("disk.qcow2") as image:                            # doctest: +SKIP
...     image.size, image.read_at(510, 2)
(8388608, b'U\\xaa')

Sizes and offsets are in bytes everywhere. Offsets are the guest's (what the
virtual machine sees) unless they are called host offsets.

Images are not trusted. Whatever is in one, the answer is a result or an
exception under `Error`; the files that an image *names* (backing files, data
files, extents) are opened only as far as ``references`` allows: by default
within the image's own directory. Say the ``format`` where you know it: a guest
can write any header into its raw disk.

All work is done with the GIL released. Everything may be used from several
threads at once.
"""

from diskimg._errors import (
    CorruptError,
    Error,
    InvalidError,
    IoError,
    LimitError,
    RefusedError,
    UnsupportedError,
)
from diskimg._file import ImageFile
from diskimg._formats import FORMATS, LIMITS, CreateOption, create_options
from diskimg._image import Image, open
from diskimg._native import VERSION as __version__
from diskimg._results import (
    CheckReport,
    Child,
    Comparison,
    Created,
    Detection,
    Digests,
    Extent,
    FileDigest,
    Finding,
    Info,
    Inspection,
    InspectionFinding,
    Measure,
    Reference,
    Report,
    Salvaged,
    Snapshot,
)
from diskimg._operations import (
    check,
    compare,
    convert,
    create,
    detect,
    info,
    inspect,
    map,
    measure,
)

__all__ = [
    "FORMATS",
    "LIMITS",
    "CheckReport",
    "Child",
    "Comparison",
    "CorruptError",
    "CreateOption",
    "Created",
    "Detection",
    "Digests",
    "Error",
    "Extent",
    "FileDigest",
    "Finding",
    "Image",
    "ImageFile",
    "Info",
    "Inspection",
    "InspectionFinding",
    "InvalidError",
    "IoError",
    "LimitError",
    "Measure",
    "Reference",
    "RefusedError",
    "Report",
    "Salvaged",
    "Snapshot",
    "UnsupportedError",
    "__version__",
    "check",
    "compare",
    "convert",
    "create",
    "create_options",
    "detect",
    "info",
    "inspect",
    "map",
    "measure",
    "open",
]
