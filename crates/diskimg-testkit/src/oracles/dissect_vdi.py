"""Writes the guest bytes of a VDI, read with dissect.hypervisor, to standard output. The parents of
a differencing image are found by their UUIDs among the files in its directory."""

import pathlib
import sys

from dissect.hypervisor.disk.vdi import VDI

NIL = bytes(16)


def open_chain(path):
    image = VDI(path)
    wanted = bytes(image.header.uuidLinkage)
    if wanted != NIL:
        image.parent = open_chain(parent(path, wanted)).open()
    return image


def parent(path, wanted):
    for other in path.parent.iterdir():
        if other != path and other.read_bytes()[64:68] == b"\x7f\x10\xda\xbe":
            if bytes(VDI(other).header.uuidCreate) == wanted:
                return other
    sys.exit(f"no file has the UUID {wanted.hex()}")


image = open_chain(pathlib.Path(sys.argv[1]))
disk = image.open()
left = image.size
while left > 0:
    # If more is read at once, dissect.hypervisor 3.21 reads the blocks as if they were in order.
    chunk = disk.read(min(left, image.block_size))
    if not chunk:
        sys.exit(f"dissect returns no data for the last {left} bytes")
    sys.stdout.buffer.write(chunk)
    left -= len(chunk)
