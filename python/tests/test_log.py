"""The logger ``diskimg``."""

import io
import logging
import subprocess
import sys
import threading
from pathlib import Path

import diskimg
import diskimg.iso
import pytest


def test_operations_are_logged_with_their_names_and_results(
    raw: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "diskimg")
    out = tmp_path / "out.qcow2"
    report = diskimg.convert(raw, out, src_format="raw")
    started, completed = caplog.records
    assert (started.name, started.levelno) == ("diskimg", logging.DEBUG)
    assert started.getMessage() == f"convert: {raw} -> {out}: started"
    assert completed.levelno == logging.INFO
    assert completed.getMessage().startswith(f"convert: {raw} -> {out}: completed in ")
    assert f"{report.stored_bytes} bytes stored of {report.guest_bytes}" in completed.getMessage()

    for what, call in {
        "create": lambda: diskimg.create(tmp_path / "new.qcow2", "1M"),
        "resize": lambda: diskimg.resize(tmp_path / "new.qcow2", "2M"),
        "rebase": lambda: diskimg.rebase(
            tmp_path / "new.qcow2", "out.qcow2", "qcow2", header_only=True
        ),
        "compare": lambda: diskimg.compare(raw, out, a_format="raw"),
        "check": lambda: diskimg.check(out),
        "iso.create": lambda: diskimg.iso.create(tmp_path / "a.iso", {"a": "b"}),
        "iso.remaster": lambda: diskimg.iso.remaster(
            tmp_path / "a.iso", {"c": "d"}, tmp_path / "b.iso"
        ),
        "iso.extract": lambda: diskimg.iso.open(tmp_path / "a.iso").extract(tmp_path / "x"),
    }.items():
        caplog.clear()
        call()  # type: ignore[no-untyped-call]
        levels = [record.levelno for record in caplog.records]
        assert levels == [logging.DEBUG, logging.INFO], what
        assert all(record.getMessage().startswith(f"{what}: ") for record in caplog.records)


def test_what_is_wrong_with_an_image_is_a_warning(
    images: Path, raw: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "diskimg")
    diskimg.inspect(images / "overlay.qcow2", format="qcow2")
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "overlay.qcow2: backing-file: " in record.getMessage()

    caplog.clear()
    stream = tmp_path / "stream.vmdk"
    diskimg.convert(raw, stream, src_format="raw", compress=True)
    stream.write_bytes(stream.read_bytes()[: stream.stat().st_size // 2])
    report = diskimg.convert(stream, tmp_path / "rest.raw", salvage=True)
    assert len(caplog.records) == len(report.salvaged) + len(report.warnings) > 0

    caplog.clear()
    leaky = tmp_path / "leaky.qcow2"
    diskimg.create(leaky, "1M")
    with leaky.open("ab") as file:
        file.write(bytes(1 << 16))
    with leaky.open("r+b") as file:
        file.seek(0x20000)  # the first refcount block: one more cluster is in use
        block = bytearray(file.read(512))
        used = next(at for at in range(0, 512, 2) if block[at : at + 2] == b"\0\0")
        file.seek(0x20000 + used)
        file.write(b"\0\1")
    findings = diskimg.check(leaky).findings
    assert (
        [record.getMessage() for record in caplog.records]
        == [f"check: {leaky}: {finding.message}" for finding in findings]
        != []
    )


def test_a_failed_operation_is_logged_once_and_raised(
    raw: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "diskimg")
    with pytest.raises(FileNotFoundError):
        diskimg.convert(tmp_path / "missing", tmp_path / "out")
    [record] = caplog.records
    assert record.levelno == logging.INFO and "NotFoundError after" in record.getMessage()


class Raising(logging.Handler):
    """A handler that fails."""

    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError(record.getMessage())


class Nested(logging.Handler):
    """A handler that uses the package."""

    def __init__(self, disk: Path) -> None:
        super().__init__()
        self.disk = disk
        self.sizes: list[int] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.sizes.append(diskimg.info(self.disk, "raw").virtual_size)


def test_a_handler_that_raises_or_uses_the_package_changes_no_operation(
    raw: Path, tmp_path: Path
) -> None:
    logger = logging.getLogger("diskimg")
    nested = Nested(raw)
    handlers = [Raising(), nested]
    logger.setLevel(logging.DEBUG)
    for handler in handlers:
        logger.addHandler(handler)
    try:
        threads = [
            threading.Thread(
                target=diskimg.convert,
                args=(raw, tmp_path / f"{number}.qcow2"),
                kwargs={"src_format": "raw"},
            )
            for number in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        for number in range(8):
            assert diskimg.compare(raw, tmp_path / f"{number}.qcow2", a_format="raw")
        logger.removeHandler(handlers[0])
        diskimg.create(tmp_path / "nested.qcow2", "1M")
        assert nested.sizes == [raw.stat().st_size] * len(nested.sizes) != []
    finally:
        logger.setLevel(logging.NOTSET)
        for handler in handlers:
            logger.removeHandler(handler)


def test_names_in_messages_are_short_and_printable(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "diskimg")
    diskimg.create(tmp_path / "a\x1b[31m\nb.qcow2", "1M")
    assert r"a\x1b[31m\nb.qcow2" in caplog.text
    diskimg.convert([io.BytesIO(bytes(512))] * 9, io.BytesIO(), src_format="raw")
    assert "convert: <BytesIO>, <BytesIO>, <BytesIO>, … -> <BytesIO>: " in caplog.text


def test_without_logging_nothing_is_printed_and_logging_is_not_imported(images: Path) -> None:
    script = """
import sys
before = set(sys.modules)
import diskimg
diskimg.inspect(sys.argv[1])
heavy = {"logging", "asyncio", "difflib", "fsspec", "tqdm"} & (set(sys.modules) - before)
assert not heavy, heavy
import logging
diskimg.inspect(sys.argv[1])
"""
    command = [sys.executable, "-c", script, str(images / "overlay.qcow2")]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    assert result.stdout + result.stderr == ""
