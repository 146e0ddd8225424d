"""What the tests have in common: images that others made, and new ones."""

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tools import TESTDATA, disk_bytes, qemu_img


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Ctrl-C as at a terminal: who started us in the background had it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def testdata() -> Path:
    """The folder of images that other tools made."""
    return TESTDATA


@pytest.fixture(scope="session")
def sums() -> dict[str, str]:
    """SHA-256 of what the guest sees in each."""
    lines = (TESTDATA / "SHA256SUMS").read_text().splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A copy of those images, to be named by others and changed."""
    for image in TESTDATA.iterdir():
        if image.suffix in {".qcow2", ".vmdk"}:
            shutil.copy(image, tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def disk() -> bytes:
    """A disk of 6 MiB and a bit."""
    return disk_bytes((6 << 20) + 512 * 3)


@pytest.fixture
def raw(tmp_path: Path, disk: bytes) -> Path:
    """The same as a raw image."""
    path = tmp_path / "disk.raw"
    path.write_bytes(disk)
    return path


@pytest.fixture
def make(tmp_path: Path, raw: Path) -> Callable[..., Path]:
    """Makes an image of it with qemu-img."""

    def make(format: str, *arguments: str) -> Path:
        path = tmp_path / f"made-{len(list(tmp_path.iterdir()))}.{format}"
        qemu_img("convert", "-f", "raw", "-O", format, *arguments, raw, path)
        return path

    return make
