"""Writes the guest bytes of a VMDK, read with dissect.hypervisor, to standard output."""

import sys

from dissect.hypervisor.disk.vmdk import VMDK

CHUNK = 2048  # sectors

disk = VMDK(sys.argv[1])
# Not read(), which reads in units of 8 KiB, also beyond the end of the disk.
for sector in range(0, disk.sector_count, CHUNK):
    count = min(CHUNK, disk.sector_count - sector)
    sys.stdout.buffer.write(disk.read_sectors(sector, count))
