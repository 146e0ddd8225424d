"""Operations in confined child processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diskimg
import pytest
from diskimg import _native, _sandbox, _wire

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")


@pytest.fixture
def box() -> diskimg.Sandbox:
    return diskimg.sandboxed(timeout=60)


@pytest.fixture
def disk(tmp_path: Path, box: diskimg.Sandbox) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(os.urandom(1 << 20) + bytes(1 << 20))
    try:
        box.detect(path)
    except diskimg.UnsupportedError as error:
        pytest.skip(str(error))
    return path


def test_results_are_those_of_the_functions(disk: Path, box: diskimg.Sandbox) -> None:
    image = disk.with_name("disk.qcow2")
    report = box.convert(disk, image, compress=True, digest="sha256", verify=True)
    expected = diskimg.convert(disk, disk.with_name("b.qcow2"), compress=True, digest="sha256")
    assert report.digests is not None and expected.digests is not None
    assert report.digests.guest == expected.digests.guest
    assert report.verified
    assert box.info(image) == diskimg.info(image)
    assert box.info(image, chain=True) == diskimg.info(image, chain=True)
    assert box.inspect(image, format="qcow2") == diskimg.inspect(image, format="qcow2")
    assert box.check(image) == diskimg.check(image)
    assert box.map(image) == diskimg.map(image)
    assert box.detect(image) == diskimg.detect(image)
    assert box.measure(image, format="qcow2") == diskimg.measure(image, format="qcow2")
    assert box.measure(size=1 << 30) == diskimg.measure(size=1 << 30)
    assert box.compare(image, disk)
    # In place, with a backing file, and of several images.
    assert box.convert(disk, image, format="qcow2", in_place=True).guest_bytes == 2 << 20
    child = disk.with_name("child.qcow2")
    box.convert(disk, child, backing="disk.qcow2", backing_format="qcow2")
    assert box.compare(child, disk).identical
    box.convert([disk, image], disk.with_name("two.ova"))
    assert box.info(disk.with_name("two.ova"), disk=2).virtual_size == 2 << 20


def test_errors_are_those_of_the_functions(disk: Path, box: diskimg.Sandbox) -> None:
    bad = disk.with_name("bad.qcow2")
    bad.write_bytes(b"QFI\xfb" + b"\xff" * 600)
    calls: list[Callable[[Any], Any]] = [
        lambda on: on.info(bad, "qcow2"),
        lambda on: on.info(disk.with_name("missing")),
        lambda on: on.info(disk, "nonsense"),
        lambda on: on.convert(disk, disk.with_name("no") / "x.qcow2"),
        lambda on: on.convert(disk, disk.with_name("x"), options={"nonsense": 1}),
        lambda on: on.measure(size=-1),
    ]
    for call in calls:
        with pytest.raises(Exception) as expected:
            call(diskimg)
        with pytest.raises(Exception) as found:
            call(box)
        assert type(found.value) is type(expected.value)
        assert str(found.value) == str(expected.value)
        for name in ("path", "structure", "offset", "errno"):
            assert getattr(found.value, name, None) == getattr(expected.value, name, None)
    with pytest.raises(TypeError):
        box.info()  # type: ignore[call-overload]
    with disk.open("rb") as opened, pytest.raises(diskimg.InvalidError, match="file name"):
        box.inspect(opened)


def test_an_image_cannot_read_other_directories(disk: Path, box: diskimg.Sandbox) -> None:
    (disk.parent / "sub").mkdir()
    image = disk.parent / "sub" / "child.qcow2"
    backing: dict[str, Any] = {"backing": disk, "backing_format": "raw"}
    diskimg.create(image, format="qcow2", external_files="any", **backing)
    with pytest.raises(diskimg.RefusedError):
        box.compare(image, disk)
    assert box.compare(image, disk, external_files="any")


def test_progress_and_its_exceptions(disk: Path, box: diskimg.Sandbox) -> None:
    seen: list[tuple[int, int]] = []
    out = disk.with_name("out.qcow2")
    box.convert(disk, out, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (2 << 20, 2 << 20)

    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    out.unlink()
    with pytest.raises(KeyboardInterrupt):
        box.convert(disk, out, progress=interrupted)
    assert [path.name for path in disk.parent.iterdir() if "out" in path.name] in ([], [out.name])


def test_limits_end_the_operation(disk: Path) -> None:
    big = disk.with_name("big.raw")
    with big.open("wb") as file:
        for _ in range(64):
            file.write(os.urandom(1 << 20))
    out = disk.with_name("out.qcow2")
    slow: dict[str, Any] = {"rate_limit": 1 << 20}
    began = time.monotonic()
    with pytest.raises(diskimg.LimitError, match="longer than"):
        diskimg.sandboxed(timeout=1).convert(big, out, **slow)
    assert time.monotonic() - began < 20
    with pytest.raises((diskimg.Error, OSError, MemoryError)):
        diskimg.sandboxed(memory=1 << 20, timeout=60).convert(big, out)
    with pytest.raises(diskimg.InvalidError, match="closed"), diskimg.sandboxed() as box:
        box.close()
        box.info(disk)
    box = diskimg.sandboxed()
    threading.Timer(1, box.close).start()
    with pytest.raises(diskimg.Error, match="closed"):
        box.convert(big, out, **slow)
    assert not out.exists()


def test_a_confined_process_can_do_nothing_else(disk: Path) -> None:
    """What Python code in the child can do, after it was confined to `disk`."""
    code = f"""
import ctypes, json, os, socket, sys
from diskimg import _native
_native.confine([({str(disk)!r}, "none")], [], [], {{}})
failed = []
for what in (
    lambda: open("/etc/passwd").close(),
    lambda: os.listdir("/"),
    lambda: open({str(disk)!r}, "r+b").close(),
    lambda: os.unlink({str(disk)!r}),
    lambda: os.chmod({str(disk)!r}, 0o4755),
    lambda: os.mkfifo({str(disk) + "x"!r}),
    lambda: os.fork(),
    lambda: os.execv("/bin/true", ["true"]),
    lambda: socket.socket(),
    lambda: os.kill(os.getppid(), 0),
    lambda: os.setpriority(os.PRIO_PROCESS, os.getppid(), 19),
):
    try:
        what()
        failed.append(False)
    except OSError:
        failed.append(True)
assert len(open({str(disk)!r}, "rb").read(10)) == 10
print(json.dumps(failed))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert json.loads(out.stdout) == [True] * 11


def test_the_child_ends_with_its_parent(disk: Path) -> None:
    out = disk.with_name("out.raw")
    code = f"""
import diskimg
def report(done, total):
    box._children and print([child.pid for child in box._children][0], flush=True)
box = diskimg.sandboxed()
box.convert({str(disk)!r}, {str(out)!r}, rate_limit=65536, progress=report)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 30
    while Path(f"/proc/{child}/cmdline").is_file() and time.monotonic() < end:
        if not Path(f"/proc/{child}/cmdline").read_bytes():
            break
        time.sleep(0.05)
    assert time.monotonic() < end
    assert not out.exists()


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"filename": "x"},
        {"filename": "x", "format": 1},
        {"filename": ["x"], "format": "raw"},
        {"filename": "x", "format": "raw", "more": 1},
    ],
)
def test_results_of_a_wrong_type_are_refused(value: Any) -> None:
    with pytest.raises(ValueError):
        _wire.decode(diskimg.Detection, value)


@pytest.mark.parametrize(
    "facts",
    [
        None,
        {"class": "SystemExit", "message": "x"},
        {"class": "CorruptError", "message": 1},
        {"class": "IoError", "message": "x", "errno": "2"},
        {"class": ["Error"], "message": "x"},
        {"class": "Error", "message": "x", "offset": "1"},
    ],
)
def test_errors_of_an_unknown_kind_are_refused(facts: Any) -> None:
    with pytest.raises(ValueError):
        _wire.decode_error(facts)


def test_what_is_confined_is_a_path() -> None:
    with pytest.raises(ValueError):
        _native.confine([("x", "nonsense")], [], [], {})


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Replaces the child by a process that runs other code."""

    def replace(code: str) -> None:
        prologue = "import os, signal, sys, time; sys.stdin.read(); send = sys.stdout.buffer.write"
        monkeypatch.setattr(
            _sandbox,
            "_start",
            lambda: subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", f"{prologue}\n{code}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                process_group=0,
            ),
        )

    return replace


@pytest.mark.parametrize(
    "code",
    [
        'send(b\'{"result":[\' + b"[]," * (2 << 20) + b"[]]}\\n")',
        'send(b\'{"result":{"x":[\' + b"1," * (2 << 20) + b"1]}}\\n")',
        "send(b'{\"part\":[[]]}\\n')",
        "send(b'{}\\n')",
    ],
)
def test_a_message_with_too_many_values_is_refused(
    hostile: Callable[[str], None], code: str
) -> None:
    hostile(code)
    with pytest.raises(diskimg.Error, match="invalid message"):
        diskimg.sandboxed().info("x")


def test_a_long_message_is_refused(hostile: Callable[[str], None]) -> None:
    hostile('send(b"\\"" + b"x" * (20 << 20) + b"\\"\\n")')
    with pytest.raises(diskimg.Error, match="invalid message"):
        diskimg.sandboxed().info("x")


def test_a_long_list_is_sent_in_parts(disk: Path, box: diskimg.Sandbox) -> None:
    holes = disk.with_name("holes.raw")
    with holes.open("wb") as file:
        for at in range(2500):
            file.seek(at << 17)
            file.write(b"x")
    extents = box.map(holes)
    assert len(extents) > 2000
    assert extents == diskimg.map(holes)


def test_no_operation_starts_after_close(hostile: Callable[[str], None]) -> None:
    hostile("time.sleep(60)")
    box = diskimg.sandboxed()
    real = _sandbox._start

    def start() -> subprocess.Popen[bytes]:
        # While the child is started, another thread closes the sandbox.
        closing = threading.Thread(target=box.close)
        closing.start()
        closing.join(0.5)
        return real()

    _sandbox._start = start
    try:
        began = time.monotonic()
        with pytest.raises(diskimg.Error, match="closed"):
            box.info("x")
        assert time.monotonic() - began < 30
    finally:
        _sandbox._start = real


def test_messages_of_the_child_are_printable() -> None:
    facts = {"class": "Error", "message": "\x1b]0;x\x07\ud800 ä\n", "structure": "a\tb"}
    error = _wire.decode_error(facts)
    assert str(error) == "\\x1b]0;x\\x07\\ud800 ä\n"
    assert isinstance(error, diskimg.Error) and error.structure == "a\\tb"


def test_no_temporary_file_is_left(disk: Path, box: diskimg.Sandbox) -> None:
    (out := disk.with_name("out.raw")).write_bytes(b"old")
    out.chmod(0o640)
    with pytest.raises((diskimg.Error, OSError)):
        box.convert(disk.with_name("missing.raw"), out)
    assert sorted(path.name for path in disk.parent.iterdir()) == ["disk.raw", "out.raw"]
    box.convert(disk, out, options={"nocow": "on"})
    assert out.stat().st_mode & 0o777 == 0o640
