"""Creation of ISO images, which diskimg and other tools read."""

import io
import json
import os
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

import diskimg
import pycdlib
import pytest
from diskimg import iso
from hypothesis import given, settings
from hypothesis import strategies as st
from test_file_objects import Trickle


@pytest.fixture(autouse=True)
def no_source_date_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset SOURCE_DATE_EPOCH."""
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)


def made(tree: Any, **how: Any) -> bytes:
    out = io.BytesIO()
    created = iso.create(out, tree, **how)
    assert created.size == len(out.getvalue()) == out.tell()
    return out.getvalue()


def flat(tree: dict[str, Any], parent: str = "") -> dict[str, bytes | None]:
    """Return contents by path: bytes, or `None` for a directory."""
    found: dict[str, bytes | None] = {}
    for name, content in tree.items():
        parts = PurePath(parent + name).parts
        for end in range(1, len(parts)):
            found.setdefault("/".join(parts[:end]), None)
        if isinstance(content, dict):
            found["/".join(parts)] = None
            found.update(flat(content, parent + name + "/"))
        else:
            found["/".join(parts)] = content
    return found


def read(image: iso.Iso) -> dict[str, bytes | None]:
    return {e.path: image.read(e.path) if e.is_file() else None for e in image.walk()}


names = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0*:;?\\", exclude_categories=["Cs", "Cc"]),
    min_size=1,
    max_size=20,
).filter(lambda name: name not in (".", "..") and name.isprintable())

trees = st.recursive(
    st.dictionaries(names, st.binary(max_size=5000), max_size=4),
    lambda inner: st.dictionaries(names, st.one_of(st.binary(max_size=100), inner), max_size=4),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(tree=trees)
def test_a_created_image_contains_the_tree(tree: dict[str, Any]) -> None:
    data = made(tree)
    assert data == made(tree)
    with iso.open(data, strict=True) as image:
        assert image.namespace == "rock-ridge"
        assert read(image) == flat(tree)
        assert [f for f in image.verify() if f.severity == "error"] == []


def test_contents_can_have_many_types(tmp_path: Path) -> None:
    (tmp_path / "host.txt").write_bytes(b"of the host")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").write_bytes(b"inside")
    tree: iso.Tree = {
        "text": "ünïcode",
        "/bytes": b"bytes",
        "a/b/array": bytearray(b"array"),
        "a": {"view": memoryview(b"view"), "empty": {}},
        "host": tmp_path / "host.txt",
        "folder": tmp_path / "folder",
    }
    with iso.open(made(tree)) as image:
        assert read(image) == {
            "text": "ünïcode".encode(),
            "bytes": b"bytes",
            "a": None,
            "a/b": None,
            "a/b/array": b"array",
            "a/view": b"view",
            "a/empty": None,
            "host": b"of the host",
            "folder": None,
            "folder/inside": b"inside",
        }
    for wrong in (5, None, ["x"], object()):
        with pytest.raises(TypeError):
            iso.create(io.BytesIO(), {"a": wrong})  # type: ignore[dict-item]


def test_all_kinds_of_output_get_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "big").write_bytes(os.urandom(5_000_000))
    (tmp_path / "tree" / "small").write_bytes(b"small")
    expected = made(tmp_path / "tree")
    iso.create(tmp_path / "named.iso", tmp_path / "tree")
    assert (tmp_path / "named.iso").read_bytes() == expected
    stream = Trickle()
    iso.create(stream, str(tmp_path / "tree"))
    assert stream.taken == expected
    with (tmp_path / "file.iso").open("wb") as file:
        iso.create(file, tmp_path / "tree")
    assert (tmp_path / "file.iso").read_bytes() == expected
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source, os.fdopen(writing, "wb") as pipe:
        got: list[bytes] = []
        thread = threading.Thread(target=lambda: got.append(source.read()))
        thread.start()
        iso.create(pipe, tmp_path / "tree")
        pipe.close()
        thread.join()
    assert got == [expected]


def test_pycdlib_reads_created_images() -> None:
    content = os.urandom(70_000)
    data = made({"dir/Some File.bin": content, "ü.txt": "ü"}, volume_id="cidata")
    theirs = pycdlib.PyCdlib()
    theirs.open_fp(io.BytesIO(data))
    assert theirs.pvd.volume_identifier.rstrip() == b"cidata"
    for how in ({"rr_path": "/dir/Some File.bin"}, {"joliet_path": "/dir/Some File.bin"}):
        out = io.BytesIO()
        theirs.get_file_from_iso_fp(out, **how)
        assert out.getvalue() == content
    theirs.close()


def test_other_tools_read_created_images(tmp_path: Path) -> None:
    path = tmp_path / "x.iso"
    iso.create(path, {"dir/Some File.bin": b"content", "meta-data": "x"}, volume_id="cidata")

    def run(*command: str | Path) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert run("bsdtar", "-xOf", path, "dir/Some File.bin") == "content"
    listed = run("isoinfo", "-R", "-f", "-i", path)
    assert sorted(listed.split("\n")) == ["", "/dir", "/dir/Some File.bin", "/meta-data"]
    assert run("isoinfo", "-J", "-x", "/dir/Some File.bin", "-i", path) == "content"
    assert "Volume id: cidata" in run("isoinfo", "-d", "-i", path)
    found = run("xorriso", "-indev", path, "-find", "/", "-exec", "report_lba")
    assert "'/dir/Some File.bin'" in found


def test_options_have_their_documented_effect(tmp_path: Path) -> None:
    tree = {"Mixed Case.text": b"x", "dir/other": b"y"}
    with iso.open(made(tree, joliet=False)) as image:
        assert image.namespaces == ("rock-ridge", "iso")
        entry = image.stat("dir/other")
        assert (entry.uid, entry.gid, entry.mode) == (0, 0, 0o444)
    with iso.open(made(tree, rock_ridge=False)) as image:
        assert image.namespace == "joliet" and image.exists("Mixed Case.text")
    with iso.open(made(tree, rock_ridge=False, joliet=False, level=1)) as image:
        assert {entry.path for entry in image.walk()} == {"DIR", "DIR/OTHER", "MIXED_CA.TEX"}
    with iso.open(made(tree, udf=True), namespace="udf") as image:
        assert image.namespaces == ("rock-ridge", "joliet", "iso", "udf")
        assert image.read("dir/other") == b"y"
    how: dict[str, Any] = {
        "uid": 7, "gid": 8, "dir_mode": 0o700, "file_mode": 0o600, "volume_id": "label",
        "publisher": "p", "preparer": "q", "application": "a", "system_id": "s",
        "volume_set_id": "v", "file_time": 5, "volume_time": 86400,
    }  # fmt: skip
    with iso.open(made(tree, **how)) as image:
        file, folder, volume = image.stat("dir/other"), image.stat("dir"), image.info().volumes[0]
        assert (file.uid, file.gid, file.mode, file.mtime_ns) == (7, 8, 0o600, 5 * 10**9)
        assert folder.mode == 0o700
        identifiers = (volume.volume_id, volume.publisher, volume.preparer, volume.application)
        assert identifiers == ("label", "p", "q", "a")
        assert (volume.system_id, volume.volume_set_id) == ("s", "v")
        assert volume.created is not None and volume.created.timestamp() == 86400
    assert len(made(tree, padding=150)) == len(made(tree)) + 150 * 2048
    with iso.open(made(tree, alignment=65536)) as image:
        offset = image.extents("dir/other")[0].offset
        assert offset is not None and offset % 65536 == 0
    for profile, label in (("openstack", "config-2"), ("nocloud", "cidata"), ("oemdrv", "OEMDRV")):
        assert iso.open(made(tree, profile=profile)).label == label
    assert iso.open(made(tree)).label == "CDROM"
    assert iso.open(made(tree, profile="nocloud", volume_id="mine")).label == "mine"
    values: list[dict[str, Any]] = [
        {"volume_id": "x" * 33}, {"profile": "floppy"}, {"level": 5}, {"alignment": 3},
        {"rock_ridge": "zisofs"}, {"joliet": "short"}, {"charset": "klingon"},
        {"hide": [("a", "x")]},
    ]  # fmt: skip
    for value in values:
        with pytest.raises(ValueError):
            made(tree, **value)
    for bad in ("a/../b", "..", "a\0b", "x" * 256):
        with pytest.raises(diskimg.InvalidError):
            made({bad: b""})


def test_images_have_the_requested_boot_information(tmp_path: Path) -> None:
    (tmp_path / "esp").write_bytes(b"e" * 8192)
    tree = {"isolinux/isolinux.bin": b"i" * 4096, "boot/efi.img": b"f" * 4096}
    bios = iso.BootImage("/isolinux/isolinux.bin", load_sectors=4, info_table=True)
    efi = iso.BootImage("boot/efi.img", platform="efi", in_gpt=True)
    hybrid = iso.Hybrid(isohybrid_mbr=b"\x90" * 432)
    data = made(tree, boot=[bios, efi], hybrid=hybrid, boot_catalog="isolinux/boot.cat")
    for image_bytes in (data, iso.remaster(data, {"new": b"file"})):
        with iso.open(image_bytes) as image:
            boot = image.boot
            assert [entry.platform for entry in boot.entries] == ["bios", "efi"]
            assert boot.entries[0].load_sectors == 4 and boot.loader == "isohybrid"
            assert boot.partitions and image.exists("isolinux/boot.cat")
            start = boot.entries[0].start_sector
            assert image.read("isolinux/isolinux.bin")[8:16] == struct.pack("<II", 16, start)
            assert [f for f in image.verify() if f.severity == "error"] == []
    appended = iso.Hybrid(appended=[iso.AppendedPartition(2, tmp_path / "esp")])
    data = made({"a": b"a"}, boot=[iso.BootImage(2, platform="efi")], hybrid=appended)
    with iso.open(data) as image:
        (partition,) = [p for p in image.boot.partitions if p.number == 2]
        assert partition.start is not None and partition.kind == "0xef"
        assert data[partition.start :][:8192] == b"e" * 8192
        assert image.boot.entries[0].start_sector * 2048 == partition.start
    for wrong in (iso.BootImage("nope"), iso.BootImage("boot/efi.img", emulation="disk")):  # type: ignore[arg-type]
        with pytest.raises(ValueError):
            made(tree, boot=[wrong])


def test_partitions_are_created_as_requested_and_kept(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"d" * 8192)
    hfs = "48465300-0000-11AA-AA11-00306543ECAC"
    bios = iso.BootImage("bios", load_sectors=4, identifier="first")
    efi = iso.BootImage("efi", platform="efi", identifier=b"second", criteria=b"\x01\x02")
    hybrid = iso.Hybrid(
        system_area=b"s" * 440,
        partition_offset=16,
        appended=[iso.AppendedPartition(3, tmp_path / "data", 0x83, gpt_kind=hfs)],
        appended_as_gpt=True,
        appended_as_apm=True,
        efi_partition="/efi",
        force_active=True,
        gpt_disk_id="2303cd2a-73c7-424a-a298-25632da7f446",
    )
    data = made({"bios": b"b" * 4096, "efi": b"e" * 4096}, boot=[bios, efi], hybrid=hybrid)
    for image_bytes in (data, iso.remaster(data, {"new": b"file" * 9999})):
        with iso.open(image_bytes) as image:
            found = {(p.table, p.number): p for p in image.boot.partitions}
            assert {table for table, _ in found} == {"mbr", "gpt", "apm"}
            assert found["gpt", 3].kind == hfs
            (start,) = [p.start for p in found.values() if p.name == "EFI boot partition"]
            assert start == image.boot.entries[1].start_sector * 2048
            assert b"first" in image_bytes and b"second" in image_bytes
            start = found["gpt", 3].start
            assert start is not None and image_bytes[start:][:8192] == b"d" * 8192
            assert [p.name for p in found.values() if p.kind == "Apple_HFS"] == ["Appended3"]
        assert image_bytes[100:440] == b"s" * 340
    hybrid = iso.Hybrid(
        protective_label=True, volume_kind=0x17, heads=128, sectors_per_track=32,
        cylinder_alignment="on",
    )  # fmt: skip
    data = made({"bios": b"b" * 4096}, boot=[iso.BootImage("bios")], hybrid=hybrid)
    with iso.open(data) as image:
        (partition,) = image.boot.partitions
        assert (partition.kind, partition.start) == ("0x17", 512)
    wrong: list[dict[str, Any]] = [
        {"gpt_disk_id": "12"}, {"volume_kind": "none"}, {"cylinder_alignment": "yes"},
        {"efi_partition": "nope"}, {"partition_offset": 3},
    ]  # fmt: skip
    for arguments in wrong:
        with pytest.raises(ValueError):
            made({"bios": b"b" * 4096}, hybrid=iso.Hybrid(**arguments))


def test_what_a_modified_copy_cannot_keep_is_named() -> None:
    data = bytearray(made({"a": b"a"}))
    data[508:510] = b"\xda\xbe"
    with pytest.raises(diskimg.UnsupportedError, match=r'SUN disk label.*drop=\["system-area"\]'):
        iso.remaster(bytes(data), {})
    changed = iso.remaster(bytes(data), {}, drop=["system-area"])
    assert changed[508:510] == b"\0\0"
    with pytest.raises(ValueError):
        iso.remaster(bytes(data), {}, drop=["nothing"])  # type: ignore[list-item]


def test_host_files_are_selected_as_requested(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "keep").write_bytes(b"k")
    (root / "drop.bak").write_bytes(b"d")
    (root / "keep").chmod(0o640)
    (root / "link").symlink_to("keep")
    with iso.open(made(root, exclude=["*.bak"], rock_ridge="preserved")) as image:
        assert [entry.path for entry in image.walk()] == ["keep", "link"]
        assert image.stat("keep").mode == 0o640
        assert image.stat("keep").uid == (root / "keep").stat().st_uid
        assert image.stat("link").link_target == "keep"
    with iso.open(made(root, follow_symlinks=True)) as image:
        assert image.read("link") == b"k"
    with iso.open(made(root, hide=[("keep", "primary")])) as image:
        assert [entry.path for entry in image.walk()] == ["drop.bak", "link"]
    weights = {"*/link": 1, "*/drop.bak": 2}
    with iso.open(made(root, follow_symlinks=True, weights=weights)) as image:
        first, second = (image.extents(name)[0].offset for name in ("drop.bak", "link"))
        assert first is not None and second is not None and first < second
    with iso.open(made(root, translation_tables=True, level=4)) as image:
        assert image.read("TRANS.TBL").startswith(b"F drop.bak ")
    (root / "gr\udc81n").write_bytes(b"")
    with iso.open(made(root, charset="cp437")) as image:
        assert image.exists("grün")
    with pytest.raises(FileNotFoundError):
        made(tmp_path / "missing")
    with pytest.raises(FileNotFoundError):
        made({"a": tmp_path / "missing"})


def test_no_recorded_time_is_later_than_source_date_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, mtime in (("old", 1000), ("new", 2_000_000_000)):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (mtime, mtime))

    def mtimes(data: bytes) -> list[int]:
        with iso.open(data) as image:
            return [(image.stat(name).mtime_ns or 0) // 10**9 for name in ("old", "new")]

    assert mtimes(made(tmp_path)) == [1000, 2_000_000_000]
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1500000000")
    assert mtimes(made(tmp_path)) == [1000, 1_500_000_000]
    assert mtimes(made(tmp_path, source_date_epoch=2000)) == [1000, 2000]
    for seed in (iso.nocloud("", ""), iso.config_drive({"user-data": ""})):
        with iso.open(seed) as image:
            assert image.stat("user-data").mtime_ns == 1_500_000_000 * 10**9
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(diskimg.InvalidError, match="SOURCE_DATE_EPOCH"):
        made(tmp_path)


def test_a_config_drive_has_the_layout_that_nova_writes() -> None:
    drive = iso.config_drive(
        {
            "openstack/latest/meta_data.json": {"uuid": "1"},
            "openstack/latest/user_data": "#!/bin/sh\n",
            "openstack/latest/network_data.json": ["list"],
            "openstack/content/0000": b"\0\xff",
        },
        publisher="OpenStack Nova 31",
    )
    for namespace in ("rock-ridge", "joliet", "iso"):
        with iso.open(drive, namespace=namespace) as image:
            assert image.label == "config-2"
            assert json.loads(image.read("openstack/latest/meta_data.json")) == {"uuid": "1"}
            assert image.read("/openstack/latest/network_data.json;1") == b'["list"]\n'
            assert image.read("openstack/content/0000") == b"\0\xff"
            assert image.info().volumes[0].publisher == "OpenStack Nova 31"
    with pytest.raises(TypeError):
        iso.config_drive({"a": object()})


def test_a_nocloud_seed_has_the_files_that_cloud_init_reads() -> None:
    seed = iso.nocloud(
        {"users": []}, {"instance-id": "i"}, network_config={"version": 2}, vendor_data="#!x"
    )
    with iso.open(seed) as image:
        assert image.label == "cidata"
        assert read(image) == {
            "meta-data": b'{"instance-id": "i"}\n',
            "network-config": b'{"version": 2}\n',
            "user-data": b'#cloud-config\n{"users": []}\n',
            "vendor-data": b"#!x",
        }
    with iso.open(iso.nocloud("#cloud-config\n", b"instance-id: x\n")) as image:
        assert read(image) == {"meta-data": b"instance-id: x\n", "user-data": b"#cloud-config\n"}


def test_remastering_makes_only_the_requested_changes(tmp_path: Path) -> None:
    before = {"keep": b"k", "change": b"old", "dir/away": b"x", "gone/a": b"a", "gone/b": b"b"}
    source = made(before, volume_id="label", publisher="p", udf=True)
    changes: dict[str, Any] = {
        "change": b"new", "gone": None, "added/deep": "text", "dir": {"more": b"m"},
    }  # fmt: skip
    expected = {
        "keep": b"k", "change": b"new", "dir": None, "dir/away": b"x", "dir/more": b"m",
        "added": None, "added/deep": b"text",
    }  # fmt: skip
    after = iso.remaster(source, changes)
    for namespace in ("rock-ridge", "joliet", "udf"):
        with iso.open(after, namespace=namespace) as image:
            assert read(image) == expected
            assert image.label == "label" and image.info().volumes[0].publisher == "p"
    (tmp_path / "source.iso").write_bytes(source)
    created = iso.remaster(tmp_path / "source.iso", changes, tmp_path / "out.iso")
    assert (tmp_path / "out.iso").read_bytes() == after and created.size == len(after)
    with iso.open(source) as image:
        assert iso.remaster(image, changes) == after
        assert iso.open(iso.remaster(image, {}, volume_id="other")).label == "other"
    with iso.open(iso.remaster(source, {})) as image:
        assert {key: value for key, value in read(image).items() if value} == before
    assert iso.remaster(after, {}) == after
    with pytest.raises(ValueError):
        iso.remaster(source, {"nope": None})
    memory = io.BytesIO(source)
    with pytest.raises(diskimg.RefusedError):
        iso.remaster(memory, changes, memory)
    with (tmp_path / "source.iso").open("r+b") as file, pytest.raises(diskimg.RefusedError):
        iso.remaster(tmp_path / "source.iso", changes, file)
    assert memory.getvalue() == source == (tmp_path / "source.iso").read_bytes()
    # In place: the source is replaced only once the output is complete.
    iso.remaster(tmp_path / "source.iso", changes, tmp_path / "source.iso")
    assert (tmp_path / "source.iso").read_bytes() == after


def test_progress_is_reported_and_its_exceptions_are_propagated(tmp_path: Path) -> None:
    out = tmp_path / "out.iso"
    out.write_bytes(b"old")
    reported: list[tuple[int, int]] = []
    created = iso.create(out, {"a": bytes(5_000_000)}, progress=lambda *call: reported.append(call))
    assert reported[-1] == (created.size, created.size) and reported == sorted(reported)
    out.write_bytes(b"old")

    def progress(done: int, total: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        iso.create(out, {"a": bytes(5_000_000)}, progress=progress)
    assert out.read_bytes() == b"old" and os.listdir(tmp_path) == ["out.iso"]

    class Full(io.BytesIO):
        def write(self, data: Any, /) -> int:
            raise Full.Error

        class Error(Exception):
            pass

    with pytest.raises(Full.Error):
        iso.create(Full(), {"a": b"b"})


def test_ctrl_c_stops_a_creation_and_leaves_no_file(tmp_path: Path) -> None:
    class Slow(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any, /) -> int:
            time.sleep(0.02)
            return min(1 << 18, len(data))

    (tmp_path / "big").write_bytes(bytes(50_000_000))
    out = tmp_path / "out.iso"
    calls: list[Callable[[], object]] = [
        lambda: iso.create(Slow(), tmp_path),
        lambda: iso.create(out, tmp_path, progress=lambda *_: time.sleep(0.2)),
    ]
    for call in calls:
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            call()
        timer.join()
    assert os.listdir(tmp_path) == ["big"]


def test_an_output_is_unchanged_if_the_tree_cannot_be_read(tmp_path: Path) -> None:
    precious = io.BytesIO(b"precious")
    with pytest.raises(FileNotFoundError):
        iso.create(precious, tmp_path / "missing")
    with pytest.raises(ValueError):
        iso.create(precious, {"..": b""})
    assert precious.getvalue() == b"precious"
