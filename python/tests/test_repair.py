"""Repairing in place."""

from pathlib import Path

import diskimg
import pytest
from tools import qemu_img

MIB = 1 << 20


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A qcow2 image whose first refcounts are 0 and which has a leaked cluster."""
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "1M")
    image = bytearray(path.read_bytes())
    table = int.from_bytes(image[48:56])
    block = int.from_bytes(image[table : table + 8])
    image[block : block + 4] = bytes(4)
    image[block + 20 : block + 22] = b"\0\1"
    path.write_bytes(image + bytes(11 * 65536 - len(image)))
    return path


def test_damage_is_repaired_and_the_result_is_that_of_a_second_check(damaged: Path) -> None:
    before = diskimg.check(damaged)
    assert (before.corruptions, before.leaks) == (2, 1)
    report = diskimg.check(damaged, "qcow2", repair="leaks")
    assert (report.corruptions, report.leaks, report.leaks_fixed) == (2, 0, 1)
    assert [finding.code for finding in report.findings] == ["corruption"] * 2
    saved = damaged.with_name("saved")
    report = diskimg.check(damaged, "qcow2", repair="all", backup=saved)
    assert saved.read_bytes().startswith(b"diskimg backup 1")
    assert report.clean and report.corruptions_fixed == 2 and not report.findings
    assert report.to_dict()["corruptions-fixed"] == 2
    qemu_img("check", "-q", damaged)
    again = diskimg.check(damaged, repair="all")
    assert again.clean and again.corruptions_fixed == 0


def test_formats_that_cannot_be_repaired_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(MIB))
    with pytest.raises(diskimg.UnsupportedError, match="cannot be repaired") as raised:
        diskimg.check(path, "raw", repair="all")
    assert raised.value.path == str(path)
    with pytest.raises(ValueError, match="repair"):
        diskimg.check(path, "raw", repair="some")  # type: ignore[arg-type]
