"""Conversion: progress, cancellation and the files left afterwards."""

import gzip
import hashlib
import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import diskimg
import pytest
from tools import qemu_img

SLOW = 30 << 20
"""Bytes of noise that take more than a second to compress at the highest level."""


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source that takes more than a second to convert."""
    path = tmp_path_factory.mktemp("slow") / "slow.raw"
    words = b"".join(b"%d " % (n * n) for n in range(4_000_000))
    path.write_bytes(words[:SLOW])
    return path


def slow_options() -> dict[str, str | int]:
    return {"compression_type": "zstd", "compression_level": 19}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def interrupted_after() -> Iterator[Callable[[float], SimpleNamespace]]:
    """Returns a function that sends SIGINT to this process after a delay and records the time."""
    timers = []

    def after(seconds: float) -> SimpleNamespace:
        sent = SimpleNamespace(at=0.0)

        def send() -> None:
            sent.at = time.monotonic()
            os.kill(os.getpid(), signal.SIGINT)

        timers.append(threading.Timer(seconds, send))
        timers[-1].start()
        return sent

    yield after
    for timer in timers:
        timer.cancel()
        timer.join()


def test_ctrl_c_stops_a_conversion_and_leaves_the_old_file(
    slow: Path, tmp_path: Path, interrupted_after: Callable[[float], SimpleNamespace]
) -> None:
    out = tmp_path / "out.qcow2"
    out.write_bytes(b"old")
    sent = interrupted_after(0.3)
    with pytest.raises(KeyboardInterrupt):
        diskimg.convert(slow, out, compress=True, options=slow_options())
    took = time.monotonic() - sent.at
    print(f"stopped after {took * 1000:.0f} ms")
    assert sent.at > 0
    assert out.read_bytes() == b"old" and names(tmp_path) == ["out.qcow2"]


def test_ctrl_c_stops_a_conversion_to_a_file_object(
    slow: Path, tmp_path: Path, interrupted_after: Callable[[float], SimpleNamespace]
) -> None:
    interrupted_after(0.3)
    with pytest.raises(KeyboardInterrupt), (tmp_path / "x").open("w+b", buffering=0) as file:
        diskimg.convert(slow, file, format="qcow2", compress=True, options=slow_options())


def test_ctrl_c_stops_a_comparison(
    tmp_path: Path, interrupted_after: Callable[[float], SimpleNamespace]
) -> None:
    class Slow:
        """A slow file object."""

        at = 0

        def seekable(self) -> bool:
            return True

        def seek(self, offset: int, whence: int = 0) -> int:
            self.at = offset if whence == 0 else (1 << 30)
            return self.at

        def tell(self) -> int:
            return self.at

        def read(self, size: int) -> bytes:
            time.sleep(0.02)
            return b"x" * size

    interrupted_after(0.2)
    with pytest.raises(KeyboardInterrupt):
        diskimg.compare(Slow(), Slow(), a_format="raw", b_format="raw")


def test_the_programs_own_signal_handler_is_called(
    slow: Path, tmp_path: Path, interrupted_after: Callable[[float], SimpleNamespace]
) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    try:
        interrupted_after(0.1)
        diskimg.convert(slow, tmp_path / "out.qcow2", compress=True)
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT]


def test_a_conversion_in_another_thread_is_not_interrupted_by_signals(
    raw: Path, tmp_path: Path
) -> None:
    done: list[diskimg.Report] = []
    thread = threading.Thread(
        target=lambda: done.append(diskimg.convert(raw, tmp_path / "o.vmdk", src_format="raw"))
    )
    thread.start()
    thread.join()
    assert done[0].guest_bytes > 0


def test_an_exception_in_the_callback_stops_the_conversion_and_is_propagated(
    slow: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.qcow2"
    out.write_bytes(b"old")
    raised = RuntimeError("enough")

    def callback(done: int, total: int) -> None:
        if done > 0:
            raise raised

    with pytest.raises(RuntimeError) as caught:
        diskimg.convert(slow, out, compress=True, options=slow_options(), progress=callback)
    assert caught.value is raised
    assert out.read_bytes() == b"old" and names(tmp_path) == ["out.qcow2"]


def test_a_callback_that_raises_at_the_end_leaves_the_old_file(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.qcow2"

    def callback(done: int, total: int) -> None:
        if done == total:
            raise ZeroDivisionError

    for call in (
        lambda: diskimg.convert(raw, out, src_format="raw", progress=callback),
        lambda: diskimg.create(out, 1 << 20, progress=callback),
    ):
        out.write_bytes(b"old")
        with pytest.raises(ZeroDivisionError):
            call()
        assert out.read_bytes() == b"old"
    assert names(tmp_path) == ["disk.raw", "out.qcow2"]


def test_an_interruption_at_any_time_leaves_the_complete_image_or_the_old_file(
    tmp_path: Path,
) -> None:
    source, out = tmp_path / "s.raw", tmp_path / "out.raw"
    source.write_bytes(b"new" * 3_000_000)
    stopped = 0
    for n in range(40):
        out.write_bytes(b"old")
        timer = threading.Timer(n / 4000, os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            diskimg.convert(source, out, src_format="raw", durable=False, reflink="never")
            while timer.is_alive():
                time.sleep(0.001)
            time.sleep(0.001)
        except KeyboardInterrupt:
            stopped += out.read_bytes() == b"old"
        assert out.read_bytes() in (b"old", source.read_bytes())
        assert names(tmp_path) == ["out.raw", "s.raw"]
    assert stopped > 0


def test_progress_increases_in_the_callers_thread_up_to_the_total(
    slow: Path, tmp_path: Path
) -> None:
    calls: list[tuple[int, int]] = []
    threads = set()

    def callback(done: int, total: int) -> None:
        calls.append((done, total))
        threads.add(threading.current_thread())

    diskimg.convert(slow, tmp_path / "out.qcow2", compress=True, progress=callback)
    assert threads == {threading.current_thread()}
    assert calls == sorted(calls) and len(calls) > 2
    assert calls[-1] == (SLOW, SLOW)
    calls.clear()
    diskimg.compare(slow, slow, a_format="raw", b_format="raw", progress=callback)
    assert calls[-1] == (SLOW, SLOW)


def test_progress_true_shows_a_bar(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    diskimg.convert(raw, tmp_path / "a.qcow2", src_format="raw", progress=True)
    assert "convert: 100%" in capsys.readouterr().err
    # Without tqdm and without a terminal, nothing is printed.
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    diskimg.convert(raw, tmp_path / "b.qcow2", src_format="raw", progress=True)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    diskimg.convert(raw, tmp_path / "b.qcow2", src_format="raw", progress=True)
    assert capsys.readouterr().err.endswith("100 %\n")


def test_other_python_threads_run_during_a_conversion(slow: Path, tmp_path: Path) -> None:
    counted = 0
    ended = threading.Event()

    def count() -> None:
        nonlocal counted
        while not ended.is_set():
            counted += 1
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    start = time.monotonic()
    diskimg.convert(slow, tmp_path / "o.qcow2", compress=True)
    waited = time.monotonic() - start
    ended.set()
    thread.join()
    # Without releasing the GIL, the other thread would not have counted at all.
    assert counted > waited * 20


def test_the_format_follows_from_the_suffix_or_is_raw(raw: Path, tmp_path: Path) -> None:
    for name, format in [
        ("a.qcow2", "qcow2"),
        ("a.VMDK", "vmdk"),
        ("a.ova", "ova"),
        ("a.img", "raw"),
        ("a", "raw"),
    ]:
        diskimg.convert(raw, tmp_path / name, src_format="raw")
        assert diskimg.detect(tmp_path / name).format == format
        assert diskimg.compare(tmp_path / name, raw, b_format="raw")


def test_options_can_be_bools_and_integers(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.qcow2"
    options: dict[str, str | int | bool] = {
        "cluster_size": 4096,
        "lazy_refcounts": True,
        "compat": "1.1",
    }
    diskimg.convert(raw, out, src_format="raw", options=options)
    info = json.loads(qemu_img("info", "--output=json", out))
    assert info["cluster-size"] == 4096
    assert info["format-specific"]["data"]["lazy-refcounts"] is True


def test_a_raw_disk_is_written_compressed(raw: Path, disk: bytes, tmp_path: Path) -> None:
    packed = tmp_path / "disk.raw.gz"
    with pytest.raises(diskimg.InvalidError, match="compressed file"):
        diskimg.convert(raw, packed)
    diskimg.convert(raw, packed, format="raw", options={"subformat": "gzip"}, verify=True)
    assert gzip.decompress(packed.read_bytes()) == disk
    with diskimg.open(packed) as image:
        assert image.read_at(0, len(disk)) == disk


def test_options_are_listed() -> None:
    assert set(diskimg.FORMATS) >= {"raw", "qcow2", "vmdk", "ova"}
    by_name = {option.name: option for option in diskimg.create_options("qcow2")}
    assert by_name["cluster_size"].default == "65536" and by_name["cluster_size"].help


def test_several_sources_are_concatenated_or_become_disks_of_an_ova(
    raw: Path, disk: bytes, tmp_path: Path
) -> None:
    out = tmp_path / "both.raw"
    diskimg.convert([raw, raw], out, src_format="raw")
    assert out.read_bytes().startswith(disk) and out.stat().st_size >= 2 * len(disk)
    ova = tmp_path / "both.ova"
    diskimg.convert([raw, raw], ova, src_format="raw", options={"name": "pair"})
    for number in (1, "2"):
        assert diskimg.open(ova, disk=number).read_at(0, len(disk)) == disk
    with pytest.raises(diskimg.Error):
        diskimg.open(ova)
    diskimg.convert(ova, out, disk=2)
    assert out.read_bytes()[: len(disk)] == disk


def test_every_byte_is_written_unless_sparse(tmp_path: Path) -> None:
    source = tmp_path / "zeros.raw"
    with source.open("wb") as file:
        file.truncate(4 << 20)
    out = tmp_path / "out.raw"
    diskimg.convert(source, out, src_format="raw")
    assert out.stat().st_blocks == 0
    diskimg.convert(source, out, src_format="raw", sparse=False)
    assert out.stat().st_blocks * 512 >= 4 << 20


def test_an_existing_file_is_written_in_place(raw: Path, disk: bytes, tmp_path: Path) -> None:
    out = tmp_path / "out.raw"
    out.write_bytes(b"x" * (len(disk) + 1000))
    inode = out.stat().st_ino
    diskimg.convert(raw, out, src_format="raw", in_place=True)
    assert out.stat().st_ino == inode
    assert out.read_bytes() == disk + b"x" * 1000


def test_unreadable_ranges_are_salvaged_and_reported(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    path = make("qcow2", "-c")
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xff" * 3000)
    out = tmp_path / "out.raw"
    with pytest.raises(diskimg.CorruptError):
        diskimg.convert(path, out)
    report = diskimg.convert(path, out, salvage=True)
    assert report.salvaged and report.to_dict()["salvaged"][0]["end"] > report.salvaged[0].start
    assert report.salvaged[0].error
    assert report.salvaged_bytes == sum(lost.end - lost.start for lost in report.salvaged)


def test_damaged_clusters_are_copied_only_from_a_trusted_source(
    tmp_path: Path, make: Callable[..., Path]
) -> None:
    path = make("qcow2", "-c")
    extent = next(entry for entry in diskimg.map(path) if entry.compressed)
    data = bytearray(path.read_bytes())
    table = int.from_bytes(data[40:48], "big")
    table = int.from_bytes(data[table : table + 8], "big") & ((1 << 56) - 512)
    entry = int.from_bytes(data[table + extent.start // 65536 * 8 :][:8], "big")
    at = (entry & ((1 << 54) - 1)) + 4
    data[at : at + 16] = b"\xff" * 16
    path.write_bytes(data)
    with pytest.raises(diskimg.CorruptError):
        diskimg.convert(path, tmp_path / "again.qcow2", compress=True)
    report = diskimg.convert(path, tmp_path / "again.qcow2", compress=True, trust_source=True)
    assert report.passed_bytes > 0


def test_a_truncated_stream_is_salvaged(
    make: Callable[..., Path], disk: bytes, tmp_path: Path
) -> None:
    stream, out = tmp_path / "stream.vmdk", tmp_path / "out.raw"
    diskimg.convert(make("qcow2"), stream, options={"subformat": "streamOptimized"})
    stream.write_bytes(stream.read_bytes()[:-600])
    with pytest.raises(diskimg.CorruptError, match="salvage=True"):
        diskimg.convert(stream, out)
    report = diskimg.convert(stream, out, salvage=True)
    assert out.read_bytes() == disk and not report.salvaged
    assert any("found by their markers" in warning for warning in report.warnings)
    with diskimg.open(stream, salvage=True) as image:
        assert image.read_at(0, 4096) == disk[:4096]
    assert diskimg.info(stream).virtual_size == len(disk)
    assert not diskimg.check(stream).clean


def test_contradictions_in_an_appliance_are_warnings_unless_strict(
    make: Callable[..., Path], disk: bytes, tmp_path: Path
) -> None:
    ova, out = tmp_path / "a.ova", tmp_path / "out.raw"
    diskimg.convert(make("qcow2"), ova)
    data = ova.read_bytes()
    # The name of the descriptor in the manifest.
    assert data.count(b"SHA256(a.ovf)") == 1
    ova.write_bytes(data.replace(b"SHA256(a.ovf)", b"SHA256(b.ovf)"))
    report = diskimg.convert(ova, out)
    assert out.read_bytes() == disk
    assert any("descriptor cannot be verified" in warning for warning in report.warnings)
    with pytest.raises(diskimg.CorruptError, match="strict=True"):
        diskimg.convert(ova, out, strict=True)


def test_reports_contain_counts(raw: Path, tmp_path: Path, make: Callable[..., Path]) -> None:
    report = diskimg.convert(make("qcow2", "-c"), tmp_path / "again.qcow2", compress=True)
    assert report.passed_bytes > 0
    fresh = diskimg.convert(
        make("qcow2", "-c"), tmp_path / "again.qcow2", compress=True, recompress=True
    )
    assert fresh.passed_bytes == 0
    assert report == diskimg.Report(
        **{name: getattr(report, name) for name in report.__dataclass_fields__}
    )
    assert set(report.to_dict()) == {name.replace("_", "-") for name in report.__dataclass_fields__}
    json.dumps(report.to_dict())


def test_the_digest_of_a_source_is_verified(tmp_path: Path) -> None:
    source = tmp_path / "a.raw"
    source.write_bytes(b"x" * 1_000_000)
    right = hashlib.sha256(source.read_bytes()).hexdigest()
    diskimg.convert(source, tmp_path / "b.qcow2", sha256=right)
    with pytest.raises(diskimg.CorruptError, match=right):
        diskimg.convert(source, tmp_path / "c.qcow2", sha256="0" * 64)
    assert not (tmp_path / "c.qcow2").exists()


@pytest.mark.parametrize("format", ["raw", "qcow2", "vmdk", "ova"])
def test_an_output_is_verified_and_its_digests_are_reported(
    tmp_path: Path, format: diskimg.types.Format
) -> None:
    disk = bytes(range(256)) * 4096
    (tmp_path / "a.raw").write_bytes(disk)
    target = tmp_path / f"b.{format}"
    report = diskimg.convert(
        tmp_path / "a.raw", target, format=format, verify=True, digest="sha256"
    )
    assert report.verified
    assert report.digests is not None
    (file,) = report.digests.files
    assert report.digests.guest == hashlib.sha256(disk).hexdigest()
    assert (file.path, file.digest) == (
        str(target),
        hashlib.sha256(target.read_bytes()).hexdigest(),
    )
    assert report.to_dict()["digests"]["algorithm"] == "sha256"


def test_an_output_that_cannot_be_read_again_is_not_verified(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(b"abc")
    with pytest.raises(OSError, match="cannot be read again"):
        diskimg.convert(tmp_path / "a.raw", io.BytesIO(), verify=True)
    report = diskimg.convert(tmp_path / "a.raw", io.BytesIO(), digest="blake3")
    assert not report.verified
    assert report.digests is not None and report.digests.files == ()
    with pytest.raises(ValueError, match="sha256, blake3"):
        diskimg.convert(tmp_path / "a.raw", io.BytesIO(), digest="md5")  # type: ignore[arg-type]


def test_an_existing_qcow2_keeps_its_bytes_beyond_the_source(tmp_path: Path) -> None:
    source, out = tmp_path / "a.raw", tmp_path / "b.qcow2"
    source.write_bytes(b"\1" * 5000)
    diskimg.create(out, "1M")
    report = diskimg.convert(source, out, src_format="raw", format="qcow2", in_place=True)
    assert report.guest_bytes == 5000
    before = out.stat().st_ino
    source.write_bytes(b"\2" * 512)
    diskimg.convert(source, out, src_format="raw", format="qcow2", in_place=True)
    assert out.stat().st_ino == before
    with diskimg.open(out) as image:
        assert image.read_at(0, 5120) == b"\2" * 512 + b"\1" * (5000 - 512) + bytes(120)


def test_a_file_that_cannot_be_replaced_is_overwritten(raw: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "b.qcow2", tmp_path / "c.qcow2"
    out.write_bytes(b"old")
    other.hardlink_to(out)
    report = diskimg.convert(raw, out, src_format="raw", format="qcow2")
    assert len(report.notes) == 1 and "hard links" in report.notes[0]
    assert report.to_dict()["notes"] == list(report.notes)
    assert diskimg.compare(out, other)
    assert len(diskimg.create(other, "1M").notes) == 1


@pytest.mark.parametrize("format", ["raw", "qcow2", "vmdk", "ova"])
def test_an_output_has_a_maximum_size(tmp_path: Path, format: diskimg.types.Format) -> None:
    source, out = tmp_path / "a.raw", tmp_path / "b"
    source.write_bytes(bytes(range(256)) * 4096)
    with pytest.raises(diskimg.LimitError, match="max_size= raises the limit"):
        diskimg.convert(source, out, src_format="raw", format=format, reflink="never", max_size=100)
    assert not out.exists()
    diskimg.convert(source, out, src_format="raw", format=format, max_size=4 << 20)
    with pytest.raises(diskimg.LimitError):
        diskimg.create(
            tmp_path / "c", "2M", format="raw", options={"preallocation": "full"}, max_size=1 << 20
        )


def test_a_check_lists_a_limited_number_of_findings(tmp_path: Path) -> None:
    path = tmp_path / "a.qcow2"
    diskimg.create(path, "1M")
    image = bytearray(path.read_bytes())
    # Leaks: refcounts of clusters that nothing refers to.
    block = int.from_bytes(image[65536:65544], "big")
    image[block + 100 : block + 120] = bytes([0, 1]) * 10
    image.extend(bytes(65536 * 60 - len(image)))
    path.write_bytes(image)
    report = diskimg.check(path, limits={"check_findings": 3})
    assert (report.leaks, len(report.findings), report.omitted_findings) == (10, 3, 7)
    assert report.to_dict()["omitted-findings"] == 7
    assert diskimg.check(path).omitted_findings == 0


def test_a_part_of_a_disk_is_converted(tmp_path: Path) -> None:
    source, out = tmp_path / "a.raw", tmp_path / "b.qcow2"
    contents = bytes(range(256)) * 4096
    source.write_bytes(contents)
    report = diskimg.convert(source, out, src_format="raw", part=(1000, 5000))
    assert report.guest_bytes >= 5000
    with diskimg.open(out) as image:
        assert bytes(image.read_at(0, 5000)) == contents[1000:6000]
    with pytest.raises(diskimg.Error, match="part of the disk"):
        diskimg.convert(source, tmp_path / "c.raw", src_format="raw", part=(1 << 20, 1))
    for part in [(-1, 5), (5, -1)]:
        with pytest.raises(diskimg.InvalidError, match="part needs"):
            diskimg.convert(source, tmp_path / "c.raw", part=part)
    with pytest.raises(diskimg.InvalidError, match="one source"):
        diskimg.convert([source, source], tmp_path / "c.raw", part=(0, 5))
    assert not (tmp_path / "c.raw").exists()
