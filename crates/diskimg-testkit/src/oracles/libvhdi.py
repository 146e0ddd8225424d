"""Writes the guest bytes of a VHD or VHDX, read with libvhdi, to standard output. The parents of a
differencing disk are found by their UUIDs among the files in its directory. libvhdi does not look at
the log of a VHDX."""

import pathlib
import sys

import pyvhdi


def open_chain(path):
    disk = pyvhdi.file()
    disk.open(str(path))
    wanted = disk.get_parent_identifier()
    if wanted:
        disk.set_parent(open_chain(parent(path, wanted)))
    return disk


def parent(path, wanted):
    for other in path.parent.iterdir():
        if other != path and pyvhdi.check_file_signature(str(other)):
            found = pyvhdi.file()
            found.open(str(other))
            if found.get_identifier() == wanted:
                return other
    sys.exit(f"no file has the identifier {wanted}")


disk = open_chain(pathlib.Path(sys.argv[1]))
left = disk.get_media_size()
while left > 0:
    # If more is read at once, libvhdi 20260901 returns zeros for blocks that follow a hole.
    chunk = disk.read_buffer(min(left, 4096))
    if not chunk:
        sys.exit(f"libvhdi returns no data for the last {left} bytes")
    sys.stdout.buffer.write(chunk)
    left -= len(chunk)
