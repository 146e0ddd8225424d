"""Writes the guest bytes of a Parallels image or bundle, read with libphdi, to standard output. libphdi
reads bundles only, so that an image is put into one."""

import pathlib
import struct
import sys
import tempfile

import pyphdi

GUID = "{5fbaabe3-6958-40ff-92a7-860e329aab41}"
NIL = "{00000000-0000-0000-0000-000000000000}"


def bundle_of(image, directory):
    header = image.open("rb").read(64)
    cluster, _, sectors = struct.unpack_from("<IIQ", header, 28)
    (directory / "image.hds").symlink_to(image.resolve())
    (directory / "DiskDescriptor.xml").write_text(
        f"""<?xml version="1.0" encoding="UTF-8"?>
<Parallels_disk_image Version="1.0">
  <Disk_Parameters>
    <Disk_size>{sectors}</Disk_size>
    <Cylinders>1</Cylinders>
    <Heads>1</Heads>
    <Sectors>{sectors}</Sectors>
    <Padding>0</Padding>
    <Name>disk</Name>
  </Disk_Parameters>
  <StorageData>
    <Storage>
      <Start>0</Start>
      <End>{sectors}</End>
      <Blocksize>{cluster}</Blocksize>
      <Image>
        <GUID>{GUID}</GUID>
        <Type>Compressed</Type>
        <File>image.hds</File>
      </Image>
    </Storage>
  </StorageData>
  <Snapshots>
    <Shot>
      <GUID>{GUID}</GUID>
      <ParentGUID>{NIL}</ParentGUID>
    </Shot>
  </Snapshots>
</Parallels_disk_image>
"""
    )
    return directory


def copy(directory):
    disk = pyphdi.handle()
    disk.open(str(directory / "DiskDescriptor.xml"))
    disk.open_extent_data_files()
    left = disk.get_media_size()
    while left > 0:
        chunk = disk.read_buffer(min(left, 4096))
        if not chunk:
            sys.exit(f"libphdi returns no data for the last {left} bytes")
        sys.stdout.buffer.write(chunk)
        left -= len(chunk)


path = pathlib.Path(sys.argv[1])
if path.is_dir():
    copy(path)
else:
    with tempfile.TemporaryDirectory() as directory:
        copy(bundle_of(path, pathlib.Path(directory)))
