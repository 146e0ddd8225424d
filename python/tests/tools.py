"""qemu-img to ask, and disks to ask it about."""

import hashlib
import json
import random
import subprocess
from pathlib import Path
from typing import Any

TESTDATA = Path(__file__).resolve().parents[2] / "testdata"
"""Small images that other tools made; `SHA256SUMS` has what the guest sees."""


def qemu_img(*arguments: object) -> str:
    """What ``qemu-img`` prints."""
    run = subprocess.run(
        ["qemu-img", *map(str, arguments)], check=True, capture_output=True, text=True
    )
    return run.stdout


def qemu_json(*arguments: object) -> Any:
    """What ``qemu-img --output=json`` says."""
    return json.loads(qemu_img(*arguments[:1], "--output=json", *arguments[1:]))


def guest_sum(path: Path, format: str, scratch: Path) -> str:
    """SHA-256 of what qemu-img says the guest sees."""
    raw = scratch / f"{path.name}.guest"
    qemu_img("convert", "-f", format, "-O", "raw", path, raw)
    digest = hashlib.sha256(raw.read_bytes()).hexdigest()
    raw.unlink()
    return digest


def disk_bytes(size: int, seed: int = 1) -> bytes:
    """A disk: zeros, repetition and noise, of no round length if ``size`` is none."""
    chance = random.Random(seed)
    disk = bytearray(size)
    for start in range(0, size, 32 << 10):
        length = min(chance.choice([512, 4 << 10, 32 << 10]), size - start)
        kind = chance.randrange(4)
        if kind == 1:
            disk[start : start + length] = b"diskimg " * (length // 8) + bytes(length % 8)
        elif kind == 2:
            disk[start : start + length] = chance.randbytes(length)
    return bytes(disk)
