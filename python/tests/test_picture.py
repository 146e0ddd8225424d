"""Maps of images, as pages and in notebooks."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import diskimg
import pytest
from tools import qemu_img


def data_of(page: str) -> dict[str, object]:
    """Return the data in a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found
    data: dict[str, object] = json.loads(found[1])
    return data


def test_the_page_agrees_with_the_extents(make: Callable[..., Path]) -> None:
    path = make("qcow2", "-c")
    with diskimg.open(path) as image:
        calls: list[tuple[int, int]] = []
        page = image.map_html(progress=lambda done, total: calls.append((done, total)))
        compressed = sum(e.length for e in image.extents() if e.compressed)
    data = data_of(page)
    assert page.startswith("<!DOCTYPE html>")
    assert data["totals"]["compressed"] == compressed > 0  # type: ignore[index]
    assert data["check"] is not None
    assert calls[-1][0] == calls[-1][1]


def test_the_check_is_optional(make: Callable[..., Path]) -> None:
    with diskimg.open(make("qcow2")) as image:
        assert data_of(image.map_html(check=False))["check"] is None


def test_the_page_is_that_of_the_command(make: Callable[..., Path], tmp_path: Path) -> None:
    path = make("vmdk")
    page = tmp_path / "p.html"
    command = [sys.executable, "-m", "diskimg", "map", "--html", str(page), str(path)]
    subprocess.run(command, check=True)
    with diskimg.open(path) as image:
        assert image.map_html() == page.read_text(encoding="utf-8")


def test_notebooks_show_a_strip(make: Callable[..., Path], tmp_path: Path) -> None:
    hostile = tmp_path / "a<img src=x onerror=alert(1)>.qcow2"
    make("qcow2").rename(hostile)
    with diskimg.open(hostile, "qcow2") as image:
        shown = image._repr_html_()
    assert "<svg" in shown and "<img" not in shown and "<script" not in shown
    assert "a&lt;img" in shown and len(shown.encode()) < 20_000
    assert "&lt;closed" in image._repr_html_()


def test_notebooks_show_text_if_the_map_cannot_be_read(
    make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make("qcow2")
    with diskimg.open(path) as image:
        monkeypatch.setattr("diskimg._image._SUMMARY_SECONDS", 0.0)
        assert image._repr_html_().startswith("<code>&lt;diskimg.Image")
    with diskimg.open(path) as image, pytest.raises(TypeError):
        image.map_html(progress=3)  # type: ignore[arg-type]


def test_an_image_from_a_file_object_has_a_page(make: Callable[..., Path]) -> None:
    path = make("qcow2")
    qemu_img("check", path)
    with path.open("rb") as file, diskimg.open(file, "qcow2") as image:
        assert data_of(image.map_html())["format"] == "qcow2"
