"""Writes the guest bytes of a VMDK, read with libvmdk, to standard output."""

import sys

import pyvmdk

disk = pyvmdk.handle()
disk.open(sys.argv[1])
disk.open_extent_data_files()
left = disk.media_size
while left > 0:
    chunk = disk.read_buffer(min(left, 1 << 20))
    if not chunk:
        sys.exit(f"libvmdk returns no data for the last {left} bytes")
    sys.stdout.buffer.write(chunk)
    left -= len(chunk)
