"""Writes the guest bytes of a VHD, read with dissect.hypervisor, to standard output."""

import sys

from dissect.hypervisor.disk.vhd import VHD

with open(sys.argv[1], "rb") as file:
    disk = VHD(file)
    left = disk.size
    while left > 0:
        chunk = disk.read(min(left, 1 << 20))
        if not chunk:
            sys.exit(f"dissect returns no data for the last {left} bytes")
        sys.stdout.buffer.write(chunk)
        left -= len(chunk)
