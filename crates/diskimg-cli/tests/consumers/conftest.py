"""Images made by the real qemu-img, and comparisons by it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

QEMU_IMG = os.environ["QEMU_IMG"]
"""The real qemu-img. In ``PATH``, the name is that of diskimg."""

SIZE = 8 << 20


class Lab:
    """A directory with images."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = os.urandom(1 << 20) + bytes(SIZE - (1 << 20))
        (path / "base.raw").write_bytes(self.content)
        self.qemu("convert", "-O", "qcow2", "base.raw", "base.qcow2")

    def __call__(self, name: str) -> str:
        """Return the path of an image."""
        return str(self.path / name)

    def qemu(self, *args: str) -> str:
        """Run the real qemu-img, which must succeed."""
        ran = subprocess.run([QEMU_IMG, *args], cwd=self.path, capture_output=True, text=True)
        assert ran.returncode == 0, (args, ran.stdout, ran.stderr)
        return ran.stdout

    def read(self, name: str, format: str = "qcow2") -> bytes:
        """Return the content of a disk, as the real qemu-img reads it."""
        self.qemu("convert", "-f", format, "-O", "raw", name, "read.raw")
        return (self.path / "read.raw").read_bytes()


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A directory with a raw and a qcow2 image of the same content."""
    version = subprocess.run(["qemu-img", "--version"], capture_output=True, text=True).stdout
    real = subprocess.run([QEMU_IMG, "--version"], capture_output=True, text=True).stdout
    assert version.startswith("qemu-img version") and version != real, version
    return Lab(tmp_path)
