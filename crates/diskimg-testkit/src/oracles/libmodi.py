"""Writes the guest bytes of a DMG, read with libmodi, to standard output."""

import sys

import pymodi

disk = pymodi.handle()
disk.open(sys.argv[1])
left = disk.get_media_size()
while left > 0:
    chunk = disk.read_buffer(min(left, 1 << 20))
    if not chunk:
        sys.exit(f"libmodi returns no data for the last {left} bytes")
    sys.stdout.buffer.write(chunk)
    left -= len(chunk)
