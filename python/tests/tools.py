"""Helpers: running qemu-img, and disk contents for tests."""

import hashlib
import json
import random
import subprocess
from pathlib import Path
from typing import Any

TESTDATA = Path(__file__).resolve().parents[2] / "testdata"
"""Small images created by other tools; `SHA256SUMS` has digests of the guest data."""


def qemu_img(*arguments: object) -> str:
    """Run ``qemu-img`` and return its output."""
    run = subprocess.run(
        ["qemu-img", *map(str, arguments)], check=True, capture_output=True, text=True
    )
    return run.stdout


def qemu_io(command: str, path: Path) -> None:
    """Run a command of ``qemu-io`` on a qcow2 image."""
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", command, str(path)], check=True, capture_output=True
    )


def qemu_version() -> tuple[int, ...]:
    """Return the version of ``qemu-img``, such as ``(10, 0, 2)``."""
    return tuple(int(part) for part in qemu_img("--version").split()[2].split("."))


def qemu_json(*arguments: object) -> Any:
    """Run ``qemu-img --output=json`` and return the parsed output."""
    return json.loads(qemu_img(*arguments[:1], "--output=json", *arguments[1:]))


def guest_sum(path: Path, format: str, scratch: Path) -> str:
    """Return the SHA-256 of the guest data as read by qemu-img."""
    raw = scratch / f"{path.name}.guest"
    qemu_img("convert", "-f", format, "-O", "raw", path, raw)
    digest = hashlib.sha256(raw.read_bytes()).hexdigest()
    raw.unlink()
    return digest


def disk_bytes(size: int, seed: int = 1) -> bytes:
    """Return disk contents of ``size`` bytes: zeros, repeated text and noise."""
    rng = random.Random(seed)
    disk = bytearray(size)
    for start in range(0, size, 32 << 10):
        length = min(rng.choice([512, 4 << 10, 32 << 10]), size - start)
        kind = rng.randrange(4)
        if kind == 1:
            disk[start : start + length] = b"diskimg " * (length // 8) + bytes(length % 8)
        elif kind == 2:
            disk[start : start + length] = rng.randbytes(length)
    return bytes(disk)
