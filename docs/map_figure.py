#!/usr/bin/env python3
"""Draws `figures/map.webp`, the page of `map --html` in docs/commands/map.md: map_figure.py DISKIMG.

Needs qemu-img, qemu-io and Chromium. The image is a chain of three, with MBR partitions.
"""

import random
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

FIGURE = Path(__file__).resolve().parent / "figures" / "map.webp"
MIB = 1 << 20
# Type, first MiB and MiB of each partition.
PARTITIONS = [(0xEF, 1, 255), (0x83, 256, 4864), (0x82, 5120, 512), (0x83, 5632, 2560)]


def base(path: Path) -> None:
    """Write a raw disk of 8 GiB with a boot partition, a system and a little other data."""
    numbers = random.Random(1)
    words = [numbers.randbytes(6) for _ in range(100)]
    table = b"".join(
        struct.pack("<B3xB3xII", 0, kind, first * 2048, length * 2048)
        for kind, first, length in PARTITIONS
    )
    with path.open("wb") as disk:
        disk.truncate(8 << 30)
        disk.write(bytes(446) + table + b"\x55\xaa")
        for start, length in [(1, 40), (257, 300), (1281, 90), (2305, 40), (5633, 4)]:
            disk.seek(start * MIB)
            disk.write(b"".join(numbers.choices(words, k=length * MIB // 6)))


def write(image: Path, backing: Path, commands: list[str]) -> None:
    """Create an overlay and run commands of qemu-io."""
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", "qcow2", image]
    subprocess.run(create, check=True)
    lines = "\n".join([*commands, "quit", ""])
    subprocess.run(
        ["qemu-io", "-f", "qcow2", image],
        input=lines,
        text=True,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def scattered(seed: int, count: int, first: int, last: int, sizes: list[int]) -> list[str]:
    """Return writes at random offsets between two MiB."""
    numbers = random.Random(seed)
    return [
        f"write -q {numbers.randrange(first * 16, last * 16) << 16} {numbers.choice(sizes)}k"
        for _ in range(count)
    ]


def main() -> None:
    """Draw the figure."""
    program = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        raw, low, middle, top = (
            directory / name for name in ("disk.raw", "base.qcow2", "updates.qcow2", "web.qcow2")
        )
        base(raw)
        subprocess.run([program, "convert", "-f", "raw", "-c", raw, low], check=True)
        raw.unlink()
        updates = [f"write -q {n}M 48M" for n in (700, 1500, 2100)]
        updates += scattered(2, 260, 256, 2600, [64, 256, 1024]) + ["write -q 5700M 260M"]
        write(middle, low, updates)
        recent = scattered(3, 420, 256, 4200, [64, 64, 512])
        recent += scattered(4, 50, 5632, 8100, [1024, 4096])
        write(top, middle, [*recent, "write -q -z 2700M 420M", "write -q 5120M 128M"])
        page = directory / "map.html"
        subprocess.run([program, "map", "--html", page, top.name], cwd=directory, check=True)
        browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        # Time passes faster than it does: what the page does later is in the picture.
        browser += ["--virtual-time-budget=5000", "--window-size=1180,1130"]
        browser += [f"--user-data-dir={directory / 'profile'}", f"--screenshot={FIGURE}"]
        subprocess.run([*browser, page.as_uri()], check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
