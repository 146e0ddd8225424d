"""Images in OpenStack's object store."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import diskimg
import pytest


class Store(ThreadingHTTPServer):
    """A store of objects that are uploaded with one request each."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def swift(self, key: str = "hidden", create_only: bool = False) -> diskimg.Swift:
        url = self.url + "/auth/v1.0"
        return diskimg.Swift(auth_url=url, user="a:u", key=key, create_only=create_only)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Store

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def is_allowed(self) -> bool:
        allowed = self.headers["X-Auth-Token"] == "T"
        if not allowed:
            self.answer(401)
        return allowed

    def do_HEAD(self) -> None:
        if not self.is_allowed():
            return
        if self.path.count("/") == 3:
            self.answer(204)
            return
        content = self.server.objects.get(self.path)
        etag = hashlib.md5(content or b"").hexdigest()
        self.answer(404 if content is None else 200, content or b"", Etag=etag)

    def do_GET(self) -> None:
        if self.path == "/auth/v1.0":
            if self.headers["X-Auth-Key"] == "hidden":
                self.answer(200, X_Auth_Token="T", X_Storage_Url=self.server.url + "/v1/a")
            else:
                self.answer(401)
            return
        if not self.is_allowed():
            return
        content = self.server.objects.get(self.path)
        if content is None:
            self.answer(404)
            return
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
        assert match
        start, end = int(match[1]), min(int(match[2]) + 1, len(content))
        where = f"bytes {start}-{end - 1}/{len(content)}"
        etag = hashlib.md5(content).hexdigest()
        self.answer(206, content[start:end], Content_Range=where, Etag=etag)

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.is_allowed():
            self.server.objects[self.path] = content
            self.answer(201, Etag=hashlib.md5(content).hexdigest())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store()
    yield store
    store.shutdown()
    store.server_close()


def test_an_image_is_written_to_swift_and_read_from_it(store: Store, tmp_path: Path) -> None:
    disk = bytes(range(256)) * 4096 + bytes(1 << 20)
    (tmp_path / "disk.raw").write_bytes(disk)
    url = diskimg.Url("swift://c/a%20b.qcow2", swift=store.swift())
    diskimg.convert(tmp_path / "disk.raw", url, src_format="raw")
    assert store.objects["/v1/a/c/a%20b.qcow2"].startswith(b"QFI\xfb")
    with diskimg.open(url) as image:
        assert image.read_at(0, len(disk)) == disk
    token = diskimg.Swift(storage_url=store.url + "/v1/a", token="T")
    url = diskimg.Url("swift://c/a%20b.qcow2", swift=token)
    diskimg.convert(url, tmp_path / "back.raw", format="raw")
    assert (tmp_path / "back.raw").read_bytes() == disk
    with pytest.raises(diskimg.IoError, match="exists already"):
        only = diskimg.Url(url.url, swift=store.swift(create_only=True))
        diskimg.convert(tmp_path / "disk.raw", only, src_format="raw")


def test_errors_have_the_reason_but_no_secret(store: Store) -> None:
    url = diskimg.Url("swift://c/absent", swift=store.swift())
    assert "hidden" not in repr(url) + repr(store.swift())
    with pytest.raises(diskimg.IoError, match="no container or object"):
        diskimg.open(url)
    with pytest.raises(diskimg.IoError, match="is wrong") as error:
        diskimg.open(diskimg.Url("swift://c/x", swift=store.swift(key="other-key")))
    assert "other-key" not in str(error.value)
    with pytest.raises(diskimg.InvalidError, match="belong together"):
        diskimg.open(diskimg.Url("swift://c/x", swift=diskimg.Swift(user="a:u")))
    for wrong in ("swift://c", "swift:c/o", "swift://a:hidden@c/o"):
        with pytest.raises(diskimg.InvalidError) as invalid:
            diskimg.open(diskimg.Url(wrong, swift=store.swift()))
        assert "hidden" not in str(invalid.value)
