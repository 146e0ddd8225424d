"""Rebasing and committing images of a backing chain."""

import asyncio
from pathlib import Path

import diskimg
import pytest
from diskimg import aio
from tools import qemu_img

MIB = 1 << 20


@pytest.fixture
def chain(tmp_path: Path) -> tuple[Path, Path]:
    """A raw base of 1 MiB and an image over it with a quarter of its own data."""
    base, top = tmp_path / "base.raw", tmp_path / "top.qcow2"
    base.write_bytes(b"b" * MIB)
    own = tmp_path / "own.raw"
    own.write_bytes(b"t" * (MIB // 4) + b"b" * (MIB - MIB // 4))
    diskimg.convert(
        own, top, src_format="raw", backing="base.raw", backing_format="raw", format="qcow2"
    )
    return base, top


def content(path: Path) -> bytes:
    with diskimg.open(path) as image:
        return image.read_at(0, image.size)


def test_the_disk_keeps_its_content_on_another_backing_file(chain: tuple[Path, Path]) -> None:
    base, top = chain
    before = content(top)
    other = base.with_name("other.raw")
    other.write_bytes(b"o" * MIB)
    calls: list[tuple[int, int]] = []
    done = diskimg.rebase(
        top,
        "other.raw",
        "raw",
        format="qcow2",
        progress=lambda done, total: calls.append((done, total)),
    )
    assert done.stored_bytes == MIB - MIB // 4
    assert done.to_dict() == {"stored-bytes": done.stored_bytes}
    assert calls[-1] == (MIB, MIB)
    assert diskimg.info(top).backing_filename == "other.raw"
    assert content(top) == before
    qemu_img("check", "-q", top)
    assert diskimg.rebase(top, None).stored_bytes == 0
    assert diskimg.info(top).backing_filename is None
    assert content(top) == before


def test_only_the_header_is_changed_on_request(chain: tuple[Path, Path]) -> None:
    _, top = chain
    diskimg.rebase(top, "does/not/exist.raw", "raw", header_only=True)
    assert diskimg.info(top).backing_filename == "does/not/exist.raw"
    with pytest.raises(diskimg.InvalidError, match="backing format must be specified"):
        diskimg.rebase(top, "base.raw")
    with pytest.raises(diskimg.LimitError, match="1023"):
        diskimg.rebase(top, "x" * 1024, "raw", header_only=True)


def test_the_backing_file_gets_the_data_of_the_image(chain: tuple[Path, Path]) -> None:
    base, top = chain
    before = content(top)
    kept = diskimg.commit(top, keep=True)
    assert kept == diskimg.Committed(str(base), MIB // 4, emptied=False)
    assert base.read_bytes() == before
    done = asyncio.run(aio.commit(top, format="qcow2", base="base.raw"))
    assert not done.emptied
    assert diskimg.commit(top).to_dict() == {
        "base": str(base),
        "stored-bytes": MIB // 4,
        "emptied": True,
    }
    assert content(top) == before
    assert diskimg.commit(top).stored_bytes == 0
    qemu_img("check", "-q", top)
    with pytest.raises(diskimg.InvalidError, match="Image does not have a backing file"):
        diskimg.commit(base)
    with pytest.raises(diskimg.InvalidError, match="Did not find 'x' in the backing chain"):
        diskimg.commit(top, base="x")
