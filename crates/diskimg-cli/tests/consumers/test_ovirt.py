"""The functions of oVirt's ovirt-imageio."""

from __future__ import annotations

import json
import subprocess

import pytest
from conftest import SIZE, Lab
from ovirt_imageio._internal import qemu_img


def test_all_functions(lab: Lab) -> None:
    qemu_img.create(lab("a.qcow2"), "qcow2", size=SIZE, quiet=True)
    qemu_img.create(lab("top.qcow2"), "qcow2", backing_file="base.qcow2", backing_format="qcow2")
    assert qemu_img.info(lab("top.qcow2"))["backing-filename"] == "base.qcow2"
    qemu_img.convert(lab("top.qcow2"), lab("flat.raw"), "qcow2", "raw", progress=True)
    assert (lab.path / "flat.raw").read_bytes() == lab.content
    qemu_img.convert(lab("flat.raw"), lab("small.qcow2"), "raw", "qcow2", compressed=True)
    real = json.loads(lab.qemu("measure", "--output=json", "-O", "qcow2", "top.qcow2"))
    assert qemu_img.measure(lab("top.qcow2"), "qcow2") == real
    qemu_img.compare(lab("small.qcow2"), lab("base.raw"), "qcow2", "raw")
    with pytest.raises(qemu_img.ContentMismatch):
        qemu_img.compare(lab("small.qcow2"), lab("a.qcow2"))
    with pytest.raises(qemu_img.OpenImageError):
        qemu_img.compare(lab("base.raw"), lab("a.qcow2"), format1="qcow2")
    qemu_img.unsafe_rebase(lab("top.qcow2"), "small.qcow2", "qcow2")
    assert lab.read("top.qcow2") == lab.content


def test_bitmaps(lab: Lab) -> None:
    for name in "b0", "b1":
        qemu_img.bitmap_add(lab("base.qcow2"), name)
    found = json.loads(lab.qemu("info", "--output=json", "base.qcow2"))
    bitmaps = found["format-specific"]["data"]["bitmaps"]
    assert [bitmap["name"] for bitmap in bitmaps] == ["b0", "b1"]
    with pytest.raises(subprocess.CalledProcessError):
        qemu_img.bitmap_add(lab("base.qcow2"), "b0")
