"""An open image: clusters in the mapped file, extents, closing, threads."""

import ctypes
import gc
import itertools
import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import diskimg
import pytest
from tools import qemu_img


class Buffer(ctypes.Structure):
    """CPython's ``Py_buffer``, of which only the first field is used."""

    _fields_ = (("buf", ctypes.c_void_p), ("rest", ctypes.c_void_p * 16))


def address(view: memoryview) -> int:
    """Return the address of a buffer's bytes."""
    buffer = Buffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(view), ctypes.byref(buffer), 0)
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))
    return int(buffer.buf)


def mapping(path: Path) -> range:
    """Return the addresses at which a file is mapped into this process."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(f" {path}"):
            start, end = line.split()[0].split("-")
            found.append(range(int(start, 16), int(end, 16)))
    assert len(found) == 1, found
    return found[0]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("format", ["raw", "qcow2", "vmdk"])
def test_a_cluster_refers_to_the_mapped_file(
    format: diskimg.types.Format, make: Callable[..., Path], disk: bytes
) -> None:
    path = make(format)
    with diskimg.open(path, format, memory_map=True) as image:
        for extent in image.extents():
            first = -(-extent.start // image.cluster_size) * image.cluster_size
            if extent.offset is None or first + image.cluster_size > extent.end:
                continue
            view = image.cluster(first + 7)
            host = extent.offset + first - extent.start
            assert address(view) == mapping(path).start + host
            assert view.readonly and view.format == "B" and len(view) == image.cluster_size
            assert view == disk[first : first + len(view)].ljust(len(view), b"\0")
            with pytest.raises(TypeError):
                view[0] = 1
            break
        else:
            pytest.fail("nothing is stored verbatim")
    # The view keeps the file mapped.
    assert image.closed and view[:8] == disk[first : first + 8]
    assert mapping(path)
    del view
    gc.collect()
    with pytest.raises(AssertionError):
        mapping(path)


@pytest.mark.parametrize("memory_map", [True, False])
@pytest.mark.parametrize("layout", ["raw", "qcow2", "qcow2 -c", "vmdk"])
def test_every_cluster_has_the_bytes_of_the_disk(
    memory_map: bool, layout: Any, make: Callable[..., Path], disk: bytes
) -> None:
    format, *more = layout.split()
    with diskimg.open(make(format, *more), format, memory_map=memory_map) as image:
        padded = disk.ljust(image.size, b"\0")
        for start in range(0, image.size, image.cluster_size):
            view = image.cluster(min(start + 100, image.size - 1))
            assert view.readonly
            assert view == padded[start : start + image.cluster_size]


def test_extents_cover_the_disk_and_are_read_piece_by_piece(tmp_path: Path) -> None:
    # More extents than are requested at a time.
    path = tmp_path / "many.raw"
    with path.open("wb") as file:
        for n in range(9000):
            file.seek(n * 8192)
            file.write(b"x")
        file.truncate(9000 * 8192)
    out = tmp_path / "many.qcow2"
    diskimg.convert(path, out, src_format="raw", options={"cluster_size": 4096})
    with diskimg.open(out) as image:
        extents = list(image.extents())
        assert len(extents) == 18000
        assert extents[0].start == 0 and extents[-1].end == image.size
        assert all(a.end == b.start for a, b in itertools.pairwise(extents))
        assert extents == diskimg.map(out)
        assert list(image.extents(12288, 20480)) == extents[3:5]
        assert list(image.extents(image.size)) == []
        assert next(image.extents()) == extents[0]
    vast = tmp_path / "vast.qcow2"
    diskimg.create(vast, 1 << 45)
    with diskimg.open(vast) as image:
        assert [extent.length for extent in image.extents()] == [1 << 45]


def test_methods_of_a_closed_image_raise(make: Callable[..., Path]) -> None:
    image = diskimg.open(make("qcow2"))
    before = open_files()
    image.close()
    image.close()
    assert open_files() == before - 1
    for call in (
        lambda: image.size,
        lambda: image.format,
        lambda: image.name,
        lambda: image.read_at(0, 1),
        lambda: image.readinto_at(0, bytearray(1)),
        lambda: image.cluster(0),
        lambda: image.as_file(),
        lambda: image.info(),
        lambda: list(image.extents()),
        lambda: image.check(),
    ):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_dropping_an_image_closes_it(make: Callable[..., Path]) -> None:
    path = make("qcow2")
    before = open_files()
    for _ in range(100):
        diskimg.open(path).as_file().read(10)
    gc.collect()
    assert open_files() == before


def test_many_threads_share_an_image_and_a_file(make: Callable[..., Path], disk: bytes) -> None:
    with diskimg.open(make("qcow2", "-c")) as image:
        padded = disk.ljust(image.size, b"\0")

        def read(seed: int) -> None:
            rng = random.Random(seed)
            for _ in range(40):
                start = rng.randrange(len(padded))
                size = rng.randrange(min(200_000, len(padded) - start))
                assert image.read_at(start, size) == padded[start : start + size]
                assert image.cluster(start)[0] == padded[start // 65536 * 65536]

        with ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(read, n) for n in range(8)]:
                done.result()
        # They share one position, so together they read every byte once.
        file, pieces, lock = image.as_file(), [], threading.Lock()

        def drain() -> None:
            while piece := file.read(10_007):
                with lock:
                    pieces.append(piece)

        with ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(drain) for n in range(8)]:
                done.result()
        assert sum(map(len, pieces)) == image.size
        assert sorted(b"".join(pieces)) == sorted(padded)


def test_closing_while_other_threads_read_is_safe(make: Callable[..., Path]) -> None:
    path = make("qcow2", "-c")
    for _ in range(20):
        image = diskimg.open(path)
        started = threading.Barrier(3)

        def read(image: diskimg.Image = image, started: threading.Barrier = started) -> str:
            started.wait()
            try:
                while True:
                    image.read_at(0, image.size)
            except ValueError as error:
                return str(error)

        with ThreadPoolExecutor(2) as pool:
            readers = [pool.submit(read) for _ in range(2)]
            started.wait()
            image.close()
            assert all("closed" in reader.result() for reader in readers)


def test_a_file_object_under_an_image_is_read_by_one_thread_at_a_time(
    make: Callable[..., Path], disk: bytes
) -> None:
    import io

    data = io.BytesIO(make("qcow2", "-c").read_bytes())
    with diskimg.open(data) as image, ThreadPoolExecutor(8) as pool:
        size = image.size
        for whole in pool.map(lambda _: image.read_at(0, size), range(16)):
            assert whole == disk.ljust(size, b"\0")


def test_results_have_a_repr_and_can_be_compared(make: Callable[..., Path]) -> None:
    path = make("qcow2")
    info = diskimg.info(path)
    assert info == diskimg.info(path)
    assert repr(info).startswith("Info(filename=") and "virtual_size=" in repr(info)
    assert hash(info) == hash(diskimg.info(path))
    with pytest.raises(AttributeError):
        info.virtual_size = 5  # type: ignore[misc]
    with diskimg.open(path) as image:
        assert repr(image) == (
            f"<diskimg.Image name={str(path)!r} format='qcow2' size={image.size}>"
        )
        assert repr(image.as_file()).startswith("<diskimg.ImageFile name=")


def test_an_image_is_described_by_options(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(512) + b"x" * 1024)
    file = {"driver": "file", "filename": str(path)}
    with diskimg.open({"driver": "raw", "offset": 512, "size": 1024, "file": file}) as image:
        assert (image.size, image.format) == (1024, "raw")
        assert image.read_at(0, 1024) == b"x" * 1024
    overlay = tmp_path / "overlay.qcow2"
    diskimg.create(overlay, backing=path, backing_format="raw", external_files="any")
    options = {"driver": "qcow2", "file": {"filename": str(overlay)}, "backing": None}
    with diskimg.open(options) as image:
        assert image.read_at(512, 1024) == bytes(1024)
    with pytest.raises(diskimg.InvalidError, match="does not support the option 'nosuch'"):
        diskimg.open({"driver": "raw", "nosuch": 1, "file": file})
    # A string is always a file name.
    with pytest.raises(diskimg.Error):
        diskimg.open('json:{"driver": "raw", "file": {"filename": "x"}}')


def test_secrets_map_strings_to_bytes_and_appear_in_no_message(raw: Path) -> None:
    secrets = {"sec0": b"hunter2"}
    with diskimg.open(raw, "raw", secrets=secrets) as image:
        assert image.format == "raw"
    assert diskimg.info(raw, "raw", secrets=secrets).format == "raw"
    wrong: Any
    for wrong in ({"sec0": "hunter2"}, {1: b"hunter2"}):
        with pytest.raises(TypeError, match="strings to bytes") as raised:
            diskimg.open(raw, "raw", secrets=wrong)
        assert "hunter" not in str(raised.value)


def test_a_key_secret_refers_to_one_of_the_secrets(tmp_path: Path) -> None:
    path = tmp_path / "encrypted.qcow2"
    secret = ("--object", "secret,id=s,data=x")
    options = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"
    qemu_img("create", "-q", *secret, "-f", "qcow2", "-o", options, path, "1M")
    node = {"file": {"filename": str(path)}, "encrypt": {"key-secret": "sec0"}}
    with pytest.raises(diskimg.InvalidError, match="No secret with id 'sec0'"):
        diskimg.open(node)
    # Decryption is not supported yet.
    with (
        diskimg.open(node, secrets={"sec0": b"x"}) as image,
        pytest.raises(diskimg.UnsupportedError, match="decryption is not supported"),
    ):
        image.read_at(0, 512)
    assert diskimg.info(node, secrets={"sec0": b"x"}).encrypted
