"""Results agree with qemu-img's."""

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diskimg
import pytest
from tools import guest_sum, qemu_img, qemu_json, qemu_version

LAYOUTS = [
    ("raw",),
    ("qcow2",),
    ("qcow2", "-o", "compat=0.10,cluster_size=4k"),
    ("qcow2", "-o", "extended_l2=on,cluster_size=128k"),
    ("qcow2", "-o", "preallocation=metadata"),
    ("qcow2", "-c"),
    ("qcow2", "-c", "-o", "compression_type=zstd"),
    ("vmdk",),
    ("vmdk", "-o", "subformat=streamOptimized"),
    ("vmdk", "-o", "subformat=monolithicFlat"),
    ("vmdk", "-o", "subformat=twoGbMaxExtentSparse"),
]
recent = pytest.mark.skipif(
    qemu_version() < (8, 2), reason="qemu-img info and map print less before versions 8.0 and 8.2"
)
layouts = pytest.mark.parametrize("layout", LAYOUTS, ids=" ".join)


@recent
@layouts
def test_info_is_what_qemu_img_prints(layout: list[Any], make: Callable[..., Path]) -> None:
    path = make(*layout)
    ours = diskimg.info(path, layout[0])
    expected = qemu_json("info", "-f", layout[0], path)
    assert ours.to_dict() == expected
    assert json.loads(json.dumps(ours.to_dict())) == expected
    assert diskimg.open(path, layout[0]).info() == ours
    assert ours.virtual_size == expected["virtual-size"] and ours.format == layout[0]


@recent
@layouts
def test_map_is_what_qemu_img_prints(layout: list[Any], make: Callable[..., Path]) -> None:
    path = make(*layout)
    ours = [extent.to_dict() for extent in diskimg.map(path, layout[0])]
    expected = qemu_json("map", "-f", layout[0], path)
    assert ours == (
        expected if "extended_l2" not in str(layout) else without_unallocated_offsets(expected)
    )


def without_unallocated_offsets(extents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Remove the host offsets that qemu-img reports for unallocated subclusters."""
    merged: list[dict[str, Any]] = []
    for extent in extents:
        if not extent["present"]:
            extent.pop("offset", None)
            if merged and not merged[-1]["present"]:
                merged[-1]["length"] += extent["length"]
                continue
        merged.append(extent)
    return merged


@layouts
def test_the_guest_data_are_read(layout: list[Any], make: Callable[..., Path], disk: bytes) -> None:
    path = make(*layout)
    padded = disk if layout[0] == "raw" else disk + bytes(-len(disk) % 512)
    with diskimg.open(path, layout[0]) as image:
        assert image.size == len(padded)
        assert image.read_at(0, image.size) == padded
        assert image.as_file().read() == padded
        buffer = bytearray(image.size - 1000)
        assert image.readinto_at(1000, buffer) == len(buffer)
        assert buffer == padded[1000:]


@pytest.mark.parametrize("format", ["raw", "qcow2", "vmdk"])
@pytest.mark.parametrize("compress", [False, True])
def test_qemu_img_reads_converted_images(
    format: diskimg.types.Format, compress: bool, tmp_path: Path, raw: Path, disk: bytes
) -> None:
    if format == "raw" and compress:
        pytest.skip("raw images are not compressed")
    out = tmp_path / "out"
    report = diskimg.convert(raw, out, format=format, src_format="raw", compress=compress)
    assert report.guest_bytes >= len(disk)
    padded = disk if format == "raw" else disk + bytes(-len(disk) % 512)
    assert guest_sum(out, format, tmp_path) == hashlib.sha256(padded).hexdigest()
    assert qemu_img("compare", "-f", "raw", "-F", format, raw, out)
    if format == "qcow2":
        qemu_img("check", out)


def test_images_of_other_tools_have_the_recorded_digests(
    testdata: Path, sums: dict[str, str]
) -> None:
    assert sums
    for name, digest in sums.items():
        with diskimg.open(testdata / name) as image, image.as_file() as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == digest, name


@recent
def test_a_backing_chain_and_a_snapshot(images: Path) -> None:
    overlay = images / "overlay.qcow2"
    ours = [info.to_dict() for info in diskimg.info(overlay, chain=True)]
    assert ours == qemu_json("info", "--backing-chain", overlay)
    with diskimg.open(overlay) as image:
        assert image.backing == "base-v2.qcow2"
        assert image.layers == 2
        assert image.info(1).filename.endswith("base-v2.qcow2")
        (snapshot,) = image.snapshots
        assert snapshot.name == "first"
        with pytest.raises(IndexError):
            image.info(2)
        active = image.read_at(1 << 20, 4096)
    with diskimg.open(overlay, snapshot="first") as image:
        assert image.read_at(1 << 20, 4096) == b"\x5a" * 4096 != active
    out = images / "first.raw"
    diskimg.convert(overlay, out, snapshot="first")
    expected = images / "expected.raw"
    qemu_img("convert", "-l", "first", "-O", "raw", overlay, expected)
    assert out.read_bytes() == expected.read_bytes()


def test_compare_agrees_with_qemu_img(make: Callable[..., Path], raw: Path, disk: bytes) -> None:
    same = make("qcow2", "-c")
    assert diskimg.compare(raw, same, a_format="raw")
    changed = bytearray(disk)
    changed[5 << 20] ^= 1
    other = raw.with_name("other.raw")
    other.write_bytes(changed)
    found = diskimg.compare(other, same)
    assert not found
    assert found.offset is not None and found.offset <= 5 << 20
    with pytest.raises(subprocess.CalledProcessError) as failed:
        qemu_img("compare", other, same)
    assert f"offset {found.offset}!" in failed.value.stdout
    other.write_bytes(disk + b"\1")
    found = diskimg.compare(other, raw)
    assert (found.result, found.size_mismatch) == ("content", True)
    assert diskimg.compare(other, raw, strict=True).result == "size"


def test_check_agrees_with_qemu_img(make: Callable[..., Path]) -> None:
    path = make("qcow2")
    report = diskimg.check(path)
    assert report.clean and report.to_dict() == qemu_json("check", path)
    # Leak a cluster: give it a refcount without a reference.
    with path.open("r+b") as file:
        file.seek(0x20002 + 2 * 0)
        end = path.stat().st_size
        file.truncate(end + 65536)
        table = end // 65536
        file.seek(0x20000 + 2 * table)
        file.write(b"\0\1")
    report = diskimg.check(path)
    assert (report.leaks, report.corruptions, report.clean) == (1, 0, False)
    assert [finding.code for finding in report.findings] == ["leak"]
    with pytest.raises(diskimg.UnsupportedError):
        diskimg.check(make("raw"), "raw")


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_measure_agrees_with_qemu_img(
    format: diskimg.types.Format, make: Callable[..., Path]
) -> None:
    path = make("qcow2")
    ours = diskimg.measure(path, format=format)
    assert ours.to_dict() == qemu_json("measure", "-O", format, path)
    ours = diskimg.measure(size=10 << 30, format=format)
    assert ours.to_dict() == qemu_json("measure", "-O", format, "--size", "10G")
    with pytest.raises(ValueError):
        diskimg.measure(path, size=5)
    with pytest.raises(ValueError):
        diskimg.measure()
    with pytest.raises(diskimg.UnsupportedError):
        diskimg.measure(path, format="vmdk")


@pytest.mark.parametrize("format", ["raw", "qcow2", "vmdk"])
def test_qemu_img_opens_created_images(format: diskimg.types.Format, tmp_path: Path) -> None:
    path = tmp_path / f"new.{format}"
    created = diskimg.create(path, "64M")
    assert (created.format, created.size, created.filename) == (format, 64 << 20, str(path))
    assert qemu_json("info", "-f", format, path)["virtual-size"] == 64 << 20
    if format == "qcow2":
        child = diskimg.create(
            tmp_path / "child.qcow2",
            backing="new.qcow2",
            backing_format="qcow2",
            options={"cluster_size": 4096, "lazy_refcounts": True},
        )
        assert child.size == 64 << 20
        assert child.options["lazy_refcounts"] == "on"
        (info, _) = qemu_json("info", "--backing-chain", tmp_path / "child.qcow2")
        assert info["cluster-size"] == 4096 and info["backing-filename"] == "new.qcow2"


def test_an_overlay_stores_only_the_differences(tmp_path: Path, raw: Path, disk: bytes) -> None:
    changed = bytearray(disk)
    changed[1 << 20 : (1 << 20) + 100] = b"!" * 100
    other = tmp_path / "other.raw"
    other.write_bytes(changed)
    out = tmp_path / "overlay.qcow2"
    report = diskimg.convert(other, out, src_format="raw", backing=raw.name, backing_format="raw")
    assert report.stored_bytes == 65536
    assert qemu_img("compare", "-f", "raw", "-F", "qcow2", other, out)


def test_detect_recognizes_formats_by_content(make: Callable[..., Path]) -> None:
    for format in ("qcow2", "vmdk"):
        path = make(format)
        assert diskimg.detect(path).format == format
        assert diskimg.detect(path.read_bytes()).format == format
        with path.open("rb") as file:
            found = diskimg.detect(file)
            assert found == diskimg.Detection(str(path), format)
            assert found.to_dict() == {"filename": str(path), "format": format}
