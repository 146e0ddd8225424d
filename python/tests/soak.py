"""Everything at once, for as long as you like: ``python tests/soak.py --seconds 600``.

Threads open, read, convert, compare and drop images at random, sound and damaged ones,
by name, mapped and through file objects. At the end no file is open that was not at the
beginning, and memory has not grown since everything was done for the first time. (Every
conversion starts threads, and glibc gives them heaps of their own, which are never quite
full: the same counts with ``MALLOC_ARENA_MAX=2``, which is set here.)
"""

import argparse
import contextlib
import ctypes
import gc
import io
import itertools
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import BinaryIO

import diskimg
from tools import TESTDATA, disk_bytes

LAYOUTS: list[tuple[str, dict[str, str | int], bool]] = [
    ("raw", {}, False),
    ("qcow2", {}, False),
    ("qcow2", {"cluster_size": 4096, "compression_type": "zstd"}, True),
    ("vmdk", {}, False),
    ("vmdk", {"subformat": "streamOptimized"}, True),
    ("ova", {}, False),
]


class Soak:
    """What the threads share."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder = folder
        self.end = time.monotonic() + seconds
        self.counts: Counter[str] = Counter()
        self.numbers = itertools.count()
        self.sound: list[Path] = []
        for path in TESTDATA.iterdir():
            if path.suffix in (".qcow2", ".vmdk"):
                self.sound.append(Path(shutil.copy(path, folder)))
        raw = folder / "disk.raw"
        raw.write_bytes(disk_bytes(2 << 20))
        for number, (format, options, compress) in enumerate(LAYOUTS):
            path = folder / f"made-{number}.{format}"
            diskimg.convert(raw, path, src_format="raw", options=options, compress=compress)
            self.sound.append(path)

    def damaged(self, chance: random.Random) -> Path:
        """A sound image with a few bytes changed, or cut short."""
        data = bytearray(chance.choice(self.sound).read_bytes())
        for _ in range(chance.choice([1, 1, 4, 64])):
            where = chance.choice([len(data), 512, 4096])
            data[chance.randrange(min(where, len(data)))] = chance.randrange(256)
        if chance.random() < 0.3:
            del data[chance.randrange(len(data)) :]
        path = self.folder / f"bad-{next(self.numbers)}.img"
        path.write_bytes(data)
        return path

    def work(self, seed: int) -> None:
        """One thread."""
        chance = random.Random(seed)
        while time.monotonic() < self.end:
            bad = chance.random() < 0.5
            path = self.damaged(chance) if bad else chance.choice(self.sound)
            action = chance.choice([self.read, self.read, self.convert, self.look, self.compare])
            try:
                action(path, bad, chance)
                self.counts[action.__name__] += 1
            except diskimg.Error as error:
                if not bad:
                    raise
                self.counts[type(error).__name__] += 1
            finally:
                if bad:
                    path.unlink()

    def open(self, path: Path, bad: bool, chance: random.Random) -> diskimg.Image:
        files: list[str | BinaryIO] = [str(path), io.BytesIO(path.read_bytes()), path.open("rb")]
        file = chance.choice(files)
        if path.suffix == ".qcow2" and "overlay" in path.name:
            file = str(path)
        # What nobody else can touch may be mapped.
        mapped = isinstance(file, str) and not bad and chance.random() < 0.5
        return diskimg.open(file, memory_map=mapped)

    def read(self, path: Path, bad: bool, chance: random.Random) -> None:
        image = self.open(path, bad, chance)
        views = []
        for _ in range(chance.randrange(20)):
            size = chance.randrange(min(image.size, 1 << 20) + 1)
            start = chance.randrange(image.size - size + 1)
            image.read_at(start, size)
            image.readinto_at(start, bytearray(size))
            if start < image.size:
                views.append(image.cluster(start))
        if chance.random() < 0.5:
            image.close()
        for view in views:
            view.tobytes()

    def convert(self, path: Path, bad: bool, chance: random.Random) -> None:
        format, options, compress = chance.choice(LAYOUTS)
        out = self.folder / f"out-{next(self.numbers)}"
        stop = chance.random() < 0.2

        def callback(done: int, total: int) -> None:
            if stop:
                raise InterruptedError

        try:
            sources: list[Path | BinaryIO] = [path, path.open("rb")]
            destinations: list[Path | BinaryIO] = [out, io.BytesIO()]
            diskimg.convert(
                path if "overlay" in path.name else chance.choice(sources),
                chance.choice(destinations),
                format=format,
                options=options,
                compress=compress,
                salvage=chance.random() < 0.3,
                durable=False,
                progress=callback,
            )
        except InterruptedError:
            self.counts["stopped"] += 1
        finally:
            out.unlink(missing_ok=True)

    def look(self, path: Path, bad: bool, chance: random.Random) -> None:
        diskimg.detect(path)
        diskimg.info(path).to_dict()
        with self.open(path, bad, chance) as image:
            for extent in itertools.islice(image.extents(), 1000):
                extent.to_dict()
            if image.format != "raw":
                with contextlib.suppress(diskimg.UnsupportedError):
                    image.check()

    def compare(self, path: Path, bad: bool, chance: random.Random) -> None:
        diskimg.compare(path, chance.choice(self.sound))


def memory() -> int:
    """Bytes that this process occupies, without what malloc keeps for later."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def soak(folder: Path, seconds: float, threads: int = 8) -> Counter[str]:
    """Runs it; raises if something is amiss."""
    failed: list[BaseException] = []

    def run(seconds: float, seed: int) -> Counter[str]:
        work = Soak(folder, seconds)

        def body(seed: int) -> None:
            try:
                work.work(seed)
            except BaseException as error:
                failed.append(error)
                work.end = 0

        pool = [threading.Thread(target=body, args=(seed + n,)) for n in range(threads)]
        for thread in pool:
            thread.start()
        for thread in pool:
            thread.join()
        if failed:
            raise failed[0]
        return work.counts

    warm = max(2.0, seconds / 10)
    run(warm, 0)
    files, before = open_files(), memory()
    counts = run(seconds - warm, 1000)
    after = memory()
    print(f"files: {files} -> {open_files()}; memory: {before >> 20} -> {after >> 20} MiB", counts)
    assert open_files() == files
    assert after < before + (32 << 20), "memory has grown"
    left = [path.name for path in folder.iterdir() if "diskimg-tmp" in path.name]
    assert not left, left
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--threads", type=int, default=8)
    given = parser.parse_args()
    if "MALLOC_ARENA_MAX" not in os.environ:
        os.environ["MALLOC_ARENA_MAX"] = "2"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    with tempfile.TemporaryDirectory() as folder:
        soak(Path(folder), given.seconds, given.threads)


if __name__ == "__main__":
    main()
