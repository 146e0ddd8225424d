"""Internal snapshots of qcow2 images."""

from pathlib import Path

import diskimg
import pytest
from tools import qemu_img

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A qcow2 image of 1 MiB with data."""
    raw, path = tmp_path / "disk.raw", tmp_path / "disk.qcow2"
    raw.write_bytes(b"a" * MIB)
    diskimg.convert(raw, path, src_format="raw", format="qcow2")
    return path


def test_a_disk_returns_to_a_snapshot(disk: Path) -> None:
    first = diskimg.create_snapshot(disk, "first", format="qcow2")
    assert (first.id, first.name, first.icount) == ("1", "first", 0)
    assert diskimg.info(disk).snapshots == (first,)
    qemu_img("check", "-q", disk)
    diskimg.resize(disk, 4 * MIB, format="qcow2")
    second = diskimg.create_snapshot(disk, "second")
    diskimg.apply_snapshot(disk, "first")
    with diskimg.open(disk, "qcow2") as image:
        assert image.read_at(0, image.size) == b"a" * MIB
    diskimg.delete_snapshot(disk, first, format="qcow2")
    diskimg.apply_snapshot(disk, second)
    assert diskimg.info(disk).virtual_size == 4 * MIB
    diskimg.delete_snapshot(disk, "2")
    assert diskimg.info(disk).snapshots == ()
    qemu_img("check", "-q", disk)


def test_errors_have_the_documented_types(disk: Path, tmp_path: Path) -> None:
    with pytest.raises(diskimg.InvalidError, match="there is no snapshot 'x'"):
        diskimg.apply_snapshot(disk, "x")
    with pytest.raises(ValueError, match="255 bytes"):
        diskimg.create_snapshot(disk, "x" * 256)
    with pytest.raises(diskimg.UnsupportedError, match="raw"):
        diskimg.create_snapshot(tmp_path / "disk.raw", "x", format="raw")
    with diskimg.open(disk, "qcow2"), pytest.raises(diskimg.LockedError):
        diskimg.delete_snapshot(disk, "x")


def test_a_qcow2_disk_shrinks_and_space_is_allocated(disk: Path) -> None:
    diskimg.resize(disk, MIB // 2, format="qcow2", shrink=True)
    diskimg.resize(disk, MIB, format="qcow2", preallocation="metadata")
    with diskimg.open(disk, "qcow2") as image:
        assert image.read_at(0, MIB) == b"a" * (MIB // 2) + bytes(MIB // 2)
    qemu_img("check", "-q", disk)
