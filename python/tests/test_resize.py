"""Resizing in place, and locks."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import diskimg
import pytest
from tools import qemu_img

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """An empty qcow2 image of 1 MiB."""
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "1M")
    return path


@contextmanager
def written_by_qemu(path: Path) -> Iterator[None]:
    """Have another process hold the image open for writing."""
    command = ["qemu-io", "-f", "qcow2", str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as qemu:
        assert qemu.stdin and qemu.stdout
        # The output of the first command shows that the image is open.
        qemu.stdin.write(b"length\n")
        qemu.stdin.flush()
        while b"MiB" not in qemu.stdout.readline():
            pass
        yield
        qemu.stdin.close()


def test_a_disk_grows_and_keeps_its_bytes(disk: Path) -> None:
    with diskimg.open(disk, "qcow2") as image:
        before = image.read_at(0, MIB)
    resized = diskimg.resize(disk, "+3M", format="qcow2")
    assert resized == diskimg.Resized(MIB, 4 * MIB)
    assert resized.to_dict() == {"old-size": MIB, "new-size": 4 * MIB}
    assert diskimg.info(disk).virtual_size == 4 * MIB
    qemu_img("check", "-q", disk)
    with diskimg.open(disk, "qcow2") as image:
        assert image.read_at(0, 4 * MIB) == before + bytes(3 * MIB)
    assert diskimg.resize(disk, 5 * MIB).new_size == 5 * MIB


def test_raw_files_shrink_only_on_request(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"x" * 1000)
    with pytest.raises(diskimg.RefusedError, match="shrink=True"):
        diskimg.resize(path, "-100", format="raw")
    assert path.stat().st_size == 1000
    diskimg.resize(path, "-100", format="raw", shrink=True)
    assert path.stat().st_size == 900
    diskimg.resize(path, MIB, format="raw", preallocation="full")
    assert path.stat().st_blocks * 512 >= MIB


def test_invalid_sizes_are_value_errors(disk: Path) -> None:
    for size in ("", "+", "1x", "0", MIB + 1):
        with pytest.raises(ValueError):
            diskimg.resize(disk, size)
    with pytest.raises(ValueError, match="preallocation"):
        diskimg.resize(disk, 2 * MIB, preallocation="some")  # type: ignore[arg-type]
    diskimg.resize(disk, "+1M", preallocation="full")
    vdi = disk.with_suffix(".vdi")
    diskimg.create(vdi, "1M")
    with pytest.raises(diskimg.UnsupportedError):
        diskimg.resize(vdi, "+1M", preallocation="full")


@pytest.mark.skipif(sys.platform != "linux", reason="QEMU's locks exist on Linux only")
def test_an_image_that_another_process_writes_is_locked(disk: Path) -> None:
    with written_by_qemu(disk):
        for call in (diskimg.open, diskimg.info, diskimg.map, diskimg.check):
            with pytest.raises(diskimg.LockedError, match="force_share=True"):
                call(disk, "qcow2")
            call(disk, "qcow2", force_share=True)
        with pytest.raises(diskimg.LockedError):
            diskimg.resize(disk, "+1M")
        with pytest.raises(diskimg.LockedError):
            diskimg.create(disk, "1M")
    assert diskimg.resize(disk, "+1M").new_size == 2 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="QEMU's locks exist on Linux only")
def test_qemu_cannot_write_an_image_that_is_open(disk: Path) -> None:
    command = ["qemu-img", "resize", "-q", "-f", "qcow2", str(disk), "+1M"]
    with diskimg.open(disk, "qcow2"):
        failed = subprocess.run(command, capture_output=True, text=True)
        assert failed.returncode == 1 and 'Failed to get "write" lock' in failed.stderr
        qemu_img("info", disk)
    subprocess.run(command, check=True)
    with diskimg.open(disk, "qcow2", force_share=True):
        subprocess.run(command, check=True)


@pytest.mark.parametrize("layout", ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentFlat"])
def test_vmdk_disks_change_their_size(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "disk.vmdk"
    qemu_img("create", "-q", "-f", "vmdk", "-o", f"subformat={layout}", path, "1M")
    assert diskimg.resize(path, "3G", format="vmdk").new_size == 3072 * MIB
    assert diskimg.resize(path, "2M", format="vmdk", shrink=True).new_size == 2 * MIB
    with diskimg.open(path, "vmdk") as image:
        assert image.read_at(0, 2 * MIB) == bytes(2 * MIB)


def test_the_backup_of_a_partition_table_follows_the_size(disk: Path, tmp_path: Path) -> None:
    with pytest.raises(diskimg.InvalidError, match="no GUID partition table"):
        diskimg.resize(disk, "+1M", format="qcow2", fix_gpt=True)
    assert diskimg.info(disk).virtual_size == MIB
    raw = tmp_path / "disk.raw"
    raw.write_bytes(bytes(8 * MIB))
    subprocess.run(["sgdisk", "-n", "1:2048:+1M", raw], check=True, capture_output=True)
    diskimg.resize(raw, 16 * MIB, format="raw", fix_gpt=True)
    assert raw.read_bytes()[-512:].startswith(b"EFI PART")
    verified = subprocess.run(["sgdisk", "-v", raw], check=True, capture_output=True)
    assert b"No problems found" in verified.stdout
    with pytest.raises(diskimg.RefusedError, match="partition 1 ends"):
        diskimg.resize(raw, 2 * MIB, format="raw", shrink=True, fix_gpt=True)
