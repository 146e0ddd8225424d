"""Writes the guest bytes of a VHDX, read with dissect.hypervisor, to standard output. The parent of
a differencing disk is found by its relative path. dissect does not look at the log."""

import pathlib
import sys

from dissect.hypervisor.disk.vhdx import VHDX

disk = VHDX(pathlib.Path(sys.argv[1]))
left = disk.size
while left > 0:
    chunk = disk.read(min(left, 1 << 20))
    if not chunk:
        sys.exit(f"dissect returns no data for the last {left} bytes")
    sys.stdout.buffer.write(chunk)
    left -= len(chunk)
