"""Runs the examples in the READMEs: ``python tests/examples.py``.

Only the wheel is required. ``python tests/examples.py --print`` prints those of the package
instead, for type checkers.
"""

import os
import re
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
PROJECT = PACKAGE.parent
READMES = (PACKAGE / "README.md", PROJECT / "README.md")

_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(readme: Path) -> list[str]:
    """Return the Python examples in a README."""
    return _BLOCK.findall(readme.read_text())


def prepare(folder: Path) -> None:
    """Create the images that the examples use."""
    testdata = PROJECT / "testdata"
    shutil.copy(testdata / "ext4-stream-qemu.vmdk", folder / "disk.vmdk")
    shutil.copy(testdata / "overlay.qcow2", folder / "upload.qcow2")
    shutil.copy(testdata / "ext4-zlib.qcow2", folder / "disk.qcow2")


def run(readme: Path) -> None:
    """Run the examples in a README one after the other in the current directory."""
    names: dict[str, object] = {}
    for block in blocks(readme):
        if "fsspec" in block and find_spec("fsspec") is None:
            continue  # the wheel alone
        exec(compile(block, str(readme), "exec"), names)


def main() -> None:
    if sys.argv[1:] == ["--print"]:
        print("\n\n".join(blocks(READMES[0])))
        return
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        os.chdir(folder)
        for readme in READMES:
            run(readme)


if __name__ == "__main__":
    main()
