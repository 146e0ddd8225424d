"""The functions of the package for `asyncio`.

>>> import asyncio
>>> from diskimg import aio
>>> async def main() -> None:
...     await aio.create("disk.qcow2", "1G")
...     async with asyncio.timeout(60), aio.open("disk.qcow2") as image:
...         print(image.size, await image.read_at(510, 2))
>>> asyncio.run(main())
1073741824 b'\\x00\\x00'

An operation runs in a thread, and the event loop goes on. If its task is cancelled (also by
`asyncio.timeout`), the operation is stopped, and the task ends when everything is cleaned up: no
output and no temporary file remains. That takes a tenth of a second (later at the highest
compression levels, or while a call of the operating system or of a file object does not return). An
output that was just being renamed may be complete nevertheless.

``progress`` is called in the thread of the event loop. An exception that it raises stops the
operation and is raised by ``await``. Methods of file objects are called in other threads.

At most `MAX_OPERATIONS` operations and `MAX_READS` reads run at the same time in a process; further
ones wait for their turn. Each operation uses ``threads`` threads besides.

Only asyncio is supported, not trio.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect as _inspect
import itertools
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from diskimg import _bitmaps, _image, _in_place, _native, _operations, _snapshots
from diskimg._errors import StoppedError
from diskimg._image import Image
from diskimg._results import CheckReport, Extent, Info, Measure
from diskimg.types import Callback, Format

__all__ = [
    "MAX_OPERATIONS",
    "MAX_READS",
    "AsyncImage",
    "Opening",
    "add_bitmap",
    "amend",
    "apply_snapshot",
    "check",
    "clear_bitmap",
    "commit",
    "compare",
    "convert",
    "create",
    "create_snapshot",
    "delete_snapshot",
    "detect",
    "disable_bitmap",
    "enable_bitmap",
    "info",
    "inspect",
    "map",
    "measure",
    "merge_bitmap",
    "open",
    "preflight",
    "rebase",
    "remove_bitmap",
    "resize",
    "run",
]

MAX_OPERATIONS = 8
"""Maximum number of operations that run at the same time."""

MAX_READS = 32
"""Maximum number of images that are opened, read or closed at the same time."""

_EXTENTS = 4096
"""Number of extents that one call fetches."""

_POLL = 0.05
"""Seconds between two looks at an event loop that does not answer."""

_PATIENCE = 5.0
"""Seconds after which an operation is stopped whose event loop does not run any more."""

P = ParamSpec("P")
R = TypeVar("R")


_pools: dict[str, ThreadPoolExecutor] = {}
"""The threads, by their names."""

_pools_lock = threading.Lock()


def _operations_pool() -> ThreadPoolExecutor:
    return _pool("diskimg", MAX_OPERATIONS)


def _reads_pool() -> ThreadPoolExecutor:
    return _pool("diskimg-read", MAX_READS)


def _pool(name: str, threads: int) -> ThreadPoolExecutor:
    with _pools_lock:
        if name not in _pools:
            _pools[name] = ThreadPoolExecutor(threads, name)
        return _pools[name]


def _forget_pools() -> None:
    """After a fork, the child has no threads, and the lock may have been held."""
    global _pools_lock
    _pools.clear()
    _pools_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pools)


class _Relay:
    """Calls a progress callback in the thread of the event loop.

    If the loop is slow, it gets only the latest numbers. The last call is waited for, because an
    exception that it raises must stop the operation before the output gets its name.
    """

    def __init__(self, callback: Callback, stop: _native.Stop) -> None:
        self._loop = asyncio.get_running_loop()
        self._callback = callback
        self._stop = stop
        self._lock = threading.Lock()
        self._latest = (0, 0)
        self._scheduled = False
        self._delivered = threading.Event()
        self.error: Exception | None = None
        self.closed = False

    def __call__(self, done: int, total: int) -> None:
        """Called in the thread of the operation."""
        with self._lock:
            scheduled, self._scheduled = self._scheduled, True
            self._latest = (done, total)
            self._delivered.clear()
        if not scheduled:
            self._loop.call_soon_threadsafe(self._deliver)
        if done >= total:
            self._wait()

    def _deliver(self) -> None:
        """Called in the thread of the event loop."""
        with self._lock:
            latest, self._scheduled = self._latest, False
        try:
            if not self.closed:
                self._callback(*latest)
        except Exception as error:
            self.error, self.closed = error, True
            self._stop.request()
        finally:
            with self._lock:
                if not self._scheduled:
                    self._delivered.set()

    def _wait(self) -> None:
        idle = 0.0
        while not self._delivered.wait(_POLL) and not self.closed:
            idle = 0.0 if self._loop.is_running() else idle + _POLL
            if self._loop.is_closed() or idle > _PATIENCE:
                break
        else:
            if not self.closed:
                return
        raise StoppedError("the operation was stopped")


async def _run(
    pool: ThreadPoolExecutor,
    function: Callable[[], R],
    progress: _Relay | None = None,
    stop: _native.Stop | None = None,
    discard: Callable[[R], object] | None = None,
) -> R:
    """Run a function in a thread; if the task is cancelled, stop it and wait for its end.

    ``discard`` gets a result that nobody wants any more.
    """
    stop = stop or _native.Stop()
    context = contextvars.copy_context()
    job = pool.submit(context.run, stop.run, function)
    ended = asyncio.wrap_future(job)
    try:
        # Does not cancel `ended` when the task is cancelled.
        await asyncio.wait([ended])
    except asyncio.CancelledError:
        stop.request()
        if progress is not None:
            progress.closed = True
        job.cancel()
        while not ended.done():
            try:
                await asyncio.wait([ended])
            except asyncio.CancelledError:
                continue
        # Its exception counts as retrieved.
        if not ended.cancelled() and ended.exception() is None and discard is not None:
            discard(ended.result())
        raise
    if progress is not None and progress.error is not None:
        ended.exception()
        raise progress.error
    return ended.result()


async def run(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a function of the package, such as `diskimg.iso.create`, as an operation.

    >>> from diskimg import iso
    >>> asyncio.run(aio.run(iso.create, "new.iso", {"hello.txt": "hello"})).size > 0
    True

    A callable ``progress`` among the keyword arguments is called in the thread of the event loop.

    Raises:
        asyncio.CancelledError: The task was cancelled. The operation has ended.
        Exception: What ``function`` raises.
    """
    stop = _native.Stop()
    relay: _Relay | None = None
    given: Any = kwargs.get("progress")
    if _inspect.iscoroutinefunction(given):
        raise TypeError("progress must be a function, not a coroutine function")
    if callable(given):
        relay = _Relay(given, stop)
        kwargs["progress"] = relay
    return await _run(_operations_pool(), lambda: function(*args, **kwargs), relay, stop)


def _asynchronous(function: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Return a coroutine function that runs ``function`` as an operation."""

    @functools.wraps(function)
    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return await run(function, *args, **kwargs)

    call.__module__ = __name__
    return call


amend = _asynchronous(_in_place.amend)
add_bitmap = _asynchronous(_bitmaps.add_bitmap)
apply_snapshot = _asynchronous(_snapshots.apply_snapshot)
check = _asynchronous(_operations.check)
clear_bitmap = _asynchronous(_bitmaps.clear_bitmap)
commit = _asynchronous(_in_place.commit)
compare = _asynchronous(_operations.compare)
convert = _asynchronous(_operations.convert)
create = _asynchronous(_operations.create)
create_snapshot = _asynchronous(_snapshots.create_snapshot)
delete_snapshot = _asynchronous(_snapshots.delete_snapshot)
detect = _asynchronous(_operations.detect)
disable_bitmap = _asynchronous(_bitmaps.disable_bitmap)
enable_bitmap = _asynchronous(_bitmaps.enable_bitmap)
info = _asynchronous(_operations.info)
inspect = _asynchronous(_operations.inspect)
map = _asynchronous(_operations.map)
measure = _asynchronous(_operations.measure)
merge_bitmap = _asynchronous(_bitmaps.merge_bitmap)
preflight = _asynchronous(_operations.preflight)
rebase = _asynchronous(_in_place.rebase)
remove_bitmap = _asynchronous(_bitmaps.remove_bitmap)
resize = _asynchronous(_operations.resize)


class AsyncImage:
    """An open disk image, whose methods are those of `diskimg.Image` as coroutines.

    >>> diskimg.create("disk.qcow2", "1M").size
    1048576
    >>> async def first_sector() -> bytes:
    ...     async with aio.open("disk.qcow2") as image:
    ...         return await image.read_at(0, 512)
    >>> asyncio.run(first_sector()) == bytes(512)
    True

    Any number of tasks may use it at once.
    """

    __slots__ = ("__weakref__", "sync")

    def __init__(self, image: Image, /) -> None:
        self.sync = image
        """The image itself, for functions that are not asynchronous."""

    def __repr__(self) -> str:
        return f"<diskimg.aio.AsyncImage of {self.sync!r}>"

    async def __aenter__(self) -> AsyncImage:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        await self.close()

    @property
    def closed(self) -> bool:
        """Whether the image was closed."""
        return self.sync.closed

    @property
    def name(self) -> str:
        """The name that the image was opened with."""
        return self.sync.name

    @property
    def format(self) -> Format:
        """The image's format: one of `FORMATS`."""
        return self.sync.format

    @property
    def size(self) -> int:
        """Size of the virtual disk in bytes."""
        return self.sync.size

    @property
    def layers(self) -> int:
        """Number of images in the backing chain, this one included."""
        return self.sync.layers

    @property
    def warnings(self) -> tuple[str, ...]:
        """Damage found so far, in any layer, that does not prevent reading."""
        return self.sync.warnings

    async def close(self) -> None:
        """Close the image's files as soon as the reads in progress have ended."""
        await _run(_reads_pool(), self.sync.close)

    async def read_at(self, offset: int, size: int) -> bytes:
        """Read exactly ``size`` guest bytes at ``offset``, as `Image.read_at`."""
        return await _run(_reads_pool(), lambda: self.sync.read_at(offset, size))

    async def readinto_at(self, offset: int, buffer: Any) -> int:
        """Fill a writable, contiguous ``buffer``, as `Image.readinto_at`."""
        return await _run(_reads_pool(), lambda: self.sync.readinto_at(offset, buffer))

    async def info(self, layer: int = 0) -> Info:
        """Return information about a layer, as `Image.info`."""
        return await _run(_reads_pool(), lambda: self.sync.info(layer))

    async def extents(self, start: int = 0, end: int | None = None) -> AsyncIterator[Extent]:
        """Iterate over the extents of a guest range, as `Image.extents`."""
        extents = self.sync.extents(start, end)
        while True:
            some = await _run(_reads_pool(), lambda: list(itertools.islice(extents, _EXTENTS)))
            for extent in some:
                yield extent
            if len(some) < _EXTENTS:
                return

    async def check(self) -> CheckReport:
        """Check the consistency of the image's metadata, as `Image.check`."""
        return await run(self.sync.check)

    async def measure(self, format: Format = "raw", options: Any = None) -> Measure:
        """Calculate the space that the image would take, as `Image.measure`."""
        return await run(self.sync.measure, format, options)


class Opening:
    """An image that is being opened: for ``async with``, or ``await``.

    >>> async def size() -> int:
    ...     image = await aio.open(io.BytesIO(bytes(512)), format="raw")
    ...     try:
    ...         return image.size
    ...     finally:
    ...         await image.close()
    >>> asyncio.run(size())
    512
    """

    def __init__(self, opener: Callable[[], Image], /) -> None:
        self._opener = opener
        self._image: AsyncImage | None = None

    async def _open(self) -> AsyncImage:
        return AsyncImage(await _run(_reads_pool(), self._opener, discard=Image.close))

    def __await__(self) -> Generator[Any, None, AsyncImage]:
        return self._open().__await__()

    async def __aenter__(self) -> AsyncImage:
        self._image = await self._open()
        return self._image

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        if self._image is not None:
            await self._image.close()


def _opening(function: Callable[P, Image]) -> Callable[P, Opening]:
    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Opening:
        return Opening(lambda: function(*args, **kwargs))

    call.__module__ = __name__
    return call


open = _opening(_image.open)
