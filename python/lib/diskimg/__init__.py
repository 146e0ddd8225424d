"""Disk images: read, write and convert qcow2, VMDK, VHD, VHDX, VDI, OVA, raw, without qemu-img.

>>> import diskimg
>>> diskimg.create("disk.vmdk", "8M").size
8388608
>>> report = diskimg.convert("disk.vmdk", "disk.qcow2", compress=True)
>>> with diskimg.open("disk.qcow2") as image:
...     image.size, image.read_at(510, 2)
(8388608, b'\\x00\\x00')

All sizes and offsets are in bytes. Offsets are guest offsets (what the virtual machine sees)
unless they are called host offsets.

Images are not trusted. Whatever an image contains, an operation returns a result or raises an
exception derived from `Error`. The files that an image *refers to* (backing files, data files,
extents) are opened only if ``external_files`` allows it: by default, only those in the image's
own directory or below. Pass ``format`` whenever you know it: a guest can write any header to its
raw disk.

The GIL is released during all work. All objects may be used from several threads at once.
"""

from diskimg._bench import bench
from diskimg._bitmaps import (
    add_bitmap,
    clear_bitmap,
    disable_bitmap,
    enable_bitmap,
    merge_bitmap,
    remove_bitmap,
)
from diskimg._errors import (
    CorruptError,
    Error,
    InvalidError,
    IoError,
    LimitError,
    LockedError,
    RefusedError,
    TransientError,
    UnsupportedError,
)
from diskimg._file import ImageFile
from diskimg._formats import FORMATS, LIMITS, CreateOption, create_options
from diskimg._image import Image, open
from diskimg._in_place import amend, commit, rebase
from diskimg._native import VERSION as __version__
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
    resize,
)
from diskimg._partitions import FileSystem, Partition, PartitionTable
from diskimg._results import (
    Amended,
    Bitmap,
    CheckReport,
    Child,
    Committed,
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
    Rebased,
    Reference,
    Report,
    Resized,
    Salvaged,
    Snapshot,
)
from diskimg._sandbox import Sandbox, sandboxed
from diskimg._server import Server, serve
from diskimg._snapshots import apply_snapshot, create_snapshot, delete_snapshot
from diskimg._url import S3, Swift, Url

__all__ = [
    "FORMATS",
    "LIMITS",
    "S3",
    "Amended",
    "Bitmap",
    "CheckReport",
    "Child",
    "Committed",
    "Comparison",
    "CorruptError",
    "CreateOption",
    "Created",
    "Detection",
    "Digests",
    "Error",
    "Extent",
    "FileDigest",
    "FileSystem",
    "Finding",
    "Image",
    "ImageFile",
    "Info",
    "Inspection",
    "InspectionFinding",
    "InvalidError",
    "IoError",
    "LimitError",
    "LockedError",
    "Measure",
    "Partition",
    "PartitionTable",
    "Rebased",
    "Reference",
    "RefusedError",
    "Report",
    "Resized",
    "Salvaged",
    "Sandbox",
    "Server",
    "Snapshot",
    "Swift",
    "TransientError",
    "UnsupportedError",
    "Url",
    "__version__",
    "add_bitmap",
    "amend",
    "apply_snapshot",
    "bench",
    "check",
    "clear_bitmap",
    "commit",
    "compare",
    "convert",
    "create",
    "create_options",
    "create_snapshot",
    "delete_snapshot",
    "detect",
    "disable_bitmap",
    "enable_bitmap",
    "info",
    "inspect",
    "map",
    "measure",
    "merge_bitmap",
    "open",
    "rebase",
    "remove_bitmap",
    "resize",
    "sandboxed",
    "serve",
]
