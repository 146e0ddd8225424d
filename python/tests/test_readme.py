"""The examples in the READMEs and the table of qemu-img commands."""

import ast
import re
import subprocess
from pathlib import Path

import diskimg
import pytest
from tools import TESTDATA

from examples import PACKAGE, PROJECT, prepare, run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the examples, with the files that they use."""
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_examples_in_the_packages_readme(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(PACKAGE / "README.md")
    output = capsys.readouterr().out
    assert "bytes stored for a disk of 8388608" in output
    assert "error: backing-file: the image has a backing file" in output
    digest = dict(line.split()[::-1] for line in (TESTDATA / "SHA256SUMS").read_text().splitlines())
    assert digest["ext4-stream-qemu.vmdk"] in output
    assert "missing.qcow2 missing.qcow2: cannot open it" in output
    assert diskimg.compare("disk.vmdk", "disk.qcow2")


def test_the_examples_in_the_projects_readme(folder: Path) -> None:
    run(PROJECT / "README.md")


def test_an_upload_that_is_what_it_claims_is_accepted(folder: Path) -> None:
    assert diskimg.inspect("disk.qcow2", format="qcow2", max_virtual_size=100 << 30)
    for claimed in ("raw", "vmdk"):
        assert not diskimg.inspect("disk.qcow2", format=claimed)


def test_every_call_in_the_table_exists() -> None:
    table = re.compile(r"^\| `qemu-img (.*)` \| `(.*)` \|$", re.MULTILINE)
    rows = table.findall((PACKAGE / "README.md").read_text())
    assert len(rows) > 15
    help = subprocess.run(["qemu-img", "--help"], capture_output=True, text=True, check=True).stdout
    for command, call in rows:
        assert f"  {command.split()[0]} " in help
        tree = ast.parse(call.replace("(…, ", "('', '', ").replace("…", "_"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if not (isinstance(node.func.value, ast.Name) and node.func.value.id == "diskimg"):
                    continue
                function = getattr(diskimg, node.func.attr)
                accepted = function.__code__.co_varnames
                for keyword in node.keywords:
                    assert keyword.arg in accepted, (call, keyword.arg)
