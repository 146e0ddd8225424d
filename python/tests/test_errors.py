"""Exceptions and their messages."""

import copy
import errno
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diskimg
import diskimg.iso
import pytest
from hypothesis import given
from hypothesis import strategies as st


def _any(word: str) -> Any:
    """Return a word that the type of an argument does not allow."""
    return word


def test_all_exceptions_derive_from_error() -> None:
    for name in ("Corrupt", "Unsupported", "Refused", "Limit", "Locked", "Invalid", "Io"):
        assert issubclass(getattr(diskimg, f"{name}Error"), diskimg.Error)
    assert issubclass(diskimg.IoError, OSError)
    assert issubclass(diskimg.InvalidError, ValueError)
    assert not issubclass(diskimg.CorruptError, (OSError, ValueError))


def test_a_missing_file_is_a_file_not_found_error(tmp_path: Path) -> None:
    missing = tmp_path / "missing.qcow2"
    for call in (diskimg.open, diskimg.info, diskimg.map, diskimg.check, diskimg.detect):
        with pytest.raises(FileNotFoundError) as caught:
            call(missing)
        error = caught.value
        assert isinstance(error, diskimg.IoError)
        assert (error.errno, error.filename, error.path) == (
            errno.ENOENT,
            str(missing),
            str(missing),
        )
        assert str(error) == f"{missing}: cannot open it: No such file or directory"
    with pytest.raises(FileNotFoundError) as caught:
        diskimg.convert(missing, tmp_path / "out")
    assert caught.value.filename == str(missing)


def test_system_errors_have_the_class_of_their_errno(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        diskimg.convert(raw, tmp_path, src_format="raw")
    with pytest.raises(NotADirectoryError):
        diskimg.open(raw / "x")
    with pytest.raises(OSError) as caught:
        diskimg.open(tmp_path)
    assert caught.value.errno == errno.EINVAL or isinstance(caught.value, IsADirectoryError)


def test_the_error_for_a_damaged_image_names_file_and_structure(make: Callable[..., Path]) -> None:
    path = make("qcow2")
    with path.open("r+b") as file:
        file.seek(40)  # l1_table_offset
        file.write((1 << 40).to_bytes(8, "big"))
    with pytest.raises(diskimg.CorruptError) as caught:
        diskimg.open(path)
    error = caught.value
    assert error.path == str(path) and error.structure is not None
    assert str(path) in str(error) and error.structure in str(error)
    with pytest.raises(diskimg.CorruptError):
        diskimg.convert(path, path.with_name("out.raw"))
    assert not path.with_name("out.raw").exists()


def test_a_backing_file_outside_the_directory_is_refused(images: Path, tmp_path: Path) -> None:
    subdirectory = tmp_path / "below"
    subdirectory.mkdir()
    overlay = subdirectory / "overlay.qcow2"
    diskimg.create(
        overlay, backing=images / "base-v2.qcow2", backing_format="qcow2", external_files="any"
    )
    for external_files in ("none", "same-dir"):
        with pytest.raises(diskimg.RefusedError) as caught:
            diskimg.open(overlay, external_files=external_files)
        assert "base-v2.qcow2" in str(caught.value)
        allowed = "same-dir" if external_files == "none" else "any"
        assert f'external_files="{allowed}"' in str(caught.value)
    assert diskimg.open(overlay, external_files="any").layers == 2
    assert diskimg.info(overlay, external_files="none").backing_filename is not None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lz4", bytes([0x04, 0x22, 0x4D, 0x18]) + bytes(4088)),
        ("WIM", b"MSWIM\0\0\0" + bytes(4088)),
        ("UTF-16", "# Disk DescriptorFile\nversion=1\n".encode("utf-16")),
    ],
)
def test_a_recognized_format_is_an_error_unless_raw_is_named(
    tmp_path: Path, name: str, content: bytes
) -> None:
    source, output = tmp_path / "disk", tmp_path / "out"
    source.write_bytes(content)
    for call in (
        lambda: diskimg.detect(source),
        lambda: diskimg.open(source),
        lambda: diskimg.info(source),
        lambda: diskimg.convert(source, output, format="raw"),
    ):
        with pytest.raises(diskimg.UnsupportedError, match=name) as caught:
            call()
        assert '"raw"' in str(caught.value)
    assert not output.exists()
    diskimg.convert(source, output, src_format="raw", format="raw")
    assert output.read_bytes() == content


def test_the_error_for_an_exceeded_limit_names_it(images: Path, tmp_path: Path) -> None:
    image = images / "base-v2.qcow2"
    tight = {"table_bytes": 7}
    calls: list[Callable[[], object]] = [
        lambda: diskimg.open(image, limits=tight),
        lambda: diskimg.info(image, limits=tight),
        lambda: diskimg.info(image, limits=tight, chain=True),
        lambda: diskimg.map(image, limits=tight),
        lambda: diskimg.check(image, limits=tight),
        lambda: diskimg.compare(image, image, limits=tight),
        lambda: diskimg.measure(image, limits=tight),
        lambda: diskimg.convert(image, tmp_path / "out.raw", limits=tight),
        lambda: diskimg.create(
            tmp_path / "over.qcow2", backing=image, backing_format="qcow2", limits=tight
        ),
        lambda: diskimg.iso.open(image, limits=tight),
    ]
    for call in calls:
        with pytest.raises(diskimg.LimitError, match="the limit table_bytes is 7") as caught:
            call()
        assert caught.value.limit == "table_bytes"
        assert 'limits={"table_bytes": N}' in str(caught.value)
    with diskimg.open(image, limits=diskimg.LIMITS) as opened:
        assert opened.layers == 1
    with pytest.raises(diskimg.InvalidError, match=r"unknown limit 'tables'.*table_bytes"):
        diskimg.open(image, limits={"tables": 1})
    with pytest.raises(ValueError, match="must be between"):
        diskimg.open(image, limits={"table_bytes": -1})


def test_overwriting_the_source_is_refused(raw: Path, disk: bytes) -> None:
    with pytest.raises(diskimg.RefusedError):
        diskimg.convert(raw, raw, format="qcow2", src_format="raw")
    assert raw.read_bytes() == disk


def test_invalid_arguments_are_value_or_type_errors(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.qcow2"
    image = diskimg.open(raw, "raw")
    values: list[Callable[[], Any]] = [
        lambda: diskimg.open(raw, _any("qcow5")),
        lambda: diskimg.open(raw, external_files="all"),  # type: ignore[arg-type]
        lambda: diskimg.open(raw, "raw", snapshot="x"),
        lambda: diskimg.open(raw, "raw", direct=True, memory_map=True),
        lambda: diskimg.convert(raw, out, format=_any("nope")),
        lambda: diskimg.convert(raw, out, options={"nope": 1}),
        lambda: diskimg.convert(raw, out, options={"cluster_size": 3}),
        lambda: diskimg.convert(raw, out, sparse=100),
        lambda: diskimg.convert(raw, out, threads=0),
        lambda: diskimg.convert(raw, out, threads=-1),
        lambda: diskimg.convert(raw, out, rate_limit=-1),
        lambda: diskimg.convert(raw, out, reflink="perhaps"),  # type: ignore[arg-type]
        lambda: diskimg.convert([], out),
        lambda: diskimg.convert(raw, open(out, "wb"), in_place=True),  # noqa: SIM115
        lambda: diskimg.create(tmp_path / "new.qcow2"),
        lambda: diskimg.create(tmp_path / "new.qcow2", "10 miles"),
        lambda: diskimg.create(tmp_path / "new.qcow2", -1),
        lambda: diskimg.create_options(_any("nope")),
        lambda: diskimg.measure(size=1 << 70),
        lambda: image.read_at(image.size - 1, 2),
        lambda: image.read_at(-1, 1),
        lambda: image.read_at(0, -1),
        lambda: image.read_at(1 << 80, 1),
        lambda: image.readinto_at(image.size, bytearray(1)),
        lambda: image.info(-1),
        lambda: image.extents(-1),
    ]
    for number, call in enumerate(values):
        with pytest.raises(ValueError):
            print(number, call())
    types: list[Callable[[], Any]] = [
        lambda: image.read_at("0", 1),  # type: ignore[arg-type]
        lambda: image.read_at(0.5, 1),  # type: ignore[arg-type]
        lambda: image.readinto_at(0, b"read-only"),
        lambda: image.readinto_at(0, "text"),
        lambda: image.cluster(None),  # type: ignore[arg-type]
        lambda: diskimg.convert(raw, out, progress=5),  # type: ignore[arg-type]
        lambda: diskimg.convert(raw, out, nonsense=True),  # type: ignore[call-arg]
        lambda: diskimg.convert(raw, out, threads="two"),  # type: ignore[arg-type]
        lambda: diskimg.convert(raw, out, options=5),  # type: ignore[arg-type]
        lambda: diskimg.create(5, 5),  # type: ignore[arg-type]
        lambda: diskimg.open(raw, 5),  # type: ignore[arg-type]
    ]
    for number, call in enumerate(types):
        with pytest.raises((TypeError, AttributeError)):
            print(number, call())
    with pytest.raises(IndexError):
        image.cluster(image.size)
    assert not out.exists() or out.stat().st_size == 0


def test_errors_survive_pickling(tmp_path: Path) -> None:
    for cause in (tmp_path / "missing", Path(__file__)):
        with pytest.raises(diskimg.Error) as caught:
            diskimg.open(cause, "qcow2")
        for clone in (pickle.loads(pickle.dumps(caught.value)), copy.copy(caught.value)):
            assert type(clone) is type(caught.value)
            assert (str(clone), clone.path) == (str(caught.value), caught.value.path)


@given(st.binary(max_size=5000), st.sampled_from([b"", b"QFI\xfb", b"KDMV", b"COWD", b"# Disk D"]))
def test_detect_returns_a_format_or_raises_unsupported_error(data: bytes, start: bytes) -> None:
    try:
        assert diskimg.detect(start + data).format in diskimg.FORMATS
    except diskimg.UnsupportedError as error:
        assert "not supported" in str(error)


@given(st.binary(max_size=3000), st.sampled_from([b"QFI\xfb\0\0\0\3", b"KDMV\1\0\0\0", b""]))
def test_any_bytes_raise_only_diskimg_errors(data: bytes, start: bytes) -> None:
    import io

    for format in (None, *diskimg.FORMATS):
        try:
            with diskimg.open(io.BytesIO(start + data), format) as image:
                image.info()
                image.as_file().read(100_000)
        except diskimg.Error:
            pass
