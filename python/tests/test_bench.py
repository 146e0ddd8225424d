"""`bench`."""

from pathlib import Path

import diskimg
import pytest


def test_requests_are_made_and_timed(tmp_path: Path) -> None:
    disk = tmp_path / "disk.qcow2"
    diskimg.create(disk, "1M")
    assert diskimg.bench(disk, requests=10, depth=2, length=512, offset=512, step=4096) > 0
    with pytest.raises(diskimg.InvalidError, match="exceed the disk"):
        diskimg.bench(disk, requests=1, length=2 << 20)


def test_only_a_disk_whose_format_is_given_is_written(tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(8192))
    for pattern in (-1, 256):
        with pytest.raises(ValueError, match="pattern"):
            diskimg.bench(disk, format="raw", pattern=pattern)
    with pytest.raises(diskimg.UnsupportedError, match="format"):
        diskimg.bench(disk, requests=1, pattern=7)
    assert disk.read_bytes() == bytes(8192)
    diskimg.bench(disk, format="raw", requests=1, offset=4096, pattern=7, flush_interval=1)
    assert disk.read_bytes() == bytes(4096) + b"\7" * 4096
    image = tmp_path / "disk.qcow2"
    diskimg.create(image, "1M")
    diskimg.bench(image, format="qcow2", requests=2, offset=4096, pattern=7)
    with diskimg.open(image) as opened:
        assert opened.read_at(4096, 8192) == b"\7" * 8192
