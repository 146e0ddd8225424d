"""The file object returned by `Image.as_file` behaves like `io.BytesIO`."""

import io
import lzma
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import diskimg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tools import disk_bytes, qemu_img

SIZE = 300_032
offsets = st.integers(-400_000, 400_000) | st.sampled_from([0, 1, 65535, 65536, SIZE - 1, SIZE])
sizes = st.none() | st.integers(-3, 400_000)

steps = st.one_of(
    st.tuples(st.just("seek"), offsets, st.integers(-1, 3)),
    st.tuples(st.just("read"), sizes),
    st.tuples(st.just("readinto"), st.integers(0, 200_000)),
    st.tuples(st.just("readall")),
    st.tuples(st.just("tell")),
    st.tuples(st.just("readline")),
    st.tuples(st.just("seekable")),
    st.tuples(st.just("readable")),
    st.tuples(st.just("close")),
)


class Pair(NamedTuple):
    """An image and its guest data."""

    image: diskimg.Image
    disk: bytes

    def __repr__(self) -> str:
        return "Pair(…)"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """An image with compressed and zero clusters."""
    folder = tmp_path_factory.mktemp("pair")
    disk = disk_bytes(SIZE)
    (folder / "a.raw").write_bytes(disk)
    args = ("-f", "raw", "-O", "qcow2", "-c", "-o", "cluster_size=4k")
    qemu_img("convert", *args, folder / "a.raw", folder / "a.qcow2")
    return Pair(diskimg.open(folder / "a.qcow2"), disk)


def outcome(file: Any, step: tuple[Any, ...]) -> object:
    """Return the result of a step, or the class of the exception that it raises."""
    name, *arguments = step
    try:
        if name == "readinto":
            buffer = bytearray(arguments[0])
            return file.readinto(buffer), bytes(buffer)
        if name == "readall":  # BytesIO does not have it
            return file.read()
        return getattr(file, name)(*arguments)
    except Exception as error:
        return type(error)


@settings(max_examples=300, deadline=None)
@given(steps=st.lists(steps, max_size=12))
def test_every_sequence_of_calls_does_what_bytesio_does(
    pair: Pair, steps: list[tuple[Any, ...]]
) -> None:
    image, disk = pair
    ours, theirs = image.as_file(), io.BytesIO(disk)
    for step in steps:
        assert outcome(ours, step) == outcome(theirs, step), step
        assert ours.closed == theirs.closed
        if not ours.closed:
            assert ours.tell() == theirs.tell()


@settings(max_examples=100, deadline=None)
@given(steps=st.lists(steps, max_size=8), size=st.integers(1, 100_000))
def test_a_buffered_reader_over_it_does_what_one_over_bytesio_does(
    pair: Pair, steps: list[tuple[Any, ...]], size: int
) -> None:
    image, disk = pair
    ours = io.BufferedReader(image.as_file(), size)
    theirs = io.BufferedReader(io.BytesIO(disk), size)
    for step in steps:
        assert outcome(ours, step) == outcome(theirs, step), step


def test_it_is_read_only(pair: Pair) -> None:
    file = pair[0].as_file()
    assert (file.readable(), file.seekable(), file.writable()) == (True, True, False)
    assert file.mode == "rb" and file.name == pair[0].name
    calls: list[Callable[[], object]] = [
        lambda: file.write(b"x"),
        lambda: file.truncate(0),
        file.fileno,
    ]
    for call in calls:
        with pytest.raises(io.UnsupportedOperation):
            call()
    with pytest.raises(TypeError):
        file.readinto(b"read-only")
    with pytest.raises(TypeError):
        file.readinto(5)
    with pytest.raises(TypeError):
        file.seek(1.5)  # type: ignore[arg-type]


def test_images_and_their_files_cannot_be_pickled(pair: Pair) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for thing in (pair[0], pair[0].as_file()):
            with pytest.raises(TypeError):
                pickle.dumps(thing, protocol)


def test_closing_the_file_leaves_the_image_open(make: Callable[..., Path]) -> None:
    with diskimg.open(make("qcow2")) as image:
        with image.as_file() as file:
            file.read(10)
        assert file.closed and not image.closed
        for call in (file.read, file.tell, file.readable, lambda: file.seek(0)):
            with pytest.raises(ValueError):
                call()
        late = image.as_file()
    with pytest.raises(ValueError):
        late.read(1)
    assert image.closed and "closed" in repr(image)


def test_other_libraries_can_read_it(make: Callable[..., Path], disk: bytes) -> None:
    with diskimg.open(make("vmdk", "-o", "subformat=streamOptimized")) as image:
        out = io.BytesIO()
        shutil.copyfileobj(image.as_file(), out, 100_000)
        assert out.getvalue() == disk + bytes(-len(disk) % 512)
        lines = io.BufferedReader(image.as_file()).readlines()
        assert b"".join(lines) == out.getvalue()


def test_a_tar_archive_on_a_disk_is_read_without_conversion(tmp_path: Path) -> None:
    archive, image = tmp_path / "a.tar", tmp_path / "a.qcow2"
    with tarfile.open(archive, "w") as tar:
        tar.add(__file__, "test.py")
    diskimg.convert(archive, image, src_format="raw", compress=True)
    with diskimg.open(image) as opened, tarfile.open(fileobj=opened.as_file()) as tar:
        member = tar.extractfile("test.py")
        assert member is not None and member.read() == Path(__file__).read_bytes()


def test_compressed_data_on_a_disk_are_decompressed(make: Callable[..., Path], disk: bytes) -> None:
    packed = lzma.compress(disk[:100_000])
    raw = io.BytesIO(packed + bytes(-len(packed) % 512))
    with diskimg.open(raw, "raw") as image:
        file = io.BufferedReader(image.as_file())
        assert lzma.LZMADecompressor().decompress(file.read()) == disk[:100_000]
