"""Cinder's functions."""

from __future__ import annotations

from unittest import mock

import pytest
from cinder import utils
from cinder.image import image_utils
from cinder.privsep import format_inspector
from cinder.volume.drivers import remotefs
from conftest import SIZE, Lab
from oslo_concurrency import processutils
from oslo_privsep import priv_context

GIB = 1 << 30


@pytest.fixture(autouse=True)
def unprivileged() -> None:
    """Run privileged functions in this process, and commands without rootwrap."""
    for context in vars(__import__("cinder.privsep", fromlist=["x"])).values():
        if isinstance(context, priv_context.PrivContext):
            context.set_client_mode(False)


@pytest.fixture
def driver(lab: Lab) -> mock.Mock:
    """What the methods of the driver for files need of it."""
    driver = mock.Mock(_execute_as_root=False)
    driver._execute = utils.execute
    driver._delete = lambda path: None
    return driver


def test_info_and_version(lab: Lab) -> None:
    assert image_utils.get_qemu_img_version() >= [10, 0]
    found = image_utils.qemu_img_info(lab("base.qcow2"))
    assert (found.file_format, found.virtual_size) == ("qcow2", SIZE)
    assert image_utils.qemu_img_info(lab("base.raw")).file_format == "raw"
    assert (
        format_inspector.get_format_if_safe(path=lab("base.qcow2"), allow_qcow2_backing_file=False)
        == "qcow2"
    )


@pytest.mark.parametrize("format", ["raw", "qcow2", "vmdk", "vhd", "vdi", "vhdx"])
def test_convert(lab: Lab, format: str) -> None:
    name = f"converted.{format}"
    image_utils.convert_image(
        lab("base.qcow2"), lab(name), format, src_format="qcow2", compress=True
    )
    read = lab.read(name, "vpc" if format == "vhd" else format)
    assert read[: len(lab.content)] == lab.content
    assert not any(read[len(lab.content) :])


def test_resize(lab: Lab) -> None:
    image_utils.resize_image(lab("base.qcow2"), 1)
    image_utils.resize_image(lab("base.raw"), 1, file_format="raw")
    assert f'"virtual-size": {GIB}' in lab.qemu("info", "--output=json", "base.qcow2")
    image_utils.resize_image(lab("base.qcow2"), 2)
    with pytest.raises(processutils.ProcessExecutionError, match="--shrink"):
        image_utils.resize_image(lab("base.qcow2"), 1)


def test_create(lab: Lab, driver: mock.Mock) -> None:
    remotefs.RemoteFSDriver._create_qcow2_file(driver, lab("volume"), 1)
    assert f'"virtual-size": {GIB}' in lab.qemu("info", "--output=json", "volume")
    lab.qemu("check", "volume")


def test_snapshot_commit_and_rebase(lab: Lab, driver: mock.Mock) -> None:
    """The steps of taking and deleting a snapshot of a volume in a file."""
    methods = remotefs.RemoteFSSnapDriverBase
    snapshot = mock.Mock()
    snapshot.volume = mock.Mock(size=1, encryption_key_id=None)
    snapshot.volume.name = "volume"
    driver._local_volume_dir = lambda volume: str(lab.path)
    driver._qemu_img_info = lambda path, name: image_utils.qemu_img_info(path)
    methods._do_create_snapshot(driver, snapshot, "base.qcow2", lab("overlay.qcow2"))
    found = image_utils.qemu_img_info(lab("overlay.qcow2"), allow_qcow2_backing_file=True)
    assert (found.backing_file, found.virtual_size) == ("base.qcow2", GIB)
    assert lab.read("overlay.qcow2")[: len(lab.content)] == lab.content

    lab.qemu("create", "-f", "qcow2", "-b", "overlay.qcow2", "-F", "qcow2", "top.qcow2")
    methods._img_commit(driver, lab("overlay.qcow2"))
    assert f'"virtual-size": {GIB}' in lab.qemu("info", "-U", "--output=json", "base.qcow2")
    methods._rebase_img(driver, lab("top.qcow2"), "base.qcow2", "qcow2")
    found = image_utils.qemu_img_info(lab("top.qcow2"), allow_qcow2_backing_file=True)
    assert found.backing_file == "base.qcow2"
    assert lab.read("top.qcow2")[: len(lab.content)] == lab.content
