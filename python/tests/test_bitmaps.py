"""Dirty bitmaps of qcow2 images."""

from pathlib import Path

import diskimg
import pytest
from diskimg import Bitmap
from tools import qemu_img, qemu_io

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A qcow2 image of 1 MiB."""
    path = tmp_path / "disk.qcow2"
    diskimg.create(path, MIB, format="qcow2")
    return path


def bitmaps(path: Path) -> tuple[Bitmap, ...]:
    with diskimg.open(path, "qcow2") as image:
        return image.bitmaps()


def dirty(path: Path, name: str) -> list[tuple[int, int]]:
    with diskimg.open(path, "qcow2") as image:
        return list(image.dirty_ranges(name))


def test_bitmaps_record_what_is_written(disk: Path, tmp_path: Path) -> None:
    assert bitmaps(disk) == ()
    diskimg.add_bitmap(disk, "fine", granularity=512, format="qcow2")
    diskimg.add_bitmap(disk, "coarse")
    fine = Bitmap("fine", 512, enabled=True, inconsistent=False)
    assert bitmaps(disk) == (fine, Bitmap("coarse", 65536, enabled=True, inconsistent=False))
    diskimg.disable_bitmap(disk, "coarse")
    qemu_io("write 512 1024", disk)
    qemu_io("write 900k 1k", disk)
    assert dirty(disk, "fine") == [(512, 1536), (900 << 10, 901 << 10)]
    assert dirty(disk, "coarse") == []
    with diskimg.open(disk, "qcow2") as image:
        assert list(image.dirty_ranges("fine", 1000, 1200)) == [(1000, 1200)]
    diskimg.merge_bitmap(disk, "coarse", "fine")
    assert dirty(disk, "coarse") == [(0, 65536), (896 << 10, 960 << 10)]
    copy = tmp_path / "copy.qcow2"
    diskimg.convert(disk, copy, src_format="qcow2", format="qcow2", bitmaps=True)
    assert bitmaps(copy) == bitmaps(disk)
    assert dirty(copy, "fine") == dirty(disk, "fine")
    diskimg.clear_bitmap(disk, "fine")
    diskimg.enable_bitmap(disk, "coarse")
    with diskimg.open(copy, "qcow2") as image:
        diskimg.merge_bitmap(disk, "fine", "fine", source_image=image)
    assert dirty(copy, "fine") == dirty(disk, "fine")
    diskimg.remove_bitmap(disk, "fine")
    assert [bitmap.name for bitmap in bitmaps(disk)] == ["coarse"]
    qemu_img("check", "-q", disk)
    qemu_img("check", "-q", copy)


def test_adjacent_ranges_are_joined_across_what_is_read_at_a_time(tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    diskimg.create(disk, 2 << 30, format="qcow2")
    diskimg.add_bitmap(disk, "b", granularity=512)
    qemu_io(f"write -z {(512 << 20) - 1024} 4096", disk)
    assert dirty(disk, "b") == [((512 << 20) - 1024, (512 << 20) + 3072)]


def test_errors_have_the_documented_types(disk: Path, tmp_path: Path) -> None:
    diskimg.add_bitmap(disk, "b")
    with pytest.raises(diskimg.InvalidError, match="already exists"):
        diskimg.add_bitmap(disk, "b")
    with pytest.raises(ValueError, match="power of 2"):
        diskimg.add_bitmap(disk, "x", granularity=1000)
    with pytest.raises(diskimg.LimitError, match="1023"):
        diskimg.add_bitmap(disk, "x" * 1024)
    with pytest.raises(diskimg.InvalidError, match="'x' not found"):
        diskimg.clear_bitmap(disk, "x")
    with diskimg.open(disk, "qcow2") as image:
        with pytest.raises(diskimg.InvalidError, match="'x' not found"):
            image.dirty_ranges("x")
        with pytest.raises(diskimg.LockedError):
            diskimg.remove_bitmap(disk, "b")
    raw = tmp_path / "disk.raw"
    raw.write_bytes(bytes(MIB))
    with pytest.raises(diskimg.UnsupportedError, match="raw"):
        diskimg.add_bitmap(raw, "x", format="raw")
    with pytest.raises(diskimg.UnsupportedError, match="does not support bitmaps"):
        diskimg.convert(disk, tmp_path / "out", src_format="qcow2", format="raw", bitmaps=True)
    with pytest.raises(diskimg.InvalidError, match="skip_broken_bitmaps needs"):
        diskimg.convert(disk, tmp_path / "out", skip_broken_bitmaps=True)
