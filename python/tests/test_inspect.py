"""Inspection of untrusted images."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import diskimg
import pytest
from hypothesis import given
from hypothesis import strategies as st


def codes(found: diskimg.Inspection) -> list[str]:
    return [finding.code for finding in found.findings if finding.severity == "error"]


def test_a_plain_image_is_safe(make: Callable[..., Path]) -> None:
    for format in ("qcow2", "vmdk"):
        path = make(format)
        found = diskimg.inspect(path, format=format)
        assert found and found.safe and found.verdict == "safe"
        assert (found.format, found.claimed_format) == (format, format)
        assert found.virtual_size == diskimg.info(path).virtual_size
        assert found.file_size == path.stat().st_size
        assert found.references == ()


def test_names_file_objects_and_bytes_are_inspected_alike(make: Callable[..., Path]) -> None:
    path = make("qcow2")
    by_name = diskimg.inspect(path).to_dict()
    assert by_name["filename"] == str(path)
    with path.open("rb") as file:
        assert diskimg.inspect(file).to_dict() == by_name
    data = path.read_bytes()
    for given_bytes in (data, bytearray(data), memoryview(data), io.BytesIO(data)):
        found = diskimg.inspect(given_bytes).to_dict()
        changing = {"filename", "actual-size"}
        assert {k: v for k, v in found.items() if k not in changing} == {
            k: v for k, v in by_name.items() if k not in changing
        }
    with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as cat:
        assert cat.stdout is not None
        assert diskimg.inspect(cat.stdout).format == "qcow2"


def test_a_backing_file_is_reported_and_not_opened(tmp_path: Path, raw: Path) -> None:
    overlay = tmp_path / "overlay.qcow2"
    diskimg.create(overlay, format="qcow2", backing=raw, backing_format="raw")
    raw.unlink()
    found = diskimg.inspect(overlay)
    assert not found
    assert codes(found) == ["backing-file"]
    assert found.references == (diskimg.Reference("backing-file", str(raw), "raw"),)
    assert found.findings[0].offset == 8
    allowed = diskimg.inspect(overlay, allow=["backing-file"])
    assert allowed.safe
    assert allowed.findings[0].severity == "warning"


def test_the_claimed_format_and_the_size_limits_are_checked(make: Callable[..., Path]) -> None:
    path = make("qcow2")
    size = diskimg.info(path).virtual_size
    assert codes(diskimg.inspect(path, format="raw")) == ["format-mismatch"]
    assert codes(diskimg.inspect(path, max_size=10)) == ["file-too-large"]
    assert codes(diskimg.inspect(path, max_virtual_size=size - 1)) == ["disk-too-large"]
    assert diskimg.inspect(path, max_virtual_size=size, max_ratio=1 << 40)
    assert codes(diskimg.inspect(path, limits={"table_bytes": 1})) == ["unreadable"]
    assert codes(diskimg.inspect(b"MSWIM\0\0\0" + bytes(600))) == ["format-not-read"]


def test_invalid_arguments_are_errors(tmp_path: Path) -> None:
    with pytest.raises(diskimg.InvalidError):
        diskimg.inspect(b"", format="nonsense")
    with pytest.raises(diskimg.InvalidError):
        diskimg.inspect(b"", allow=cast(Any, ["nonsense"]))
    with pytest.raises(TypeError):
        diskimg.inspect(b"", allow=cast(Any, "backing-file"))
    with pytest.raises(ValueError):
        diskimg.inspect(b"", max_size=-1)
    with pytest.raises(FileNotFoundError):
        diskimg.inspect(tmp_path / "missing")


@given(st.binary(max_size=1100), st.sampled_from([b"", b"QFI\xfb\0\0\0\3", b"KDMV", b"LUKS"]))
def test_any_bytes_get_a_verdict(data: bytes, start: bytes) -> None:
    found = diskimg.inspect(start + data)
    assert found.safe == (not codes(found))


def test_the_command_returns_the_same_result(make: Callable[..., Path]) -> None:
    path = make("vmdk")
    arguments = ["inspect", "--output=json", "-f", "qcow2", str(path)]
    command = [sys.executable, "-m", "diskimg", *arguments]
    ran = subprocess.run(command, capture_output=True, check=False)
    assert ran.returncode == 2
    assert json.loads(ran.stdout) == diskimg.inspect(path, format="qcow2").to_dict()
