"""Docstrings: every public name has one, with an example that runs."""

import ast
import doctest
import importlib
import inspect
import io
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import diskimg
import pytest

PUBLIC = ("diskimg", "diskimg.aio", "diskimg.fsspec", "diskimg.iso", "diskimg.types")

WRAPPED = "diskimg.aio"
"""The module whose functions have the docstrings of the functions that they call."""


def public() -> Iterator[tuple[str, Any]]:
    """Return the public classes and functions with their names."""
    for module in map(importlib.import_module, PUBLIC):
        names = getattr(module, "__all__", None) or [
            name for name in vars(module) if not name.startswith("_")
        ]
        for name in names:
            value = getattr(module, name)
            code = inspect.isclass(value) or inspect.isfunction(value)
            if code and value.__module__.startswith("diskimg"):
                yield f"{module.__name__}.{name}", value


def examples(docstring: str) -> list[doctest.Example]:
    return doctest.DocTestParser().get_examples(docstring)


def test_every_public_class_and_function_has_a_docstring_with_an_example() -> None:
    seen = 0
    for name, value in public():
        seen += 1
        doc = inspect.getdoc(value)
        assert doc and vars(value).get("__doc__", doc), name
        assert examples(doc), f"{name} has no example"
    assert seen > 80


def test_every_public_method_property_and_field_has_a_docstring() -> None:
    for name, value in public():
        if not inspect.isclass(value):
            continue
        for member, what in vars(value).items():
            documented = inspect.isfunction(what) or isinstance(
                what, property | classmethod | staticmethod
            )
            if documented and not member.startswith("_"):
                assert inspect.getdoc(what), f"{name}.{member}"
    for module in modules():
        tree = ast.parse(Path(str(module.__file__)).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name in vars(diskimg):
                for field, after in zip(node.body, [*node.body[1:], None], strict=True):
                    if not isinstance(field, ast.AnnAssign):
                        continue
                    name = ast.unparse(field.target)
                    text = isinstance(after, ast.Expr) and ast.literal_eval(after.value)
                    assert text or name.startswith("_"), f"{node.name}.{name}"


def test_every_function_explains_its_arguments() -> None:
    for name, value in public():
        if inspect.isfunction(value):
            doc = inspect.getdoc(value) or ""
            parameters = inspect.signature(value).parameters.values()
            named = [
                one.name
                for one in parameters
                if one.kind.name not in ("VAR_POSITIONAL", "VAR_KEYWORD")
            ]
            if len(named) > 1:
                for parameter in named:
                    assert f"``{parameter}``" in doc or f"    {parameter}: " in doc, (
                        name,
                        parameter,
                    )


def modules() -> Iterator[ModuleType]:
    yield diskimg
    for found in pkgutil.walk_packages(diskimg.__path__, "diskimg."):
        if found.name not in ("diskimg._native", "diskimg.__main__"):
            yield importlib.import_module(found.name)


def documented() -> Iterator[tuple[str, str]]:
    """Return the docstrings with examples of all modules, with their names."""
    seen = set()
    for module in modules():
        tree = ast.parse(Path(str(module.__file__)).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                doc = ast.get_docstring(node)
                name = f"{module.__name__}.{getattr(node, 'name', '')}".rstrip(".")
                if doc and examples(doc) and doc not in seen:
                    seen.add(doc)
                    yield name, doc


@pytest.mark.parametrize(("name", "doc"), list(documented()), ids=lambda text: text.split("\n")[0])
def test_the_examples_run(
    name: str, doc: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"Path": Path, "__name__": "__main__"}
    exec("import asyncio, hashlib, io\nimport diskimg\nfrom diskimg import aio, fsspec, iso", names)
    test = doctest.DocTestParser().get_doctest(doc, names, name, name, 0)
    out = io.StringIO()
    failed, tried = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=out.write)
    assert tried and not failed, out.getvalue()
