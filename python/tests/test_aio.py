"""The asynchronous functions: results, progress, and cancellation."""

import asyncio
import inspect
import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import diskimg
import pytest
from diskimg import aio, iso

SLOW = 1 << 20
"""Bytes per second: the test disk takes six seconds."""


def threads() -> int:
    """Return the number of threads that run operations of the library."""
    return len(os.listdir("/proc/self/task"))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def slowly(raw: Path, out: Path, **more: Any) -> Coroutine[Any, Any, diskimg.Report]:
    """Start a conversion that takes seconds."""
    return aio.convert(
        raw, out, src_format="raw", format="qcow2", rate_limit=SLOW, reflink="never", **more
    )


def test_the_functions_are_those_of_the_package() -> None:
    for name in (
        "amend",
        "check",
        "commit",
        "compare",
        "convert",
        "create",
        "detect",
        "info",
        "inspect",
        "map",
        "measure",
        "rebase",
        "resize",
        "open",
    ):
        ours, theirs = getattr(aio, name), getattr(diskimg, name)
        assert inspect.signature(ours) == inspect.signature(theirs)
        assert inspect.iscoroutinefunction(ours) == (name != "open")


def test_results_are_those_of_the_functions(raw: Path, disk: bytes, tmp_path: Path) -> None:
    out, grown = tmp_path / "out.qcow2", tmp_path / "grown.qcow2"

    async def main() -> None:
        report = await aio.convert(raw, out, src_format="raw", compress=True)
        assert report.guest_bytes == len(disk)
        assert await aio.compare(raw, out, a_format="raw")
        assert await aio.info(out) == diskimg.info(out)
        assert (await aio.detect(out)).format == "qcow2"
        assert (await aio.check(out)).clean
        assert await aio.map(out) == diskimg.map(out)
        assert await aio.measure(out, format="qcow2") == diskimg.measure(out, format="qcow2")
        assert await aio.inspect(out, format="qcow2")
        await aio.create(grown, "1M")
        assert (await aio.resize(grown, "2M")).new_size == 2 << 20
        assert (await aio.run(iso.create, tmp_path / "a.iso", {"a": "b"})).size > 0
        async with aio.open(out) as image:
            assert (image.size, image.format, image.layers) == (len(disk), "qcow2", 1)
            parts = [image.read_at(at, 1 << 18) for at in range(0, 6 << 20, 1 << 18)]
            assert b"".join(await asyncio.gather(*parts)) == disk[: 6 << 20]
            buffer = bytearray(512)
            assert await image.readinto_at(1024, buffer) == 512 and buffer == disk[1024:1536]
            assert [extent async for extent in image.extents()] == diskimg.map(out)
            assert await image.info() == diskimg.info(out)
            assert (await image.check()).clean
            assert await image.measure("qcow2") == diskimg.measure(out, format="qcow2")
        assert image.closed
        with pytest.raises(ValueError):
            await image.read_at(0, 1)
        with pytest.raises(FileNotFoundError):
            await aio.convert(tmp_path / "missing", out)
        with pytest.raises(FileNotFoundError):
            async with aio.open(tmp_path / "missing"):
                pass
        with pytest.raises(diskimg.InvalidError, match="did you mean 'qcow2'"):
            await aio.convert(raw, out, format="qcow22")  # type: ignore[arg-type]

    asyncio.run(main())


def test_extents_are_iterated_in_parts(tmp_path: Path) -> None:
    striped = tmp_path / "striped.raw"
    with striped.open("wb") as file:
        for at in range(5000):
            file.seek(at * 8192)
            file.write(b"x" * 4096)
    packed = tmp_path / "striped.qcow2"
    diskimg.convert(striped, packed, src_format="raw", options={"cluster_size": 4096})

    async def main() -> None:
        async with aio.open(packed) as image:
            found = [extent async for extent in image.extents()]
        assert found == diskimg.map(packed) and len(found) > 4096

    asyncio.run(main())


def test_progress_is_called_in_the_thread_of_the_event_loop(raw: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    out = tmp_path / "out.qcow2"

    async def main() -> None:
        here = threading.get_ident()
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                await asyncio.sleep(0.01)
                beats += 1

        def progress(done: int, total: int) -> None:
            assert threading.get_ident() == here
            assert asyncio.get_running_loop() is not None
            # The last call precedes the name of the output.
            assert not out.exists()
            calls.append((done, total))

        beating = asyncio.create_task(beat())
        await aio.convert(
            raw, out, src_format="raw", rate_limit=12 << 20, reflink="never", progress=progress
        )
        beating.cancel()
        assert beats > 10  # the loop went on

    asyncio.run(main())
    size = raw.stat().st_size
    assert calls == sorted(calls) and calls[-1] == (size, size) and len(calls) > 3


@pytest.mark.parametrize("how", ["cancel", "timeout", "twice"])
def test_a_cancelled_conversion_stops_and_leaves_nothing(
    raw: Path, tmp_path: Path, how: str
) -> None:
    out = tmp_path / "out.qcow2"
    out.write_bytes(b"old")
    before, running = files(tmp_path), threads()

    async def main() -> None:
        started = asyncio.Event()
        calls = 0

        def progress(done: int, total: int) -> None:
            nonlocal calls
            calls += 1
            started.set()

        if how == "timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await slowly(raw, out, progress=progress)
        else:
            task = asyncio.create_task(slowly(raw, out, progress=progress))
            await started.wait()
            assert len(list(tmp_path.iterdir())) == len(before) + 1  # the temporary file
            task.cancel()
            if how == "twice":
                await asyncio.sleep(0)
                task.cancel()
            begin = time.monotonic()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - begin < 2
        # At once, not some time later.
        assert files(tmp_path) == before
        seen = calls
        await asyncio.sleep(0.1)
        assert calls == seen

    asyncio.run(main())
    # The conversion's own threads are gone; those of the pool are idle.
    assert threads() <= running + 1


def test_every_operation_with_a_thread_of_its_own_can_be_cancelled(
    raw: Path, tmp_path: Path
) -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            time.sleep(0.02)
            return super().read(size)

    source = Slow(raw.read_bytes())
    calls: list[Callable[[], Coroutine[Any, Any, object]]] = [
        lambda: aio.compare(source, raw, a_format="raw", b_format="raw", threads=1),
        lambda: slowly(raw, tmp_path / "out"),
    ]

    async def main() -> None:
        for call in calls:
            task = asyncio.create_task(call())
            await asyncio.sleep(0.05)
            begin = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - begin < 2

    asyncio.run(main())
    assert list(tmp_path.iterdir()) == [raw]


def test_an_exception_in_progress_stops_the_conversion_and_is_raised(
    raw: Path, tmp_path: Path
) -> None:
    class Enough(Exception):
        pass

    def at_once(done: int, total: int) -> None:
        raise Enough

    def at_the_end(done: int, total: int) -> None:
        if done == total:
            raise Enough

    async def main() -> None:
        for progress in (at_once, at_the_end):
            out = tmp_path / "out.qcow2"
            with pytest.raises(Enough):
                await aio.convert(raw, out, src_format="raw", progress=progress)
            assert list(tmp_path.iterdir()) == [raw]

        async def wrong(done: int, total: int) -> None: ...

        with pytest.raises(TypeError, match="not a coroutine function"):
            await aio.convert(raw, tmp_path / "out", progress=wrong)

    asyncio.run(main())


def test_operations_wait_for_their_turn_and_can_be_cancelled_while_they_wait(
    raw: Path, tmp_path: Path
) -> None:
    async def main() -> None:
        begun: set[int] = set()

        def progress(number: int) -> Callable[[int, int], None]:
            return lambda done, total: begun.add(number)

        many = aio.MAX_OPERATIONS + 4
        tasks = [
            asyncio.create_task(
                slowly(raw, tmp_path / f"{number}.qcow2", threads=1, progress=progress(number))
            )
            for number in range(many)
        ]
        while len(begun) < aio.MAX_OPERATIONS:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)
        assert len(begun) == aio.MAX_OPERATIONS
        # Reads are not delayed by them.
        async with asyncio.timeout(5), aio.open(raw, "raw") as image:
            await image.read_at(0, 512)
        tasks[-1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[-1]
        assert len(begun) == aio.MAX_OPERATIONS
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert all(task.cancelled() for task in tasks)
        assert list(tmp_path.iterdir()) == [raw]

    asyncio.run(main())


def test_an_image_whose_opening_was_cancelled_is_closed(
    raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = threading.Event(), threading.Event()
    closed: list[bool] = []
    close = diskimg.Image.close

    def recorded(image: diskimg.Image) -> None:
        close(image)
        closed.append(image.closed)

    monkeypatch.setattr(diskimg.Image, "close", recorded)

    class Blocking(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            entered.set()
            go_on.wait(10)
            return super().read(size)

    source = Blocking(raw.read_bytes())

    async def main() -> None:
        async def opened() -> None:
            async with aio.open(source):
                raise AssertionError

        task = asyncio.create_task(opened())
        await asyncio.to_thread(entered.wait, 10)
        task.cancel()
        await asyncio.sleep(0.05)
        assert not task.done()  # the call of the file object does not return
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert closed == [True] and sys.getrefcount(source) == 2


def test_a_program_that_ends_stops_its_conversions(raw: Path, tmp_path: Path) -> None:
    script = f"""
import asyncio
from diskimg import aio

async def main():
    asyncio.create_task(aio.convert({str(raw)!r}, {str(tmp_path / "out.qcow2")!r},
        src_format="raw", rate_limit={SLOW}, reflink="never"))
    await asyncio.sleep(0.5)
    raise SystemExit(3)

asyncio.run(main())
"""
    begin = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", script], timeout=60, capture_output=True)
    assert (ended.returncode, ended.stderr) == (3, b"")
    assert time.monotonic() - begin < 5
    assert list(tmp_path.iterdir()) == [raw]


def test_an_event_loop_that_was_left_does_not_keep_the_process(raw: Path, tmp_path: Path) -> None:
    script = f"""
import asyncio
from diskimg import aio

loop = asyncio.new_event_loop()
task = loop.create_task(aio.convert({str(raw)!r}, {str(tmp_path / "out.qcow2")!r},
    src_format="raw", progress=print))
loop.run_until_complete(asyncio.sleep(0))
"""
    subprocess.run([sys.executable, "-c", script], timeout=60, capture_output=True)
    assert list(tmp_path.iterdir()) == [raw]
