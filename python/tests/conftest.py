"""Fixtures: images created by other tools and by the tests."""

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tools import TESTDATA, disk_bytes, qemu_img


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Handle SIGINT as at a terminal: it is ignored if the tests were started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def testdata() -> Path:
    """The directory of images created by other tools."""
    return TESTDATA


@pytest.fixture(scope="session")
def sums() -> dict[str, str]:
    """SHA-256 of the guest data by image name."""
    lines = (TESTDATA / "SHA256SUMS").read_text().splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A directory with copies of those images, which may be changed."""
    for image in TESTDATA.iterdir():
        if image.suffix in {".qcow2", ".vmdk"}:
            shutil.copy(image, tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def disk() -> bytes:
    """Contents of a disk slightly larger than 6 MiB."""
    return disk_bytes((6 << 20) + 512 * 3)


@pytest.fixture
def raw(tmp_path: Path, disk: bytes) -> Path:
    """A raw image with these contents."""
    path = tmp_path / "disk.raw"
    path.write_bytes(disk)
    return path


@pytest.fixture
def make(tmp_path: Path, raw: Path) -> Callable[..., Path]:
    """Returns a function that converts it to another format with qemu-img."""

    def make(format: str, *arguments: str) -> Path:
        path = tmp_path / f"made-{len(list(tmp_path.iterdir()))}.{format}"
        qemu_img("convert", "-f", "raw", "-O", format, *arguments, raw, path)
        return path

    return make
