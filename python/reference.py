"""Writes the API reference, docs/python-api.md, from the docstrings: ``python reference.py``.

It reads the source of the package, which need not be installed: signatures are printed as they
are written, and the texts after fields and constants are found. ``tests/test_reference.py``
compares the result with the file.
"""

from __future__ import annotations

import ast
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
LIBRARY = PACKAGE / "lib"
OUTPUT = PACKAGE.parent / "docs/python-api.md"

MODULES = ("diskimg", "diskimg.iso", "diskimg.aio", "diskimg.fsspec", "diskimg.types")

INTRODUCTION = """\
# Python API reference

<!-- Generated from the docstrings by python/reference.py. -->

The [guide](python.md) explains the package. The examples here run in an empty directory, after:

```python
import asyncio, hashlib, io
from pathlib import Path

import diskimg
from diskimg import aio, fsspec, iso
```
"""

WIDTH = 96
"""Longest signature in one line."""

_SECTION = re.compile(r"^(Args|Raises|Returns|Yields):$")


@dataclass
class Module:
    """A module of the package."""

    name: str
    tree: ast.Module
    is_package: bool

    @classmethod
    def load(cls, name: str) -> Module:
        """Parse a module."""
        base = LIBRARY.joinpath(*name.split("."))
        path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        return cls(name, ast.parse(path.read_text()), base.is_dir())

    def public(self) -> list[str]:
        """Return the public names: those of ``__all__``, or all that are defined."""
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                return [str(name) for name in ast.literal_eval(node.value)]
        return [name for node in self.tree.body for name in _defined(node) if name[0] != "_"]

    def find(self, name: str) -> tuple[Module, list[ast.stmt]]:
        """Return the statements that define a name, with the text that follows them."""
        body = self.tree.body
        for at, node in enumerate(body):
            if name in _defined(node):
                return self, [node, *body[at + 1 : at + 2]]
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("diskimg"):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return Module.load(str(node.module)).find(alias.name)
        raise LookupError(f"{self.name}.{name}")


def _defined(node: ast.stmt) -> list[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            overloaded = any(ast.unparse(one) == "overload" for one in node.decorator_list)
            return [] if overloaded else [node.name]
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return []


def _docstring(node: ast.stmt | ast.Module) -> str:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
        return ast.get_docstring(node) or ""
    return ""


def _text_after(nodes: list[ast.stmt]) -> str:
    """Return the text below a field or constant."""
    match nodes:
        case [_, ast.Expr(value=ast.Constant(value=str(text)))]:
            return textwrap.dedent(text).strip()
    return ""


def markdown(doc: str) -> str:
    """Convert a docstring to Markdown."""
    out: list[str] = []
    lines = doc.split("\n")
    at = 0
    while at < len(lines):
        line = lines[at]
        if line.startswith(">>>"):
            block = []
            while at < len(lines) and lines[at].strip():
                block.append(lines[at])
                at += 1
            out += ["```pycon", *block, "```"]
            continue
        if line.endswith("::"):
            block = []
            at += 1
            while at < len(lines) and (not lines[at].strip() or lines[at].startswith(" ")):
                block.append(lines[at])
                at += 1
            text = textwrap.dedent("\n".join(block)).strip("\n")
            out += [line.removesuffix("::"), "", "```text", text, "```", ""]
            continue
        if _SECTION.match(line):
            block = []
            at += 1
            while at < len(lines) and (not lines[at].strip() or lines[at].startswith(" ")):
                block.append(lines[at])
                at += 1
            out += _section(line.removesuffix(":"), textwrap.dedent("\n".join(block)))
            continue
        out.append(_inline(line))
        at += 1
    return "\n".join(out).strip()


def _section(title: str, text: str) -> list[str]:
    names = {"Args": "Arguments", "Raises": "Exceptions", "Yields": "Provides"}
    out = [f"*{names.get(title, title)}:*", ""]
    if title in ("Returns", "Yields"):
        return [out[0] + " " + _inline(" ".join(text.split())), ""]
    for item in re.split(r"\n(?=\S)", text.strip()):
        name, _, about = item.partition(": ")
        code = ", ".join(f"`{one}`" for one in name.split(", "))
        out += [_item(f"{code}: {_inline(' '.join(about.split()))}")]
    return [*out, ""]


def _item(text: str) -> str:
    """Return an item of a list, in lines of at most 100 columns."""
    return textwrap.fill(
        text,
        100,
        initial_indent="* ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _inline(text: str) -> str:
    text = re.sub(r"`([^`<>]+) <(https://[^>]+)>`_", r"[\1](\2)", text)
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    return text


def _parameters(arguments: ast.arguments, skip_self: bool) -> list[str]:
    """Return the parameters as they are written."""
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(plain) - len(arguments.defaults))
    written = [
        _parameter(one, default)
        for one, default in zip(plain, [*defaults, *arguments.defaults], strict=True)
    ]
    if arguments.posonlyargs:
        written.insert(len(arguments.posonlyargs), "/")
    if skip_self:
        written = written[1:]
    if written[:1] == ["/"]:
        written = written[1:]
    if arguments.vararg:
        written.append("*" + _parameter(arguments.vararg, None))
    elif arguments.kwonlyargs:
        written.append("*")
    written += map(_parameter, arguments.kwonlyargs, arguments.kw_defaults)
    if arguments.kwarg:
        written.append("**" + _parameter(arguments.kwarg, None))
    return written


def _parameter(one: ast.arg, default: ast.expr | None) -> str:
    annotation = f": {ast.unparse(one.annotation)}" if one.annotation else ""
    if default is None:
        return one.arg + annotation
    return f"{one.arg}{annotation}{' = ' if annotation else '='}{ast.unparse(default)}"


def _signature(name: str, node: ast.FunctionDef | ast.AsyncFunctionDef, method: bool) -> str:
    prefix = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{prefix}{_call(name, _parameters(node.args, method), returns)}"


def _call(name: str, parameters: list[str], returns: str) -> str:
    line = f"{name}({', '.join(parameters)}){returns}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {one}," for one in parameters), f"){returns}"])


def _code(text: str) -> list[str]:
    return ["```python", text, "```", ""]


def _class(name: str, node: ast.ClassDef) -> list[str]:
    bases = [ast.unparse(base) for base in node.bases]
    decorated = [ast.unparse(one) for one in node.decorator_list]
    is_data = any(one.startswith("dataclass") for one in decorated)
    shown = [base for base in bases if base.split("[")[0] not in ("Protocol",)]
    out = _code(f"class {name}({', '.join(shown)})" if shown else f"class {name}")
    out += [markdown(_docstring(node)), ""]
    fields: list[str] = []
    members: list[str] = []
    for at, member in enumerate(node.body):
        match member:
            case ast.AnnAssign(target=ast.Name(id=field)) if not field.startswith("_"):
                text = " ".join(_inline(_text_after(node.body[at : at + 2])).split())
                default = f" = {ast.unparse(member.value)}" if member.value and is_data else ""
                default = re.sub(r" = field\(default=([^,)]+\)?).*", r" = \1", default)
                default = "" if "field(" in default else default
                fields.append(
                    _item(f"`{field}: {ast.unparse(member.annotation)}{default}`: {text}")
                )
            case ast.FunctionDef() | ast.AsyncFunctionDef() if not member.name.startswith("_"):
                members += _member(member)
            case ast.Assign(targets=[ast.Name(id=method)], value=ast.Call() as call):
                if ast.unparse(call.func) == "_method":
                    operation = ast.unparse(call.args[0]).split(".")[-1]
                    members += [f"* `{method}(…)`: as `diskimg.{operation}`."]
    if fields:
        out += ["*Fields:*", "", *fields, ""]
    return out + members + ([""] if members else [])


def _member(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    decorators = [ast.unparse(one) for one in node.decorator_list]
    if "overload" in decorators:
        return []
    body = markdown(_docstring(node))
    if "property" in decorators:
        returns = ast.unparse(node.returns) if node.returns else "Any"
        return [f"**`{node.name}: {returns}`** (property)", "", body, ""]
    return [*_code(_signature(node.name, node, True)), body, ""]


def _entry(module: Module, name: str) -> list[str]:
    owner, nodes = module.find(name)
    node = nodes[0]
    out = [f"### {module.name}.{name}", ""]
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return [*out, *_code(_signature(name, node, False)), markdown(_docstring(node)), ""]
        case ast.ClassDef():
            return [*out, *_class(name, node)]
        case ast.Assign(value=ast.Call() as call) if ast.unparse(call.func) in (
            "_asynchronous",
            "_opening",
        ):
            how = "returns an `Opening`" if name == "open" else "is a coroutine function"
            return [*out, f"As [`diskimg.{name}`](#diskimg{name}), but {how}.", ""]
        case ast.AnnAssign(value=value) if ast.unparse(node.annotation) == "TypeAlias":
            assert value is not None
            text = f"{name} = {ast.unparse(value)}"
            if len(text) > WIDTH and isinstance(value, ast.Subscript):
                words = ast.unparse(value.slice).strip("()").split(", ")
                text = _call(name, words, "").replace("(", " = Literal[", 1).rstrip(")") + "]"
            return [*out, *_code(text), _inline(_text_after(nodes)), ""]
        case ast.AnnAssign():
            shown = f"{name}: {ast.unparse(node.annotation)}"
            return [*out, *_code(shown), _inline(_text_after(nodes)), ""]
        case ast.Assign(value=value):
            return [*out, *_code(f"{name} = {ast.unparse(value)}"), _inline(_text_after(nodes)), ""]
    raise TypeError(f"{owner.name}.{name}: {ast.dump(node)[:60]}")


def reference() -> str:
    """Return the reference as Markdown."""
    out = [INTRODUCTION]
    for module in map(Module.load, MODULES):
        out += [f"## {module.name}", "", markdown(_docstring(module.tree)), ""]
        names = [name for name in module.public() if not name.startswith("__")]
        for name in sorted(names, key=lambda name: (_rank(module, name), name.lower())):
            out += _entry(module, name)
    text = "\n".join(out)
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def _rank(module: Module, name: str) -> int:
    """Functions come first, then classes, constants, and exceptions."""
    node = module.find(name)[1][0]
    if isinstance(node, ast.ClassDef):
        return 3 if name.endswith("Error") else 1
    called = isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
    return 0 if called or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else 2


if __name__ == "__main__":
    OUTPUT.write_text(reference())
