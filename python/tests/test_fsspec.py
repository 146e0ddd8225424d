"""Images behind URLs."""

import io
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, cast

import diskimg
import fsspec
import fsspec.core
import fsspec.implementations.memory
import pytest
from diskimg import aio, iso
from diskimg import fsspec as remote


class Counting(fsspec.implementations.memory.MemoryFileSystem):  # type: ignore[misc]
    """Counts the requests for data."""

    protocol = "counting"
    requests: ClassVar[list[tuple[int, int]]] = []

    def cat_file(self, path: str, start: Any = None, end: Any = None, **more: Any) -> bytes:
        self.requests.append((start, end))
        data: bytes = super().cat_file(path, start, end, **more)
        return data


@pytest.fixture(autouse=True)
def memory() -> Iterator[dict[str, Any]]:
    """The empty memory file system."""
    fsspec.register_implementation("counting", Counting, clobber=True)
    store: dict[str, Any] = fsspec.implementations.memory.MemoryFileSystem.store
    store.clear()
    Counting.requests.clear()
    yield store
    store.clear()


def put(path: Path, url: str) -> None:
    with fsspec.open(url, "wb") as file:
        file.write(path.read_bytes())


def test_every_function_reads_a_url(raw: Path, disk: bytes, tmp_path: Path) -> None:
    packed = tmp_path / "disk.qcow2"
    diskimg.convert(raw, packed, src_format="raw", compress=True)
    put(packed, "memory://a/disk.qcow2")
    url = "memory://a/disk.qcow2"
    with diskimg.open(remote.source(url)) as image:
        assert image.name == url and image.read_at(1024, 4096) == disk[1024:5120]
    assert diskimg.info(remote.source(url)).virtual_size == len(disk)
    mapped = [(one.start, one.length, one.data) for one in diskimg.map(remote.source(url))]
    assert mapped == [(one.start, one.length, one.data) for one in diskimg.map(packed)]
    assert diskimg.check(remote.source(url)).clean
    assert diskimg.detect(remote.source(url)).format == "qcow2"
    assert diskimg.inspect(remote.source(url), format="qcow2")
    assert diskimg.compare(remote.source(url), raw, b_format="raw")
    diskimg.convert(remote.source(url), tmp_path / "back.raw")
    assert (tmp_path / "back.raw").read_bytes() == disk
    with fsspec.open("memory://seed.iso", "wb") as file:
        file.write(iso.nocloud("x: y", "instance-id: i"))
    with iso.open(remote.source("memory://seed.iso")) as seed:
        assert seed.read("user-data") == b"x: y"


def test_the_file_is_a_binary_file_object(raw: Path, disk: bytes) -> None:
    put(raw, "memory://disk.raw")
    with remote.source("memory://disk.raw") as file:
        assert file.size == len(disk) and file.readable() and file.seekable()
        assert file.seek(-512, io.SEEK_END) and file.read() == disk[-512:]
        assert file.seek(512) == 512 and file.read(100) == disk[512:612]
        buffer = bytearray(1000)
        assert file.readinto(buffer) == 1000 and buffer == disk[612:1612]


def test_info_needs_few_requests_and_each_table_is_read_once(raw: Path, tmp_path: Path) -> None:
    packed, stream = tmp_path / "disk.qcow2", tmp_path / "disk.vmdk"
    diskimg.convert(raw, packed, src_format="raw")
    diskimg.convert(raw, stream, src_format="raw", compress=True)
    put(packed, "counting://disk.qcow2")
    put(stream, "counting://disk.vmdk")
    for url, most in [("counting://disk.qcow2", 4), ("counting://disk.vmdk", 4)]:
        Counting.requests.clear()
        diskimg.info(remote.source(url))
        assert 0 < len(Counting.requests) <= most, Counting.requests
        assert sum(end - start for start, end in Counting.requests) <= 1 << 20
        with diskimg.open(remote.source(url)) as image:
            image.read_at(0, 512)
            Counting.requests.clear()
            for at in range(0, image.size - 512, 65536):
                image.read_at(at, 512)
            reads = len(Counting.requests)
            for _ in range(3):
                list(image.extents())
            assert len(Counting.requests) == reads  # the tables are kept
    # Guest data is read once, in long requests.
    Counting.requests.clear()
    diskimg.convert(remote.source("counting://disk.qcow2"), tmp_path / "x.raw", reflink="never")
    sizes = [end - start for start, end in Counting.requests]
    assert len(sizes) < 16 and sum(sizes) < 1.3 * packed.stat().st_size, sizes


class Handler(SimpleHTTPRequestHandler):
    """A file server that sends parts of files."""

    ranges: ClassVar[bool] = True
    gets: ClassVar[int] = 0

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        Handler.gets += 1
        asked = self.headers.get("Range")
        if not asked or not self.ranges:
            super().do_GET()
            return
        data = Path(self.translate_path(self.path)).read_bytes()
        first, last = asked.removeprefix("bytes=").split("-")
        part = data[int(first) : int(last) + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.end_headers()
        self.wfile.write(part)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The URL of an HTTP server for the temporary directory."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path)) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()
        thread.join()
    Handler.ranges = True


def test_a_password_and_a_signature_are_not_part_of_the_name(server: str, raw: Path) -> None:
    url = f"{server}/disk.raw?token=secret".replace("://", "://me:secret@")
    source = remote.source(url)
    assert source.name == f"{server}/disk.raw"
    assert "secret" not in repr(source)
    with diskimg.open(source, "raw") as image:
        assert "secret" not in image.name + repr(image)
        image.read_at(0, 512)


def test_an_image_is_read_over_http(server: str, raw: Path, disk: bytes, tmp_path: Path) -> None:
    import asyncio

    packed = tmp_path / "disk.qcow2"
    diskimg.convert(raw, packed, src_format="raw")
    url = f"{server}/disk.qcow2"
    Handler.gets = 0
    assert diskimg.info(remote.source(url)).virtual_size == len(disk)
    assert Handler.gets <= 6
    diskimg.convert(remote.source(url), tmp_path / "back.raw")
    assert (tmp_path / "back.raw").read_bytes() == disk

    async def main() -> None:
        source = await asyncio.to_thread(remote.source, url)
        async with aio.open(source) as image:
            parts = [image.read_at(at, 4096) for at in range(0, 1 << 20, 4096)]
            assert b"".join(await asyncio.gather(*parts)) == disk[: 1 << 20]

    asyncio.run(main())
    with pytest.raises(FileNotFoundError):
        remote.source(f"{server}/missing.qcow2")


def test_a_server_that_sends_only_whole_files_is_an_error_that_says_what_to_do(
    server: str, raw: Path, tmp_path: Path
) -> None:
    diskimg.convert(raw, tmp_path / "disk.qcow2", src_format="raw")
    Handler.ranges = False
    with pytest.raises(OSError, match="simplecache::URL"):
        diskimg.info(remote.source(f"{server}/disk.qcow2"))
    info = diskimg.info(remote.source(f"simplecache::{server}/disk.qcow2"))
    assert info.virtual_size == raw.stat().st_size


def test_an_output_appears_when_it_is_complete(
    raw: Path, tmp_path: Path, memory: dict[str, Any]
) -> None:
    for url in ("memory://out/disk.qcow2", f"file://{tmp_path}/out.qcow2"):
        there = fsspec.core.url_to_fs(url)[0].exists
        with remote.output(url) as file:
            report = diskimg.convert(raw, file, src_format="raw", format="qcow2")
            assert not there(url)
        assert there(url) and report.guest_bytes == raw.stat().st_size
        assert diskimg.compare(remote.source(url), raw, b_format="raw")
        # By name, and over an existing file.
        with remote.output(url) as file:
            diskimg.create(file.name, "1M", format="qcow2")
        assert diskimg.info(remote.source(url)).virtual_size == 1 << 20


def test_after_an_error_nothing_appears_and_an_old_file_is_unchanged(
    raw: Path, tmp_path: Path, memory: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    class Full(Exception):
        pass

    def full(source: Any, destination: Any, size: int) -> None:
        destination.write(source.read(1000))
        raise Full

    for url in ("memory://disk.qcow2", f"file://{tmp_path}/out/disk.qcow2"):
        (tmp_path / "out").mkdir(exist_ok=True)
        fs = fsspec.core.url_to_fs(url)[0]
        for old in (None, b"old"):
            if old is not None:
                fs.pipe(url, old)
            with pytest.raises(FileNotFoundError), remote.output(url) as file:
                diskimg.convert(tmp_path / "missing", file, format="qcow2")
            with pytest.raises(Full), monkeypatch.context() as patch, remote.output(url) as file:
                diskimg.convert(raw, file, src_format="raw", format="qcow2")
                patch.setattr(shutil, "copyfileobj", full)
            assert (fs.cat(url) if fs.exists(url) else None) == old
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["disk.qcow2"]


def test_only_a_url_that_is_passed_to_these_functions_uses_fsspec(
    images: Path, raw: Path, tmp_path: Path
) -> None:
    put(raw, "memory://base.raw")
    # Not by a name that the caller passes to another function,
    with pytest.raises(diskimg.UnsupportedError, match=r"protocol 'memory'.*diskimg\.fsspec"):
        diskimg.open("memory://base.raw")
    with pytest.raises(diskimg.UnsupportedError, match="Unknown protocol 'memory'"):
        diskimg.convert(raw, "memory://out.raw", src_format="raw")
    # nor by a name in an image, whether that is local or behind a URL.
    overlay, placeholder = tmp_path / "overlay.qcow2", tmp_path / "memory___base.raw"
    raw.rename(placeholder)
    diskimg.create(overlay, backing=placeholder.name, backing_format="raw")
    data = overlay.read_bytes()
    assert data.count(b"memory___base.raw") == 1
    overlay.write_bytes(data.replace(b"memory___base.raw", b"memory://base.raw"))
    put(overlay, "memory://overlay.qcow2")
    for source in (overlay, remote.source("memory://overlay.qcow2")):
        for policy in ("same-dir", "any"):
            with pytest.raises((diskimg.RefusedError, diskimg.UnsupportedError)):
                diskimg.open(source, external_files=cast(Any, policy))
    put(images / "overlay.qcow2", "memory://images/overlay.qcow2")
    put(images / "base-v2.qcow2", "memory://images/base-v2.qcow2")
    with pytest.raises(diskimg.RefusedError):
        diskimg.open(remote.source("memory://images/overlay.qcow2"), external_files="any")


def test_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(diskimg.InvalidError, match="is not a URL"):
        remote.source("disk.qcow2")
    with pytest.raises(TypeError, match="must be a str"):
        remote.source(b"memory://x")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        remote.source("memory://missing")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        remote.source(f"file://{tmp_path}/folder")
    with pytest.raises(ValueError, match="nosuch"):
        remote.source("nosuch://x")

    # An exception of the file system is raised unchanged.
    class Odd(Exception):
        pass

    def fail(self: Any, *_: Any) -> bytes:
        raise Odd

    put_data = bytes(1 << 20)
    with fsspec.open("counting://x", "wb") as file:
        file.write(put_data)
    source = remote.source("counting://x")
    monkeypatch.setattr(Counting, "cat_file", fail)
    with pytest.raises(Odd):
        diskimg.detect(source)
    # A file that has become shorter.
    monkeypatch.setattr(Counting, "cat_file", lambda *_: b"short")
    with pytest.raises(OSError, match="has the file changed"):
        diskimg.open(source, "raw").read_at(0, 512)


def test_without_fsspec_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(diskimg.UnsupportedError, match=r"pip install 'diskimg\[fsspec\]'"):
        remote.source("memory://x")
