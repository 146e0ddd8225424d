"""Ironic's functions."""

from __future__ import annotations

import pytest
from conftest import Lab
from ironic.common import qemu_img, utils
from oslo_concurrency import processutils


@pytest.mark.parametrize("cache", [None, "directsync", "none"])
@pytest.mark.parametrize("sparse_size", [None, "0"])
def test_convert(
    lab: Lab,
    cache: str | None,
    sparse_size: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Within 1 GiB of address space, which is its default.
    monkeypatch.setattr(utils, "execute", _execute)
    qemu_img.convert_image(
        lab("base.qcow2"),
        lab("converted.raw"),
        "raw",
        cache=cache,
        out_of_order=True,
        sparse_size=sparse_size,
    )
    assert (lab.path / "converted.raw").read_bytes() == lab.content
    qemu_img.convert_image(lab("base.raw"), lab("again.qcow2"), "qcow2", source_format="raw")
    assert lab.read("again.qcow2") == lab.content


def _execute(*cmd: str, **options: object) -> tuple[str, str]:
    """Run a command as Ironic does, apart from rootwrap."""
    known = {"prlimit", "env_variables"}
    options = {name: value for name, value in options.items() if name in known}
    return processutils.execute(*cmd, **options)
