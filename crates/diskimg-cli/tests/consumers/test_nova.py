"""Nova's functions."""

from __future__ import annotations

import os

import pytest
from conftest import SIZE, Lab
from nova import config, exception
from nova.privsep import qemu as privsep
from nova.virt import images
from nova.virt.disk import api
from nova.virt.image import model
from nova.virt.libvirt import driver, utils

config.parse_args([], default_config_files=[])


def test_info(lab: Lab) -> None:
    found = images.qemu_img_info(lab("base.qcow2"))
    assert (found.file_format, found.virtual_size, found.cluster_size) == (
        "qcow2",
        SIZE,
        65536,
    )
    assert found.backing_file is None
    assert utils.get_disk_size(lab("base.raw"), "raw") == SIZE
    with pytest.raises(exception.DiskNotFound):
        images.qemu_img_info(lab("missing"))
    (lab.path / "broken").write_bytes(b"QFI\xfb" + bytes(100))
    with pytest.raises(exception.InvalidDiskInfo):
        images.qemu_img_info(lab("broken"), "qcow2")


def test_create(lab: Lab) -> None:
    utils.create_image(lab("new.qcow2"), "qcow2", "1G")
    utils.create_image(lab("new.raw"), "raw", SIZE)
    assert '"virtual-size": 1073741824' in lab.qemu("info", "--output=json", "new.qcow2")
    assert os.path.getsize(lab("new.raw")) == SIZE
    utils.create_image(lab("overlay.qcow2"), "qcow2", 2 * SIZE, lab("base.qcow2"))
    assert utils.get_disk_backing_file(lab("overlay.qcow2")) == "base.qcow2"
    assert lab.read("overlay.qcow2") == lab.content + bytes(SIZE)


def test_convert(lab: Lab) -> None:
    for compress in False, True:
        for source, target in ("raw", "qcow2"), ("qcow2", "raw"), ("qcow2", "qcow2"):
            name = f"{source}-{target}-{compress}"
            privsep.unprivileged_convert_image(
                lab(f"base.{source}"),
                lab(name),
                source,
                target,
                str(lab.path),
                compress and target == "qcow2",
            )
            assert lab.read(name, target) == lab.content
    utils.extract_snapshot(lab("base.qcow2"), "qcow2", lab("snapshot.raw"), "raw")
    assert (lab.path / "snapshot.raw").read_bytes() == lab.content
    with pytest.raises(exception.ImageUnacceptable):
        images.convert_image(lab("missing"), lab("x"), "raw", "qcow2")


def test_resize(lab: Lab) -> None:
    for format in model.FORMAT_RAW, model.FORMAT_QCOW2:
        name = f"base.{format}"
        api.extend(model.LocalFileImage(lab(name), format), 2 * SIZE)
        assert lab.read(name, format) == lab.content + bytes(SIZE)
        # It is not made smaller.
        api.extend(model.LocalFileImage(lab(name), format), SIZE)
        assert api.get_disk_size(lab(name)) == 2 * SIZE


def test_rebase(lab: Lab) -> None:
    lab.qemu("create", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "overlay.qcow2")
    lab.qemu("create", "-f", "qcow2", "other.qcow2", str(SIZE))
    rebase = driver.LibvirtDriver._rebase_with_qemu_img
    rebase(lab("overlay.qcow2"), "other.qcow2")
    assert utils.get_disk_backing_file(lab("overlay.qcow2")) == "other.qcow2"
    assert lab.read("overlay.qcow2") == lab.content
    rebase(lab("overlay.qcow2"), lab("base.qcow2"))
    rebase(lab("overlay.qcow2"), None)
    assert utils.get_disk_backing_file(lab("overlay.qcow2")) is None
    assert lab.read("overlay.qcow2") == lab.content
