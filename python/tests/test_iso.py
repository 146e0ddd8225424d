"""Reading ISO images created by other tools."""

import io
import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import diskimg
import pycdlib
import pytest
from diskimg import iso

MTIME = 1_700_000_000


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with files of many kinds."""
    root = tmp_path_factory.mktemp("tree")
    (root / "dir" / "deeper").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "hello.txt").write_text("hello\n")
    (root / "dir" / "Long name, with blanks.data").write_bytes(bytes(range(256)) * 400)
    (root / "dir" / "deeper" / "nothing").write_bytes(b"")
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "link").symlink_to("dir/deeper")
    (root / "umlaut-ä.txt").write_text("ä")
    for path in [*root.rglob("*"), root]:
        os.utime(path, (MTIME, MTIME), follow_symlinks=False)
    return root


@pytest.fixture(scope="session")
def made(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of it with Rock Ridge and Joliet, created by xorriso."""
    path = tmp_path_factory.mktemp("iso") / "made.iso"
    subprocess.run(
        ["xorriso", "-as", "mkisofs", "-quiet", "-R", "-J", "-V", "A Label", "-o", path, tree],
        check=True,
        capture_output=True,
    )
    return path


def contents(root: Path) -> dict[str, bytes | str | None]:
    """Return contents by path: bytes, the target of a link, or `None` for a directory."""
    return {
        str(path.relative_to(root)): os.readlink(path)
        if path.is_symlink()
        else None
        if path.is_dir()
        else path.read_bytes()
        for path in root.rglob("*")
    }


def read(image: iso.Iso) -> dict[str, bytes | str | None]:
    """Return the same for an image."""
    return {
        entry.path: image.read(entry.path) if entry.is_file() else entry.link_target
        for entry in image.walk()
    }


def test_the_whole_tree_is_read(made: Path, tree: Path) -> None:
    with iso.open(made) as image:
        assert read(image) == contents(tree)
        assert image.namespace == "rock-ridge" and image.label == "A Label"
        assert set(image.namespaces) == {"rock-ridge", "joliet", "iso"}
        script = image.stat("run.sh")
        assert script == image.stat(b"/run.sh") == image.stat("//run.sh/")
        assert (script.name, script.kind, script.size, script.mode) == ("run.sh", "file", 10, 0o755)
        assert script.mtime == datetime.fromtimestamp(MTIME, UTC)
        assert script.mtime_ns == MTIME * 10**9
        assert (script.uid, script.gid) == (tree.stat().st_uid, tree.stat().st_gid)
        assert image.stat().is_dir() and image.stat("/").path == ""
        assert image.exists("dir/deeper") and not image.exists("dir/deepest")
        names = {path.name for path in (tree / "dir").iterdir()}
        assert {entry.name for entry in image.list("/dir")} == names
        assert {entry.path for entry in image.walk("dir")} == {
            path for path in contents(tree) if path.startswith("dir/")
        }
        assert [f for f in image.verify() if f.severity != "note"] == []
        assert image.boot.entries == () and not image.boot


def test_other_namespaces_are_shown_on_request(made: Path) -> None:
    with iso.open(made, namespace="joliet") as image:
        assert image.namespace == "joliet"
        assert image.read("dir/Long name, with blanks.data")[:3] == b"\0\1\2"
        assert image.stat("hello.txt").mode is None
        assert image.exists("umlaut-ä.txt")
    with iso.open(made, namespace="iso") as image:
        assert image.read("HELLO.TXT") == image.read("hello.txt;1") == b"hello\n"
    with pytest.raises(diskimg.InvalidError, match="UDF"):
        iso.open(made, namespace="udf")


def test_a_name_that_is_not_utf8_is_read_and_extracted(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    odd = b"caf\xe9"
    (root / os.fsdecode(odd)).write_bytes(b"coffee")
    out = tmp_path / "odd.iso"
    subprocess.run(
        ["xorriso", "-as", "mkisofs", "-quiet", "-R", "-o", out, root],
        check=True,
        capture_output=True,
    )
    with iso.open(out) as image:
        (entry,) = image.walk()
        assert entry.path_bytes == odd and entry.path == os.fsdecode(odd)
        assert image.read(entry.path) == image.read(odd) == b"coffee"
        image.extract(tmp_path / "out")
        json.dumps(entry.to_dict())
    assert os.listdir(os.fsencode(tmp_path / "out")) == [odd]


def test_bytes_file_objects_and_other_formats_are_sources(made: Path, tmp_path: Path) -> None:
    data = made.read_bytes()
    diskimg.convert(made, tmp_path / "in.qcow2", compress=True)
    diskimg.convert(made, tmp_path / "in.vmdk")
    sources: list[Any] = [
        made,
        str(made),
        data,
        bytearray(data),
        memoryview(data),
        io.BytesIO(data),
        made.open("rb"),
        tmp_path / "in.qcow2",
        (tmp_path / "in.vmdk").read_bytes(),
    ]
    for source in sources:
        with iso.open(source) as image:
            assert image.read("hello.txt") == b"hello\n", image.name
    with iso.open(made, format="raw") as image:
        assert image.name == str(made)
    with pytest.raises(diskimg.CorruptError):
        iso.open(tmp_path / "in.qcow2", format="raw")


def test_info_describes_the_image(made: Path) -> None:
    with iso.open(made) as image:
        info = image.info()
        assert info is image.info()
    assert info.image_bytes == made.stat().st_size
    assert [volume.kind for volume in info.volumes] == ["primary", "joliet"]
    primary = info.volumes[0]
    assert primary.volume_id == "A Label" and isinstance(primary.created, datetime)
    assert primary.sectors * 2048 == info.volume_bytes
    facts = info.to_dict()
    assert facts["label"] == "A Label" and json.loads(json.dumps(facts)) == facts
    facts["label"] = "another"
    assert info.to_dict()["label"] == "A Label"


def test_pycdlib_reads_the_same_files(made: Path) -> None:
    theirs = pycdlib.PyCdlib()
    theirs.open(str(made))
    found = {}
    for top, _, files in theirs.walk(rr_path="/"):
        for name in files:
            path = f"{top.rstrip('/')}/{name}"
            record: Any = theirs.get_record(rr_path=path)
            if not record.rock_ridge.is_symlink():
                out = io.BytesIO()
                theirs.get_file_from_iso_fp(out, rr_path=path)
                found[path.lstrip("/")] = out.getvalue()
    theirs.close()
    with iso.open(made) as image:
        assert found == {
            entry.path: image.read(entry.path) for entry in image.walk() if entry.is_file()
        }


def test_an_open_file_behaves_like_a_file_object(made: Path, tree: Path) -> None:
    expected = (tree / "dir" / "Long name, with blanks.data").read_bytes()
    with iso.open(made) as image:
        with image.open("dir/Long name, with blanks.data") as file:
            assert isinstance(file, io.RawIOBase)
            assert (file.readable(), file.seekable(), file.writable()) == (True, True, False)
            assert file.name == "dir/Long name, with blanks.data" and file.mode == "rb"
            assert repr(file).startswith("<diskimg.iso.File name='dir/Long")
            assert file.seek(-5, io.SEEK_END) == len(expected) - 5
            assert file.read() == expected[-5:] and file.read(1) == b""
            file.seek(1000)
            buffer = bytearray(300_000)
            assert file.readinto(buffer) == len(expected) - 1000
            assert buffer.startswith(expected[1000:])
        out = io.BytesIO()
        shutil.copyfileobj(
            io.BufferedReader(image.open("dir/Long name, with blanks.data"), 777), out, 99
        )
        assert out.getvalue() == expected
        (extent,) = image.extents("hello.txt")
        assert extent.offset is not None and extent.length == 6
        assert made.read_bytes()[extent.offset :][:6] == b"hello\n"
        late = image.open("hello.txt")
        with pytest.raises(TypeError):
            pickle.dumps(late)
    for call in (late.read, image.walk, image.info, lambda: image.read("hello.txt")):
        with pytest.raises(ValueError, match="closed"):
            call()
    assert image.closed and repr(image) == "<closed diskimg.iso.Iso>"
    with pytest.raises(TypeError):
        pickle.dumps(image)


def test_errors_have_the_classes_of_file_errors(made: Path, tmp_path: Path) -> None:
    image = iso.open(made)
    missing: list[Callable[[str], object]] = [
        image.stat,
        image.list,
        image.walk,
        image.open,
        image.read,
        image.extents,
        lambda path: image.extract(tmp_path / "out", path),
    ]
    for call in missing:
        for path in ("nope", "hello.txt/nope", "dir/../hello.txt"):
            with pytest.raises(FileNotFoundError) as caught:
                call(path)
            assert isinstance(caught.value, diskimg.IoError) and caught.value.filename == path
            assert str(made) in str(caught.value)
    assert not (tmp_path / "out").exists()
    for listing in (image.list, image.walk):
        with pytest.raises(NotADirectoryError):
            listing("hello.txt")
    with pytest.raises(IsADirectoryError):
        image.open("dir")
    with pytest.raises(diskimg.InvalidError):
        image.read("link")
    with pytest.raises(diskimg.LimitError, match="102400 bytes"):
        image.read("dir/Long name, with blanks.data", limit=1000)
    assert len(image.read("dir/Long name, with blanks.data", limit=None)) == 102_400
    with pytest.raises(FileNotFoundError):
        iso.open(tmp_path / "missing.iso")
    values: list[Callable[[], object]] = [
        lambda: iso.open(made, namespace="hfs"),  # type: ignore[arg-type]
        lambda: iso.open(made, session="second"),  # type: ignore[arg-type]
        lambda: image.read("hello.txt", limit=-1),
        lambda: image.extract(tmp_path / "out", limit=-1),
    ]
    for value in values:
        with pytest.raises(ValueError):
            value()
    types: list[Callable[[], object]] = [
        lambda: iso.open(5),  # type: ignore[arg-type]
        lambda: image.stat(5),  # type: ignore[arg-type]
        lambda: image.extract(5),  # type: ignore[arg-type]
        lambda: image.extract(tmp_path / "out", progress=5),  # type: ignore[arg-type]
        lambda: iso.open(made, session=None),  # type: ignore[arg-type]
    ]
    for wrong in types:
        with pytest.raises(TypeError):
            wrong()


def test_extraction_restores_the_tree(made: Path, tree: Path, tmp_path: Path) -> None:
    reported: list[tuple[int, int]] = []
    with iso.open(made) as image:
        result = image.extract(tmp_path / "all", progress=lambda *call: reported.append(call))
        assert result and result.failures == ()
        assert contents(tmp_path / "all") == contents(tree)
        assert (result.files, result.directories) == (6, 3)
        total = sum(
            path.stat().st_size
            for path in tree.rglob("*")
            if path.is_file() and not path.is_symlink()
        )
        assert reported[-1] == (total, total) and reported == sorted(reported)
        assert result.bytes == total
        assert (tmp_path / "all" / "run.sh").stat().st_mode & 0o777 == 0o755
        assert (tmp_path / "all" / "hello.txt").stat().st_mtime == MTIME
        assert image.extract(tmp_path / "one", "hello.txt").files == 1
        assert contents(tmp_path / "one") == {"hello.txt": b"hello\n"}
        assert image.extract(tmp_path / "dir", "dir", symlinks=False)
        assert contents(tmp_path / "dir") == contents(tree / "dir")
        again = image.extract(tmp_path / "one", "hello.txt")
        assert not again and again.failed == 1
        assert again.failures[0].path == "hello.txt"
        assert isinstance(again.failures[0].error, FileExistsError)
        json.dumps(again.to_dict())
        assert image.extract(tmp_path / "one", "hello.txt", overwrite=True)
        with pytest.raises(diskimg.LimitError):
            image.extract(tmp_path / "small", limit=1000)


def test_an_exception_in_the_progress_callback_is_propagated(made: Path, tmp_path: Path) -> None:
    def progress(done: int, total: int) -> None:
        raise ZeroDivisionError

    with iso.open(made) as image, pytest.raises(ZeroDivisionError):
        image.extract(tmp_path / "out", progress=progress)


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


def test_no_failed_read_of_a_file_object_is_ignored(made: Path, tmp_path: Path) -> None:
    data = made.read_bytes()
    operations: list[Callable[[iso.Iso], object]] = [
        iso.Iso.info,
        iso.Iso.verify,
        lambda image: list(image.walk(onerror=print)),
        lambda image: image.read("hello.txt"),
        lambda image: image.exists("dir/nope"),
        lambda image: image.extract(tmp_path / "out", overwrite=True),
        lambda image: iso.remaster(image, {}),
        lambda image: iso.remaster(image, {}, io.BytesIO()),
    ]
    for operation in operations:
        for nth in range(1, 100):
            source = Failing(data, nth)
            try:
                with iso.open(source) as image:
                    operation(image)
            except Odd:
                continue
            assert source.left > 0, (operation, nth)
            break


def test_threads_can_share_an_image(made: Path, tree: Path) -> None:
    expected = contents(tree)
    for source in (made, io.BytesIO(made.read_bytes())):
        with iso.open(source) as image, ThreadPoolExecutor(6) as pool:
            found = list(pool.map(read, [image] * 6))
        assert found == [expected] * 6


def test_boot_catalog_and_partitions_are_reported(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "bios.img").write_bytes(b"b" * 4096)
    (root / "efi.img").write_bytes(b"e" * 8192)
    out = tmp_path / "boot.iso"
    command: list[str | Path] = [
        "xorriso",
        "-as",
        "mkisofs",
        "-quiet",
        "-R",
        "-o",
        out,
        "-b",
        "bios.img",
    ]
    command += ["-no-emul-boot", "-boot-load-size", "4", "-eltorito-alt-boot", "-e", "efi.img"]
    command += ["-no-emul-boot", "-append_partition", "2", "0xef", root / "efi.img", root]
    subprocess.run(command, check=True, capture_output=True)
    with iso.open(out) as image:
        boot = image.boot
        assert boot and [entry.platform for entry in boot.entries] == ["bios", "efi"]
        assert boot.entries[0].load_sectors == 4 and boot.entries[0].media == "none"
        for entry, path in zip(boot.entries, ("bios.img", "efi.img"), strict=True):
            assert image.extents(path)[0].offset == entry.start_sector * 2048
        (appended,) = [part for part in boot.partitions if part.number == 2]
        assert (appended.table, appended.kind, appended.size) == ("mbr", "0xef", 8192)
        assert appended.start is not None and out.read_bytes()[appended.start :][:1] == b"e"
        assert image.sessions[0].start_sector == 0
