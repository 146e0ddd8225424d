"""Writes the guest's bytes of a VMDK, as dissect.hypervisor reads them."""

import sys

from dissect.hypervisor.disk.vmdk import VMDK

PIECE = 2048  # sectors

disk = VMDK(sys.argv[1])
# Not read(): it asks the disk for whole pieces of 8 KiB, also past its end.
for sector in range(0, disk.sector_count, PIECE):
    count = min(PIECE, disk.sector_count - sector)
    sys.stdout.buffer.write(disk.read_sectors(sector, count))
