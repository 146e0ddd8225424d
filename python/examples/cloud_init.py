"""Prepare a virtual machine: an overlay of a base image, and a cloud-init seed.

    python cloud_init.py base.qcow2 web-1 ~/.ssh/id_ed25519.pub

Takes a fraction of a second: the overlay has only what differs from the base image, and the seed is
made in memory.
"""

import sys
from pathlib import Path

import diskimg
from diskimg import iso


def prepare(base: Path, name: str, key: str) -> tuple[Path, Path]:
    """Create the disk and the seed of a machine next to a base image, and return their names."""
    folder = base.parent
    disk, seed = folder / f"{name}.qcow2", folder / f"{name}-seed.iso"
    format = diskimg.detect(base).format
    # A relative name: the folder can be moved. The disk may be larger than the base image.
    size = max(diskimg.info(base, format).virtual_size, 20 << 30)
    diskimg.create(disk, size, backing=base.name, backing_format=format)
    user_data = {"hostname": name, "ssh_authorized_keys": [key]}
    seed.write_bytes(iso.nocloud(user_data, {"instance-id": name, "local-hostname": name}))
    return disk, seed


def main(arguments: list[str]) -> int:
    if len(arguments) != 3:
        print("usage: cloud_init.py BASE NAME PUBLIC-KEY", file=sys.stderr)
        return 1
    base, name, key = arguments
    for file in prepare(Path(base), name, Path(key).read_text().strip()):
        print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
