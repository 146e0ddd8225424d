"""Malformed and hostile ISO images."""

import io
import os
import struct
from pathlib import Path

import diskimg
import pytest
from diskimg import iso
from hypothesis import given, settings
from hypothesis import strategies as st

SEED = iso.nocloud("user", "meta")


def both(number: int) -> bytes:
    """Return a number in both byte orders."""
    return struct.pack("<I", number) + struct.pack(">I", number)


def record(name: bytes, sector: int, size: int, directory: bool = False, use: bytes = b"") -> bytes:
    """Return a directory record (ECMA-119, 9.1)."""
    padding = bytes(1 - len(name) % 2)
    length = 33 + len(name) + len(padding) + len(use)
    head = bytes([length, 0]) + both(sector) + both(size) + bytes(7)
    head += bytes([2 if directory else 0, 0, 0, 1, 0, 0, 1, len(name)])
    return head + name + padding + use


def named(name: bytes) -> bytes:
    """Return Rock Ridge fields: permissions and a name (RRIP, 4.1.1 and 4.1.4)."""
    px = b"PX\x24\1" + both(0o100644) + both(1) + both(0) + both(0)
    return px + b"NM" + bytes([5 + len(name), 1, 0]) + name + bytes(len(name) % 2 == 0)


def image_of(*records: bytes) -> bytes:
    """Return an image whose root directory, at sector 18, contains these records."""
    sp = b"SP\7\1\xbe\xef\0"
    rr = b"RR\5\1\x81" if any(b"NM" in record for record in records) else b""
    dot = record(b"\0", 18, 2048, True, sp + rr + b"\0" * (len(sp + rr) % 2))
    root = dot + record(b"\1", 18, 2048, True) + b"".join(records)
    primary = bytearray(2048)
    primary[:7] = b"\1CD001\1"
    primary[80:88] = both(20)
    primary[120:132] = struct.pack("<H", 1) + struct.pack(">H", 1) + bytes(4) + b"\0\x08\x08\0"
    primary[156:190] = record(b"\0", 18, 2048, True)
    terminator = b"\xffCD001\1".ljust(2048, b"\0")
    return (
        bytes(16 * 2048)
        + bytes(primary)
        + terminator
        + root.ljust(2048, b"\0")
        + b"contents".ljust(2048, b"\0")
    )


def test_anything_but_an_iso_image_is_corrupt() -> None:
    for data in (b"", b"x", bytes(100_000), bytes(32769) + b"CD001" + bytes(4000)):
        with pytest.raises(diskimg.CorruptError):
            iso.open(data)


@pytest.mark.parametrize("name", [b"../../escaped", b"/etc/escaped", b"..", b"a\0b"])
def test_no_name_leads_out_of_the_target_directory(name: bytes, tmp_path: Path) -> None:
    data = image_of(
        record(b"EVIL", 19, 8, use=named(name)), record(b"GOOD", 19, 8, use=named(b"good"))
    )
    dest = tmp_path / "a" / "b"
    dest.mkdir(parents=True)
    with iso.open(data) as image:
        assert image.namespace == "rock-ridge"
        result = image.extract(dest)
        errors: list[diskimg.Error] = []
        walked = [entry.path for entry in image.walk(onerror=errors.append)]
    assert not result and result.failed == 1 and result.files == 1
    assert isinstance(result.failures[0].error, (diskimg.CorruptError, diskimg.RefusedError))
    assert (dest / "good").read_bytes() == b"contents"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["good"]
    assert walked == ["good"] and isinstance(errors[0], diskimg.CorruptError)
    with iso.open(data) as image, pytest.raises(diskimg.CorruptError):
        list(image.walk())


@pytest.mark.skipif(os.name == "nt", reason="a backslash is a separator")
def test_a_backslash_is_part_of_a_name(tmp_path: Path) -> None:
    name = b"up\\..\\down"
    with iso.open(image_of(record(b"ODD", 19, 8, use=named(name)))) as image:
        assert image.extract(tmp_path / "dest").files == 1
    assert os.listdir(os.fsencode(tmp_path / "dest")) == [name]
    assert os.listdir(tmp_path) == ["dest"]


def test_an_existing_link_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a").write_bytes(b"precious")
    dest = tmp_path / "dest"
    dest.mkdir()
    (dest / "dir").symlink_to(outside)
    (dest / "file").symlink_to(outside / "a")
    out = io.BytesIO()
    iso.create(out, {"dir/a": b"bad", "file": b"bad"})
    with iso.open(out) as image:
        for overwrite in (False, True):
            image.extract(dest, overwrite=overwrite)
            assert (outside / "a").read_bytes() == b"precious"


def test_a_directory_that_contains_itself_is_walked_once() -> None:
    data = image_of(record(b"LOOP", 18, 2048, True), record(b"FILE", 19, 8))
    with iso.open(data) as image:
        errors: list[diskimg.Error] = []
        paths = [entry.path for entry in image.walk(onerror=errors.append)]
        assert paths[:1] == ["LOOP"] and "FILE" in paths and len(paths) == 2
        assert len(errors) == 1 and isinstance(errors[0], diskimg.CorruptError)
        assert "directory-loop" in [f.code for f in image.verify()] or image.verify()
        assert all(finding.to_dict()["severity"] for finding in image.verify())


def test_a_file_beyond_the_end_of_the_image_is_an_error(tmp_path: Path) -> None:
    data = image_of(record(b"BIG", 19, 0xFFFF_FFFF), record(b"AWAY", 0x7FFF_FFFF, 8))
    with iso.open(data) as image:
        with pytest.raises(diskimg.LimitError):
            image.read("BIG")
        with pytest.raises(diskimg.Error):
            image.read("AWAY")
        with pytest.raises(diskimg.Error):
            image.open("BIG").readinto(bytearray(1 << 20))
        assert image.open("BIG").read(8) == b"contents"
        result = image.extract(tmp_path / "out")
        assert result.failed == 2 and not list((tmp_path / "out").iterdir())
        assert {finding.severity for finding in image.verify()} >= {"error"}


@settings(max_examples=150, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.integers(32 << 10, len(SEED) - 1), st.integers(0, 255)), max_size=12
    ),
    cut=st.integers(32 << 10, len(SEED)),
)
def test_any_bytes_raise_only_diskimg_errors(changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(SEED)
    for at, byte in changes:
        data[at] = byte
    try:
        with iso.open(bytes(data[:cut])) as image:
            image.info().to_dict()
            image.verify()
            for entry in image.walk(onerror=lambda error: None):
                entry.to_dict()
                if entry.is_file():
                    image.read(entry.path)
            iso.remaster(image, {"new": b"file"})
    except diskimg.Error:
        pass
