"""Changing the options of qcow2 images."""

import asyncio
from pathlib import Path

import diskimg
import pytest
from diskimg import aio
from diskimg.types import OptionValue
from tools import qemu_img

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A qcow2 image of 1 MiB with data and zero clusters."""
    raw, path = tmp_path / "disk.raw", tmp_path / "disk.qcow2"
    raw.write_bytes(b"a" * (MIB // 2) + bytes(MIB // 2))
    diskimg.convert(raw, path, src_format="raw", format="qcow2")
    return path


def content(path: Path) -> bytes:
    with diskimg.open(path, "qcow2") as image:
        return image.read_at(0, image.size)


def test_options_are_changed_and_the_disk_keeps_its_content(disk: Path) -> None:
    before = content(disk)
    assert diskimg.amend(disk, {"compat": "0.10"}, format="qcow2") == diskimg.Amended(0)
    assert "compat: 0.10" in qemu_img("info", disk)
    qemu_img("check", "-q", disk)
    changes: dict[str, OptionValue] = {"compat": "v3", "refcount_bits": 1, "lazy_refcounts": True}
    done = asyncio.run(aio.amend(disk, changes, progress=lambda done, total: None))
    assert done.to_dict() == {"removed-bitmaps": 0}
    info = qemu_img("info", disk)
    assert "refcount bits: 1" in info
    assert "lazy refcounts: true" in info
    assert content(disk) == before
    diskimg.amend(disk, {"size": 2 * MIB})
    assert content(disk) == before + bytes(MIB)
    qemu_img("check", "-q", disk)


def test_bitmaps_are_removed_with_version_3(disk: Path) -> None:
    qemu_img("bitmap", "--add", disk, "b")
    assert diskimg.amend(disk, {"compat": "0.10"}).removed_bitmaps == 1
    qemu_img("check", "-q", disk)


def test_errors_have_the_documented_types(disk: Path, tmp_path: Path) -> None:
    with pytest.raises(diskimg.InvalidError, match="Unknown compatibility level 2"):
        diskimg.amend(disk, {"compat": "2"})
    with pytest.raises(ValueError, match="only supported for image creation"):
        diskimg.amend(disk, {"cluster_size": 4096})
    with pytest.raises(diskimg.InvalidError, match=r"diskimg\.rebase\(\) changes it"):
        diskimg.amend(disk, {"backing_file": "x"})
    with pytest.raises(diskimg.UnsupportedError, match="does not support option amendment"):
        diskimg.amend(tmp_path / "disk.raw", {"size": MIB}, format="raw")
    diskimg.create_snapshot(disk, "s")
    with pytest.raises(diskimg.LimitError, match="entry width to 1 bits"):
        diskimg.amend(disk, {"refcount_bits": 1})
    with diskimg.open(disk, "qcow2"), pytest.raises(diskimg.LockedError):
        diskimg.amend(disk, {"lazy_refcounts": True})
