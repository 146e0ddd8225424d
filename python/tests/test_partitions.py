"""Partition tables, and files in file systems."""

import gzip
import json
import subprocess
from pathlib import Path

import diskimg
import pytest

_FILES = Path(__file__).parents[2] / "testdata/files"


def unpack(folder: Path, name: str) -> Path:
    """Unpack a disk of the test data."""
    path = folder / name
    path.write_bytes(gzip.decompress((_FILES / f"{name}.gz").read_bytes()))
    return path


def test_partitions_equal_those_of_sfdisk(tmp_path: Path) -> None:
    for name, scheme in [("mbr.img", "mbr"), ("gpt.img", "gpt")]:
        path = unpack(tmp_path, name)
        sfdisk = json.loads(subprocess.check_output(["sfdisk", "--json", path]))
        theirs = sfdisk["partitiontable"]["partitions"]
        with diskimg.open(path, "raw") as image:
            table = image.partitions()
        assert table is not None
        assert (table.scheme, table.sector_bytes, table.oddities) == (scheme, 512, ())
        ours = [(p.start // 512, p.length // 512) for p in table.partitions]
        assert ours == [(p["start"], p["size"]) for p in theirs]
        json.dumps(table.to_dict())


def test_contents_of_partitions_are_recognized(tmp_path: Path) -> None:
    with diskimg.open(unpack(tmp_path, "gpt.img")) as image:
        table = image.partitions()
        assert table is not None
        first, second = table.partitions
        assert (first.name, first.type_name) == ("EFI system", "EFI System")
        assert first.file_system == diskimg.FileSystem("vfat", "LABEL", "1234-ABCD")
        assert second.file_system == image.file_system(2)
        assert image.file_system() is None
        with pytest.raises(diskimg.InvalidError, match="the disk has no partition 3"):
            image.file_system(3)
        with pytest.raises(ValueError, match="a sector size of 520 bytes"):
            image.partitions(sector_size=520)
    with diskimg.open(unpack(tmp_path, "ext4.img")) as image:
        assert image.partitions() is None
        found = image.file_system()
        assert found is not None
        assert (found.type, found.label) == ("ext4", "four")
        assert found.to_dict()["uuid"] == "11111111-2222-3333-4444-555555555555"


def test_listing_uses_the_limits_of_the_image(tmp_path: Path) -> None:
    path = unpack(tmp_path, "ext4.img")
    with (
        diskimg.open(path, limits={"directory_bytes": 100}) as image,
        pytest.raises(diskimg.LimitError, match="directory_bytes"),
    ):
        image.listdir()
    with diskimg.open(path) as image:
        assert image.listdir()


def test_a_partition_that_cannot_be_read_does_not_hide_others(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    diskimg.convert(unpack(tmp_path, "mbr.img"), path, options={"cluster_size": 512})
    bytes_ = bytearray(path.read_bytes())
    # The first cluster of partition 1, at 32 KiB, is beyond the end of the file.
    l1 = int.from_bytes(bytes_[40:48])
    l2 = int.from_bytes(bytes_[l1 + 8 : l1 + 16]) & ((1 << 56) - 512)
    bytes_[l2 : l2 + 8] = ((1 << 63) | (1 << 40)).to_bytes(8)
    path.write_bytes(bytes_)
    with diskimg.open(path) as image, pytest.warns(RuntimeWarning, match="in partition 1"):
        table = image.partitions()
    assert table is not None
    assert table.partitions[0].file_system is None
    assert table.partitions[2].file_system is not None


def test_directories_are_listed(tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    diskimg.convert(unpack(tmp_path, "mbr.img"), disk)
    with diskimg.open(disk) as image:
        names = [entry.name for entry in image.listdir(partition=5)]
        assert names == sorted(names, key=lambda name: name.encode(errors="surrogateescape"))
        assert b"bad\xff" in [entry.path_bytes for entry in image.listdir(b"/", partition=5)]
        by_path = {entry.path: entry for entry in image.listdir("/dir", partition=5)}
        file = by_path["dir/file.txt"]
        assert (file.kind, file.size, file.mode) == ("file", 6, 0o4750)
        assert file.mtime_ns is not None
        assert file.mtime_ns // 10**9 == 1600000000
        assert by_path["dir/long-link"].link_target == "0" * 100
        assert len(image.listdir("dir/sub", partition=5)) == 60
        assert {entry.path for entry in image.listdir("/dir", partition=1)} == {"dir/日本.txt"}


def test_what_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    with diskimg.open(unpack(tmp_path, "mbr.img")) as image:
        with pytest.raises(diskimg.InvalidError, match="no file or directory"):
            image.listdir("/nothing", partition=5)
        with pytest.raises(diskimg.UnsupportedError, match="no file system is recognized"):
            image.listdir(partition=6)
        with pytest.raises(diskimg.InvalidError, match="the disk has no partition 9"):
            image.listdir(partition=9)
        with pytest.raises(TypeError):
            image.listdir(7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="closed"):
        image.partitions()
