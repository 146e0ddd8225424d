"""Writes the guest bytes of a Parallels image or bundle, read with dissect.hypervisor, to standard
output."""

import pathlib
import sys

from dissect.hypervisor.disk.hdd import HDD, HDS

path = pathlib.Path(sys.argv[1])
disk = HDD(path).open() if path.is_dir() else HDS(path.open("rb"))
left = disk.size
while left > 0:
    chunk = disk.read(min(left, 1 << 20))
    if not chunk:
        sys.exit(f"dissect returns no data for the last {left} bytes")
    sys.stdout.buffer.write(chunk)
    left -= len(chunk)
