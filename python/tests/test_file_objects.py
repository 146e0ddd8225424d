"""Binary file objects as sources and outputs."""

import errno
import gzip
import io
import os
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import diskimg
import diskimg.iso
import pytest
from tools import qemu_img


class Trickle(io.RawIOBase):
    """A stream that reads and writes in small pieces and cannot seek."""

    def __init__(self, data: bytes = b"") -> None:
        self.source = io.BytesIO(data)
        self.taken = bytearray()

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self.source.readinto(memoryview(buffer)[:7000])

    def write(self, data: Any) -> int:
        self.taken += data[:7000]
        return min(7000, len(data))


class Duck:
    """A minimal file object: only `read`."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def read(self, size: int) -> bytes:
        part = self.data[self.at : self.at + size][:5000]
        self.at += len(part)
        return part


def sources(path: Path, tmp_path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    (tmp_path / "x.gz").write_bytes(gzip.compress(data))
    temporary = tempfile.TemporaryFile()  # noqa: SIM115
    temporary.write(data)  # not flushed
    return {
        "file": path.open("rb"),
        "unbuffered": path.open("rb", buffering=0),
        "temporary": temporary,
        "bytes": io.BytesIO(data),
        "gzip": gzip.open(tmp_path / "x.gz"),
        "stream": Trickle(data),
        "duck": Duck(data),
    }


@pytest.mark.parametrize("kind", sources(Path(__file__), Path(tempfile.mkdtemp())))
@pytest.mark.parametrize("format", ["qcow2", "vmdk", "raw"])
def test_any_binary_file_object_is_a_source(
    kind: str, format: diskimg.types.Format, make: Callable[..., Path], raw: Path, tmp_path: Path
) -> None:
    path = make(format)
    out = tmp_path / "out.qcow2"
    diskimg.convert(sources(path, tmp_path)[kind], out, src_format=format)
    assert qemu_img("compare", "-f", "raw", "-F", "qcow2", raw, out)
    assert diskimg.info(sources(path, tmp_path)[kind], format).format == format
    if kind not in ("stream", "duck"):
        assert diskimg.detect(sources(path, tmp_path)[kind]).format == format
    else:
        with pytest.raises(ValueError, match="seeks"):
            diskimg.detect(sources(path, tmp_path)[kind])


@pytest.mark.parametrize("format", ["qcow2", "vmdk", "raw", "ova"])
def test_outputs_that_seek_get_the_same_bytes_as_a_file(
    format: diskimg.types.Format, raw: Path, tmp_path: Path
) -> None:
    named = tmp_path / "image"
    options = {"subformat": "streamOptimized"} if format == "vmdk" else {}

    def convert(dst: Any) -> None:
        diskimg.convert(raw, dst, format=format, src_format="raw", options=options, sparse=512)

    convert(named)
    expected = named.read_bytes()
    for object in (
        io.BytesIO(b"old" * 5_000_000),
        (tmp_path / "f").open("w+b"),
        tempfile.TemporaryFile(),  # noqa: SIM115
    ):
        convert(object)
        object.seek(0)
        found = object.read()
        if format in ("vmdk", "ova"):  # contain their file names
            assert len(found) > 0 and diskimg.compare(io.BytesIO(found), raw, b_format="raw")
        else:
            assert found == expected


@pytest.mark.parametrize("format", ["vmdk", "raw", "ova"])
def test_streamable_formats_are_written_to_objects_that_cannot_seek(
    format: diskimg.types.Format, raw: Path, tmp_path: Path
) -> None:
    options = {"subformat": "streamOptimized"} if format == "vmdk" else {}
    stream = Trickle()
    diskimg.convert(raw, stream, format=format, src_format="raw", options=options)
    assert diskimg.compare(io.BytesIO(stream.taken), raw, b_format="raw")
    with pytest.raises(diskimg.Error):
        diskimg.convert(raw, Trickle(), format="qcow2", src_format="raw")


def test_an_image_is_written_to_a_socket(raw: Path, disk: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, ours.makefile("wb") as out, theirs.makefile("rb") as incoming:
        got: list[bytes] = []
        reader = threading.Thread(target=lambda: got.append(incoming.read()))
        reader.start()
        diskimg.convert(raw, out, format="raw", src_format="raw")
        out.close()
        ours.shutdown(socket.SHUT_WR)
        reader.join()
    assert got == [disk]


def test_exceptions_of_file_objects_are_propagated_unchanged(
    raw: Path, make: Callable[..., Path]
) -> None:
    class Odd(Exception):
        pass

    odd = Odd("mine")

    class BadSource(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() + (size or 0) > 100_000:
                raise odd
            return super().read(size)

    class BadSink(io.BytesIO):
        def write(self, data: Any, /) -> int:
            raise odd

    class BadStream(Trickle):
        def write(self, data: Any) -> int:
            raise odd

    for call in (
        lambda: diskimg.convert(BadSource(raw.read_bytes()), io.BytesIO(), src_format="raw"),
        lambda: diskimg.convert(BadSource(make("vmdk").read_bytes()), io.BytesIO()),
        lambda: diskimg.convert(raw, BadSink(), src_format="raw", format="qcow2"),
        lambda: diskimg.convert(raw, BadStream(), src_format="raw"),
        lambda: diskimg.open(BadSource(raw.read_bytes()), "raw").read_at(0, 1 << 20),
        lambda: diskimg.open(BadSource(raw.read_bytes()), "raw").as_file().read(),
        lambda: diskimg.compare(raw, BadSource(raw.read_bytes()), a_format="raw", b_format="raw"),
    ):
        with pytest.raises(Odd) as caught:
            call()
        assert caught.value is odd


def test_misbehaving_file_objects_are_errors(raw: Path) -> None:
    class Short(io.BytesIO):
        def seek(self, offset: int, whence: int = 0, /) -> int:
            super().seek(offset, whence)
            return self.tell()

        def tell(self) -> int:
            return super().tell() + 1000

    class Generous(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(-1)

    class Texts(io.BytesIO):
        def read(self, size: int | None = -1, /) -> Any:
            return "text"

    data = raw.read_bytes()
    with pytest.raises(diskimg.CorruptError):
        diskimg.convert(Short(data), io.BytesIO(), src_format="raw")
    with pytest.raises(ValueError):
        diskimg.convert(Generous(data), io.BytesIO(), src_format="raw")
    with pytest.raises(TypeError):
        diskimg.convert(Texts(data), io.BytesIO(), src_format="raw")


def test_anything_but_a_binary_file_is_a_type_error(raw: Path, tmp_path: Path) -> None:
    things: list[Any] = [None, 5, object(), io.StringIO("x"), (tmp_path / "t").open("w")]
    for thing in things:
        with pytest.raises(TypeError):
            diskimg.open(thing)
        with pytest.raises(TypeError):
            diskimg.convert(raw, thing, src_format="raw")
    with (tmp_path / "a").open("ab") as appending, pytest.raises(ValueError, match="append"):
        diskimg.convert(raw, appending, src_format="raw")
    (tmp_path / "other").write_bytes(b"precious")
    with (tmp_path / "other").open("rb") as reading, pytest.raises(TypeError):
        diskimg.convert(raw, reading, src_format="raw")
    assert (tmp_path / "other").read_bytes() == b"precious"
    with (tmp_path / "new").open("wb") as writing, pytest.raises(TypeError):
        diskimg.open(writing, "raw")
    closed = raw.open("rb")
    closed.close()
    with pytest.raises(ValueError):
        diskimg.open(closed)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("data", [b"\0" * 512, b"x" * 5000, b"\0" * 1_000_000])
def test_an_image_as_bytes_is_a_short_error_that_mentions_bytesio(
    raw: Path, tmp_path: Path, data: bytes, kind: Any
) -> None:
    image, out = kind(data), tmp_path / "out.raw"
    calls: list[Callable[[], Any]] = [
        lambda: diskimg.open(image),
        lambda: diskimg.info(image),
        lambda: diskimg.map(image),
        lambda: diskimg.check(image),
        lambda: diskimg.measure(image),
        lambda: diskimg.compare(image, raw),
        lambda: diskimg.compare(raw, image, a_format="raw"),
        lambda: diskimg.convert(image, out),
        lambda: diskimg.convert([raw, image], out),
        lambda: diskimg.convert(raw, image),
        lambda: diskimg.convert(raw, out, backing=image),
        lambda: diskimg.create(image, "1M"),
        lambda: diskimg.create(out, "1M", backing=image),
        lambda: diskimg.resize(image, 5),
        lambda: diskimg.iso.create(image, {}),
        lambda: diskimg.iso.create(out, image),
        lambda: diskimg.iso.open(diskimg.iso.nocloud("", "")).extract(image),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"use io\.BytesIO") as caught:
            call()
        assert len(str(caught.value)) < 120
    # A path can be bytes.
    with diskimg.open(os.fsencode(raw)) as opened:
        assert opened.size == raw.stat().st_size


@pytest.mark.parametrize("text", ["x" * 1_000_000, "QFI\0" * 250_000, "\0"])
def test_an_image_as_text_is_a_short_error(raw: Path, tmp_path: Path, text: str) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: diskimg.open(text),
        lambda: diskimg.detect(text),
        lambda: diskimg.inspect(text),
        lambda: diskimg.convert(text, tmp_path / "out"),
        lambda: diskimg.convert(raw, text),
        lambda: diskimg.iso.open(text),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="not a file name") as caught:
            call()
        assert len(str(caught.value)) < 300
    for word in (text, text + "2"):
        with pytest.raises(ValueError) as caught:
            diskimg.create_options(cast(Any, word))
        assert len(str(caught.value)) < 300


def test_external_files_of_an_image_in_a_file_object_are_not_opened(images: Path) -> None:
    with (images / "overlay.qcow2").open("rb") as file:
        with pytest.raises(diskimg.RefusedError):
            diskimg.open(file)
        assert diskimg.info(file).backing_filename == "base-v2.qcow2"


def test_an_output_that_is_the_source_is_refused_and_left_unchanged(
    make: Callable[..., Path], raw: Path
) -> None:
    for path in (make("qcow2"), raw):
        before = path.read_bytes()
        with path.open("r+b") as out, pytest.raises(diskimg.RefusedError):
            diskimg.convert(path, out, format="qcow2")
        with path.open("r+b") as out, pytest.raises(diskimg.RefusedError):
            diskimg.convert(out, out, format="qcow2")
        assert path.read_bytes() == before
    memory = io.BytesIO(before)
    with pytest.raises(diskimg.RefusedError):
        diskimg.convert(memory, memory)
    assert memory.getvalue() == before


def test_an_output_is_unchanged_if_the_source_cannot_be_opened(tmp_path: Path) -> None:
    precious = io.BytesIO(b"precious")
    with pytest.raises(FileNotFoundError):
        diskimg.convert(tmp_path / "missing", precious)
    assert precious.getvalue() == b"precious"


def test_the_position_is_at_the_end_of_the_image_afterwards(raw: Path, tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        diskimg.convert(raw, file, src_format="raw")
        file.write(b"trailer")
    assert (tmp_path / "out").read_bytes() == raw.read_bytes() + b"trailer"


def test_a_descriptor_in_append_mode_is_detected(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"log")
    descriptor = os.open(tmp_path / "log", os.O_RDWR | os.O_APPEND)
    with os.fdopen(descriptor, "wb") as file, pytest.raises(ValueError, match="append"):
        diskimg.convert(raw, file, src_format="raw")
    assert (tmp_path / "log").read_bytes() == b"log"


def test_a_seekable_object_without_truncate_is_written_as_a_stream(
    raw: Path, disk: bytes, tmp_path: Path
) -> None:
    with gzip.open(tmp_path / "x.gz", "wb") as out:
        diskimg.convert(raw, out, format="raw", src_format="raw")
    assert gzip.decompress((tmp_path / "x.gz").read_bytes()) == disk


def test_seek_need_not_return_the_position(raw: Path, disk: bytes) -> None:
    class Silent(io.BytesIO):
        def seek(self, offset: int, whence: int = 0, /) -> Any:
            super().seek(offset, whence)

    out = Silent()
    diskimg.convert(Silent(raw.read_bytes()), out, src_format="raw", format="raw")
    assert out.getvalue() == disk


def test_a_reentrant_read_is_an_error_and_not_a_deadlock(raw: Path) -> None:
    images: list[diskimg.Image] = []

    class Reentrant(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if images:
                images[0].read_at(0, 1)
            return super().read(size)

    images.append(diskimg.open(Reentrant(raw.read_bytes()), "raw"))
    with pytest.raises(RuntimeError, match="reentrant"):
        images[0].read_at(0, 10)


class Odd(BaseException):
    """Does not derive from `Exception`, so that nothing catches it by accident."""


class Failing(io.BytesIO):
    """A file object whose ``nth`` read fails."""

    def __init__(self, data: bytes, nth: int) -> None:
        super().__init__(data)
        self.left = nth

    def read(self, size: int | None = -1, /) -> bytes:
        self.left -= 1
        if self.left == 0:
            raise Odd
        return super().read(size)


@pytest.mark.parametrize("layout", ["qcow2", "vmdk", "vmdk -o subformat=streamOptimized", "ova"])
def test_no_failed_read_of_a_file_object_is_ignored(
    layout: Any, make: Callable[..., Path], raw: Path, tmp_path: Path
) -> None:
    format, *more = layout.split()
    path = tmp_path / "x.ova"
    if format == "ova":
        diskimg.convert(raw, path, src_format="raw")
    else:
        path = make(format, *more)
    data = path.read_bytes()
    operations: list[Callable[[Any, diskimg.types.Format], object]] = [
        diskimg.info,
        diskimg.check,
        diskimg.map,
        lambda file, format: diskimg.convert(file, io.BytesIO(), src_format=format, salvage=True),
    ]
    for operation in operations:
        for nth in range(1, 40):
            source = Failing(data, nth)
            try:
                operation(source, format)
            except Odd:
                continue
            assert source.left > 0, (operation, nth)
            break


@pytest.mark.parametrize("error", [TimeoutError, ConnectionResetError])
def test_a_lost_connection_is_not_salvaged(error: type[OSError], disk: bytes) -> None:
    class Lost(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() >= len(disk) // 2:
                raise error("lost")
            return super().read(size)

    out = io.BytesIO()
    with pytest.raises(error, match="lost"):
        diskimg.convert(Lost(disk), out, src_format="raw", salvage=True)

    # A bad sector is.
    class Broken(Lost):
        def read(self, size: int | None = -1, /) -> bytes:
            try:
                return super().read(size)
            except OSError:
                raise OSError(errno.EIO, "bad sector") from None

    report = diskimg.convert(Broken(disk), io.BytesIO(), src_format="raw", salvage=True)
    assert report.salvaged


def test_names_can_be_str_bytes_or_paths(raw: Path, tmp_path: Path) -> None:
    for name in (str(raw), os.fsencode(raw), raw):
        with diskimg.open(name, "raw") as image:
            assert image.name == str(raw)
    odd = os.fsencode(tmp_path) + b"/odd-\xff.qcow2"
    diskimg.convert(raw, odd, src_format="raw")
    assert diskimg.info(odd).format == "qcow2"
    assert diskimg.compare(odd, raw)
    os.chdir(tmp_path)
    (tmp_path / "-").write_bytes(raw.read_bytes())
    assert diskimg.open("-", "raw").size == raw.stat().st_size
