"""Images on servers."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import diskimg
import pytest


class Server(ThreadingHTTPServer):
    """A server with one file, which answers ranges."""

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.etag = '"1"'
        self.requests: list[dict[str, str]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self, user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self.server_address[1]}/disk"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append({name.lower(): text for name, text in self.headers.items()})
        content, etag = self.server.content, self.server.etag
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
        assert match
        start, end = int(match[1]), min(int(match[2]) + 1, len(content))
        if self.headers.get("If-Match", etag) != etag:
            self.send_response(412)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.send_header("Content-Length", str(end - start))
        self.send_header("ETag", etag)
        self.end_headers()
        self.wfile.write(content[start:end])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def disk() -> bytes:
    return bytes(range(256)) * 4096 + bytes(1 << 20)


@pytest.fixture
def server(tmp_path: Path, disk: bytes) -> Iterator[Server]:
    (tmp_path / "disk.raw").write_bytes(disk)
    diskimg.convert(tmp_path / "disk.raw", tmp_path / "disk.qcow2", src_format="raw")
    server = Server((tmp_path / "disk.qcow2").read_bytes())
    yield server
    server.shutdown()
    server.server_close()


def test_an_image_is_read_from_a_server(server: Server, disk: bytes, tmp_path: Path) -> None:
    url = diskimg.Url(server.url())
    with diskimg.open(url) as image:
        assert (image.format, image.size) == ("qcow2", len(disk))
        assert image.read_at(1 << 16, 256) == disk[1 << 16 : (1 << 16) + 256]
    diskimg.convert(url, tmp_path / "copy.raw")
    assert (tmp_path / "copy.raw").read_bytes() == disk
    info = diskimg.info(url)
    assert (info.filename, info.virtual_size) == (server.url(), len(disk))
    assert diskimg.detect(url).format == "qcow2"
    assert diskimg.inspect(url, format="qcow2").safe
    assert all("if-match" in request for request in server.requests if request["range"][6] != "0")


def test_secrets_are_sent_and_not_shown(server: Server) -> None:
    url = diskimg.Url(server.url("user:pass@"), headers={"X-Token": "hidden"})
    assert diskimg.info(url).format == "qcow2"
    assert server.requests[0]["authorization"] == "Basic dXNlcjpwYXNz"
    assert server.requests[0]["x-token"] == "hidden"
    for text in (str(url), repr(url), diskimg.info(url).filename):
        assert "pass" not in text
        assert "hidden" not in text


def test_a_file_that_changes_is_an_error(server: Server) -> None:
    server.content += bytes(1 << 20)
    with diskimg.open(diskimg.Url(server.url())) as image:
        server.etag = '"2"'
        with pytest.raises(diskimg.IoError, match="changed on the server"):
            image.read_at(0, 1 << 20)


def test_a_text_is_no_url(server: Server) -> None:
    with pytest.raises(diskimg.UnsupportedError, match="Unknown protocol"):
        diskimg.open(server.url())
    assert not server.requests


def test_private_addresses_can_be_refused(server: Server) -> None:
    with pytest.raises(diskimg.IoError, match="is private"):
        diskimg.inspect(diskimg.Url(server.url(), private_addresses=False))
    assert not server.requests


def test_other_urls_are_refused(tmp_path: Path) -> None:
    for url in ("ftp://host/x", "file:///etc/passwd", "disk.raw", "http:x"):
        with pytest.raises((ValueError, diskimg.InvalidError)):
            diskimg.open(diskimg.Url(url))
    with pytest.raises(diskimg.IoError):
        diskimg.open(diskimg.Url("https://name.invalid/x", ca_bundle=tmp_path / "none"))


def test_names_of_a_cluster_are_checked() -> None:
    with pytest.raises(diskimg.InvalidError, match="expected rbd:POOL"):
        diskimg.open(diskimg.Url("rbd:pool"))
    with pytest.raises(ValueError, match="cannot be restricted"):
        diskimg.open(diskimg.Url("rbd:pool/image", private_addresses=False))


def test_a_confined_operation_takes_no_url(server: Server) -> None:
    with diskimg.sandboxed() as sandbox, pytest.raises(diskimg.InvalidError, match="file name"):
        sandbox.info(diskimg.Url(server.url()))


def test_exports_of_nbd_servers_are_read_and_written(tmp_path: Path, disk: bytes) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(disk)
    target.write_bytes(b"x" * len(disk))
    with diskimg.serve(source, "raw", socket=tmp_path / "s") as server:
        url = diskimg.Url(server.uri)
        assert str(url) == server.uri
        assert diskimg.info(url, format="raw").virtual_size == len(disk)
        with diskimg.open(url, "raw") as image:
            assert image.read_at(1000, 5000) == disk[1000:6000]
        diskimg.convert(url, tmp_path / "copy.qcow2", src_format="raw")
        with pytest.raises(diskimg.IoError, match="only reading"):
            diskimg.convert(source, url, format="raw", src_format="raw", in_place=True)
        with pytest.raises(diskimg.IoError, match="no export 'other'"):
            diskimg.info(diskimg.Url(server.uri.replace("///", "///other")))
        with pytest.raises(diskimg.IoError, match="is private"):
            diskimg.info(diskimg.Url(server.uri, private_addresses=False))
        with pytest.raises(ValueError, match="headers"):
            diskimg.info(diskimg.Url(server.uri, headers={"a": "b"}))
    with diskimg.serve(target, "raw", socket=tmp_path / "t", writable=True) as server:
        url = diskimg.Url(server.uri)
        diskimg.convert(source, url, format="raw", src_format="raw", in_place=True)
        with pytest.raises(diskimg.UnsupportedError, match="creates no exports"):
            diskimg.convert(source, url, format="raw", src_format="raw")
    assert target.read_bytes() == disk
