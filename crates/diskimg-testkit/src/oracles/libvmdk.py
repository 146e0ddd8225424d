"""Writes the guest's bytes of a VMDK, as libvmdk reads them."""

import sys

import pyvmdk

disk = pyvmdk.handle()
disk.open(sys.argv[1])
disk.open_extent_data_files()
left = disk.media_size
while left > 0:
    piece = disk.read_buffer(min(left, 1 << 20))
    if not piece:
        sys.exit(f"libvmdk gives nothing for the last {left} bytes")
    sys.stdout.buffer.write(piece)
    left -= len(piece)
