"""Writes the guest bytes of an EWF image, read with libewf, to standard output."""

import sys

import pyewf

disk = pyewf.handle()
disk.open(pyewf.glob(sys.argv[1]))
left = disk.get_media_size()
while left > 0:
    chunk = disk.read_buffer(min(left, 1 << 20))
    if not chunk:
        sys.exit(f"libewf returns no data for the last {left} bytes")
    sys.stdout.buffer.write(chunk)
    left -= len(chunk)
