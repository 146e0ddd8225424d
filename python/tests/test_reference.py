"""The API reference, docs/python-api.md."""

import re
import runpy

import diskimg
import pytest

from examples import PACKAGE


@pytest.fixture(scope="module")
def generator() -> dict[str, object]:
    return runpy.run_path(str(PACKAGE / "reference.py"))


def test_the_reference_is_current(generator: dict[str, object]) -> None:
    current = generator["reference"]()  # type: ignore[operator]
    # Repaired by `python python/reference.py`.
    assert generator["OUTPUT"].read_text() == current  # type: ignore[attr-defined]


def test_the_reference_has_every_public_name_and_no_markup_of_docstrings(
    generator: dict[str, object],
) -> None:
    text: str = generator["OUTPUT"].read_text()  # type: ignore[attr-defined]
    for name in diskimg.__all__:
        assert name.startswith("__") or f"\n### diskimg.{name}\n" in text
    for parts in re.split(r"^```", text, flags=re.MULTILINE)[::2]:
        assert "``" not in parts and ">>>" not in parts
    assert len(re.findall(r"^### ", text, re.MULTILINE)) > 100
