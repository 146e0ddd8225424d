"""Soak test: ``python tests/soak.py --seconds 600``.

Threads open, read, convert, compare and drop random images, valid and damaged ones, by name,
mapped and through file objects. At the end, no additional file may be open and memory must not
have grown since the warm-up. (Every conversion starts threads, for which glibc creates arenas
that are never completely filled. ``MALLOC_ARENA_MAX=2``, which is set here, limits their number,
so that they do not look like a leak.)
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
from typing import Any, BinaryIO

import diskimg
from tools import TESTDATA, disk_bytes

LAYOUTS: list[tuple[Any, dict[str, Any], bool]] = [
    ("raw", {}, False),
    ("qcow2", {}, False),
    ("qcow2", {"cluster_size": 4096, "compression_type": "zstd"}, True),
    ("vmdk", {}, False),
    ("vmdk", {"subformat": "streamOptimized"}, True),
    ("ova", {}, False),
]


class Soak:
    """State shared by the threads."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder = folder
        self.end = time.monotonic() + seconds
        self.counts: Counter[str] = Counter()
        self.numbers = itertools.count()
        self.valid: list[Path] = []
        for path in TESTDATA.iterdir():
            if path.suffix in (".qcow2", ".vmdk"):
                self.valid.append(Path(shutil.copy(path, folder)))
        raw = folder / "disk.raw"
        raw.write_bytes(disk_bytes(2 << 20))
        for number, (format, options, compress) in enumerate(LAYOUTS):
            path = folder / f"made-{number}.{format}"
            diskimg.convert(raw, path, src_format="raw", options=options, compress=compress)
            self.valid.append(path)

    def damaged(self, rng: random.Random) -> Path:
        """Create a damaged image: a valid one with a few bytes changed, possibly truncated."""
        data = bytearray(rng.choice(self.valid).read_bytes())
        for _ in range(rng.choice([1, 1, 4, 64])):
            where = rng.choice([len(data), 512, 4096])
            data[rng.randrange(min(where, len(data)))] = rng.randrange(256)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        path = self.folder / f"bad-{next(self.numbers)}.img"
        path.write_bytes(data)
        return path

    def work(self, seed: int) -> None:
        """Body of a thread."""
        rng = random.Random(seed)
        while time.monotonic() < self.end:
            bad = rng.random() < 0.5
            path = self.damaged(rng) if bad else rng.choice(self.valid)
            action = rng.choice([self.read, self.read, self.convert, self.examine, self.compare])
            try:
                action(path, bad, rng)
                self.counts[action.__name__] += 1
            except diskimg.Error as error:
                if not bad:
                    raise
                self.counts[type(error).__name__] += 1
            finally:
                if bad:
                    path.unlink()

    def open(self, path: Path, bad: bool, rng: random.Random) -> diskimg.Image:
        files: list[str | BinaryIO] = [str(path), io.BytesIO(path.read_bytes()), path.open("rb")]
        file = rng.choice(files)
        if path.suffix == ".qcow2" and "overlay" in path.name:
            file = str(path)
        # Only files that no other thread changes may be mapped.
        mapped = isinstance(file, str) and not bad and rng.random() < 0.5
        return diskimg.open(file, memory_map=mapped)

    def read(self, path: Path, bad: bool, rng: random.Random) -> None:
        image = self.open(path, bad, rng)
        views = []
        for _ in range(rng.randrange(20)):
            size = rng.randrange(min(image.size, 1 << 20) + 1)
            start = rng.randrange(image.size - size + 1)
            image.read_at(start, size)
            image.readinto_at(start, bytearray(size))
            if start < image.size:
                views.append(image.cluster(start))
        if rng.random() < 0.5:
            image.close()
        for view in views:
            view.tobytes()

    def convert(self, path: Path, bad: bool, rng: random.Random) -> None:
        format, options, compress = rng.choice(LAYOUTS)
        out = self.folder / f"out-{next(self.numbers)}"
        stop = rng.random() < 0.2

        def callback(done: int, total: int) -> None:
            if stop:
                raise InterruptedError

        try:
            sources: list[Path | BinaryIO] = [path, path.open("rb")]
            destinations: list[Path | BinaryIO] = [out, io.BytesIO()]
            diskimg.convert(
                path if "overlay" in path.name else rng.choice(sources),
                rng.choice(destinations),
                format=format,
                options=options,
                compress=compress,
                salvage=rng.random() < 0.3,
                durable=False,
                progress=callback,
            )
        except InterruptedError:
            self.counts["stopped"] += 1
        finally:
            out.unlink(missing_ok=True)

    def examine(self, path: Path, bad: bool, rng: random.Random) -> None:
        diskimg.detect(path)
        diskimg.info(path).to_dict()
        with self.open(path, bad, rng) as image:
            for extent in itertools.islice(image.extents(), 1000):
                extent.to_dict()
            if image.format != "raw":
                with contextlib.suppress(diskimg.UnsupportedError):
                    image.check()

    def compare(self, path: Path, bad: bool, rng: random.Random) -> None:
        diskimg.compare(path, rng.choice(self.valid))


def memory() -> int:
    """Return the resident memory of this process in bytes, without what malloc caches."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def soak(folder: Path, seconds: float, threads: int = 8) -> Counter[str]:
    """Run the test; raise an exception if it fails."""
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
