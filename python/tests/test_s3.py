"""Images in an S3 store."""

from __future__ import annotations

import json
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
        self.requests: list[dict[str, str]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def s3(self, create_only: bool = False, resume: Path | None = None) -> diskimg.S3:
        endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        return diskimg.S3(
            endpoint=endpoint,
            access_key="AK",
            secret_key="hidden",
            create_only=create_only,
            resume=resume,
        )


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Store

    def found(self) -> bytes | None:
        headers = {name.lower(): text for name, text in self.headers.items()}
        self.server.requests.append(headers)
        return self.server.objects.get(self.path)

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body)), "ETag": '"1"'} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        content = self.found()
        self.answer(404 if content is None else 200, content or b"")

    def do_GET(self) -> None:
        content = self.found()
        if content is None:
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
        assert match
        start, end = int(match[1]), min(int(match[2]) + 1, len(content))
        self.answer(
            206, content[start:end], Content_Range=f"bytes {start}-{end - 1}/{len(content)}"
        )

    def do_PUT(self) -> None:
        self.found()
        self.server.objects[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200, b"")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store()
    yield store
    store.shutdown()
    store.server_close()


def test_an_image_is_written_to_a_store_and_read_from_it(store: Store, tmp_path: Path) -> None:
    disk = bytes(range(256)) * 4096 + bytes(1 << 20)
    (tmp_path / "disk.raw").write_bytes(disk)
    url = diskimg.Url("s3://bucket/a%20b.qcow2", s3=store.s3())
    diskimg.convert(tmp_path / "disk.raw", url, src_format="raw")
    assert store.objects["/bucket/a%20b.qcow2"].startswith(b"QFI\xfb")
    assert "AK/" in store.requests[0]["authorization"]
    with diskimg.open(url) as image:
        assert image.read_at(0, len(disk)) == disk
    diskimg.convert(url, tmp_path / "back.raw", format="raw")
    assert (tmp_path / "back.raw").read_bytes() == disk


def test_an_existing_object_is_replaced_unless_that_is_forbidden(
    store: Store, tmp_path: Path
) -> None:
    (tmp_path / "disk.raw").write_bytes(bytes(512))
    store.objects["/bucket/disk"] = b"old"
    url = diskimg.Url("s3://bucket/disk", s3=store.s3(create_only=True))
    with pytest.raises(diskimg.IoError, match="exists already"):
        diskimg.convert(tmp_path / "disk.raw", url, src_format="raw")
    assert store.objects["/bucket/disk"] == b"old"
    url = diskimg.Url("s3://bucket/disk", s3=store.s3())
    diskimg.convert(tmp_path / "disk.raw", url, src_format="raw")
    assert store.objects["/bucket/disk"] == bytes(512)


def test_a_file_that_records_another_upload_is_an_error(store: Store, tmp_path: Path) -> None:
    (tmp_path / "disk.raw").write_bytes(bytes(512))
    state = tmp_path / "state"
    url = diskimg.Url("s3://bucket/disk", s3=store.s3(resume=state))
    at = f"s3://bucket/disk at http://127.0.0.1:{store.server_address[1]}"
    record: dict[str, object] = {"diskimg-upload": 1, "upload": None, "parts": {}}
    for destination in ("s3://bucket/other", None):
        state.write_text(json.dumps(record | {"destination": destination}))
        with pytest.raises(diskimg.IoError, match="record"):
            diskimg.convert(tmp_path / "disk.raw", url, src_format="raw")
        assert store.objects == {}
    state.write_text(json.dumps(record | {"destination": at}))
    diskimg.convert(tmp_path / "disk.raw", url, src_format="raw")
    assert store.objects["/bucket/disk"] == bytes(512)
    assert not state.exists()


def test_errors_have_the_reason_but_no_secret(store: Store, tmp_path: Path) -> None:
    url = diskimg.Url("s3://bucket/absent", s3=store.s3())
    assert "hidden" not in repr(url) + repr(store.s3())
    with pytest.raises(diskimg.IoError, match="there is no object of this name"):
        diskimg.open(url)
    with pytest.raises(diskimg.InvalidError, match="belong together"):
        diskimg.open(diskimg.Url("s3://bucket/x", s3=diskimg.S3(access_key="AK")))
    for wrong in ("s3://bucket", "s3:bucket/key", "s3://AK:hidden@bucket/key"):
        with pytest.raises(diskimg.InvalidError) as error:
            diskimg.open(diskimg.Url(wrong, s3=store.s3()))
        assert "hidden" not in str(error.value)
    (tmp_path / "disk.raw").write_bytes(bytes(512))
    with pytest.raises(diskimg.Error, match="in place"):
        diskimg.convert(tmp_path / "disk.raw", url, src_format="raw", in_place=True)
