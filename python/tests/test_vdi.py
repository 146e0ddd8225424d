"""Tests of VDI parents, which are found by their UUIDs."""

from __future__ import annotations

from pathlib import Path

import diskimg
import pytest


def test_possible_parents_are_searched(tmp_path: Path) -> None:
    raw, base = tmp_path / "a.raw", tmp_path / "base.vdi"
    child, far = tmp_path / "child.vdi", tmp_path / "x" / "child.vdi"
    raw.write_bytes(b"data" * 300_000)
    diskimg.convert(raw, base)
    diskimg.convert(raw, child, backing="base.vdi", backing_format="vdi")
    far.parent.mkdir()
    child.rename(far)
    with pytest.raises(diskimg.InvalidError, match="whose parent has the UUID"):
        diskimg.open(far)
    with diskimg.open(far, possible_parents=[raw, str(base)]) as image:
        assert image.read_at(0, 8) == b"datadata"
    out = tmp_path / "out.raw"
    diskimg.convert(far, out, possible_parents=[base])
    assert out.read_bytes()[:1_200_000] == raw.read_bytes()
