"""The programs in ``examples/``, as they are."""

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import diskimg
from diskimg import iso

from examples import PACKAGE, PROJECT

EXAMPLES = PACKAGE / "examples"


def run(name: str, *arguments: str | Path, code: int = 0) -> str:
    """Run an example and return what it prints."""
    command = [sys.executable, EXAMPLES / f"{name}.py", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == code, ended.stderr
    return ended.stdout + ended.stderr


def test_every_example_has_a_test_and_is_in_the_documentation() -> None:
    tests = Path(__file__).read_text()
    for folder, page in [("python", "python.md"), ("crates/diskimg", "rust.md")]:
        text = (PROJECT / "docs" / page).read_text()
        linked = re.findall(rf"\(\.\./({folder}/examples/[^)]+)\)", text)
        there = (PROJECT / folder / "examples").glob("*.*")
        assert sorted(linked) == sorted(str(file.relative_to(PROJECT)) for file in there)
    for example in EXAMPLES.glob("*.py"):
        assert f'run("{example.stem}"' in tests


def test_check_upload(images: Path) -> None:
    good, bad = images / "ext4-zlib.qcow2", images / "overlay.qcow2"
    assert run("check_upload", good, "qcow2") == "accepted\n"
    refused = run("check_upload", bad, "qcow2", code=2)
    assert refused.startswith("refused: backing-file: ")
    assert "refused: format-mismatch: " in run("check_upload", good, "vmdk", code=2)
    printed = run("check_upload", good, "qcow2", "--sandbox")
    assert printed == f"accepted\nconverted {diskimg.info(good).virtual_size} bytes\n"
    assert diskimg.compare(good, good.with_suffix(".raw"), b_format="raw")


def test_pipeline(make: Callable[..., Path], raw: Path, tmp_path: Path) -> None:
    incoming, outgoing = tmp_path / "incoming", tmp_path / "outgoing"
    incoming.mkdir()
    make("vmdk").rename(incoming / "one.vmdk")
    make("vmdk", "-o", "subformat=streamOptimized").rename(incoming / "two.vmdk")
    printed = run("pipeline", incoming, outgoing)
    assert "INFO pipeline: 2 of 2 images are converted" in printed
    assert re.search(r"INFO diskimg: convert: .*one.vmdk -> .*one.qcow2: completed in", printed)
    for name in ("one", "two"):
        output = outgoing / f"{name}.qcow2"
        assert diskimg.compare(output, raw, b_format="raw")
        digest = hashlib.sha256(output.read_bytes()).hexdigest()
        assert (outgoing / f"{name}.qcow2.sha256").read_text() == f"{digest}  {name}.qcow2\n"
    # The rest is done by another run, and an error does not stop it.
    (incoming / "a-damaged.vmdk").write_bytes(b"KDMV" + bytes(1000))
    (outgoing / "two.qcow2").unlink()
    printed = run("pipeline", incoming, outgoing, code=1)
    assert "2 of 3 images are converted" in printed and "a-damaged.vmdk: " in printed
    assert (outgoing / "two.qcow2").exists() and not (outgoing / "a-damaged.qcow2").exists()


def test_service(make: Callable[..., Path], tmp_path: Path) -> None:
    one, two = make("vmdk"), make("vmdk")
    missing = tmp_path / "missing.vmdk"
    lines = run("service", one, two, missing).splitlines()
    size = diskimg.info(one).virtual_size
    assert lines[0] == f"{one.stem}.qcow2: {size} bytes, without a boot sector"
    assert lines[1].startswith(f"{two.stem}.qcow2: {size} bytes")
    assert lines[2] == f"{missing}: cannot open it: No such file or directory"


def test_object_store(make: Callable[..., Path], raw: Path, tmp_path: Path) -> None:
    source, output = make("vmdk"), tmp_path / "out.qcow2"
    printed = run("object_store", f"file://{source}", f"file://{output}")
    assert printed.startswith(f"vmdk, {diskimg.info(source).virtual_size} bytes\n")
    assert diskimg.compare(output, raw, b_format="raw")
    assert "usage: " in run("object_store", code=1)


def test_cloud_init(make: Callable[..., Path], raw: Path, tmp_path: Path) -> None:
    base = tmp_path / "base.qcow2"
    shutil.move(make("qcow2"), base)
    key = tmp_path / "key.pub"
    key.write_text("ssh-ed25519 AAAA me\n")
    disk, seed = map(Path, run("cloud_init", base, "web-1", key).splitlines())
    info = diskimg.info(disk)
    assert (info.virtual_size, info.backing_filename) == (20 << 30, "base.qcow2")
    with iso.open(seed) as image:
        assert image.label == "cidata" and b"ssh-ed25519 AAAA me" in image.read("user-data")
    assert "usage: " in run("cloud_init", code=1)
