"""Writes the guest bytes of a DMG, a sparse image or a sparse bundle, read with libmodi, to standard
output.

libmodi 20260902 expects the bands of a bundle under names of eight digits, contrary to its own
documentation: it reads zeros instead of those that macOS writes. It gets a bundle with its
names."""

import pathlib
import shutil
import sys
import tempfile

import pymodi


def copy(image):
    left = image.get_media_size()
    while left > 0:
        chunk = image.read_buffer(min(left, 1 << 20))
        if not chunk:
            sys.exit(f"libmodi returns no data for the last {left} bytes")
        sys.stdout.buffer.write(chunk)
        left -= len(chunk)


def copy_bundle(bundle, directory):
    shutil.copy(bundle / "Info.plist", directory)
    (directory / "bands").mkdir()
    for band in (bundle / "bands").iterdir():
        name = f"{int(band.name, 16):08x}"
        (directory / "bands" / name).symlink_to(band.resolve())
    image = pymodi.handle()
    image.open(str(directory / "Info.plist"))
    image.open_band_data_files()
    copy(image)


path = pathlib.Path(sys.argv[1])
if path.is_dir():
    with tempfile.TemporaryDirectory() as directory:
        copy_bundle(path, pathlib.Path(directory))
else:
    image = pymodi.handle()
    image.open(str(path))
    copy(image)
