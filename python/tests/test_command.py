"""The command in the wheel."""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import diskimg
from tools import qemu_img

SCRIPT = Path(sysconfig.get_path("scripts")) / "diskimg"


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


def test_the_module_and_the_script_run_the_command(raw: Path, tmp_path: Path) -> None:
    for command in ([SCRIPT], [sys.executable, "-m", "diskimg"]):
        assert run(*command, "--version").stdout == f"diskimg {diskimg.__version__}\n"
        out = tmp_path / "out.qcow2"
        done = run(*command, "convert", "-f", "raw", "-O", "qcow2", raw, out)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert qemu_img("compare", "-f", "raw", raw, out)
        done = run(*command, "info", tmp_path / "missing")
        assert done.returncode == 1 and done.stderr.startswith("diskimg: ")
        assert "No such file or directory" in done.stderr


def test_a_link_named_qemu_img_behaves_like_qemu_img(tmp_path: Path) -> None:
    link = tmp_path / "qemu-img"
    link.symlink_to(SCRIPT)
    assert run(link, "--version").stdout.startswith("qemu-img version ")


def test_the_command_and_the_library_agree(raw: Path) -> None:
    import json

    done = run(SCRIPT, "info", "--output=json", "-f", "raw", raw)
    assert json.loads(done.stdout) == diskimg.info(raw, "raw").to_dict()
    done = run(SCRIPT, "map", "--output=json", "-f", "raw", raw)
    assert json.loads(done.stdout) == [entry.to_dict() for entry in diskimg.map(raw, "raw")]


def test_ctrl_c_ends_the_command_with_130_and_leaves_no_files(tmp_path: Path) -> None:
    source = tmp_path / "s.raw"
    source.write_bytes(b"".join(b"%d " % (n * n) for n in range(3_000_000)))
    out = tmp_path / "out.qcow2"
    options = "compression_type=zstd,compression_level=19"
    command = [sys.executable, "-m", "diskimg", "convert", "-c", "-f", "raw", "-O", "qcow2"]
    process = subprocess.Popen([*command, "-o", options, source, out])
    while len(os.listdir(tmp_path)) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait() in (130, -signal.SIGINT)
    assert [path.name for path in tmp_path.iterdir()] == ["s.raw"]


def test_messages_to_a_closed_stream_do_not_end_up_in_the_output(
    raw: Path, disk: bytes, tmp_path: Path
) -> None:
    out = tmp_path / "out.raw"
    shell = '"$0" convert -p -f raw -O raw "$1" "$2" <&- >&- 2>&-'
    subprocess.run(["sh", "-c", shell, SCRIPT, raw, out], check=True)
    assert out.read_bytes() == disk


def test_an_image_is_converted_through_pipes(raw: Path, disk: bytes) -> None:
    done = subprocess.run(
        [SCRIPT, "convert", "-f", "raw", "-O", "raw", "-", "-"],
        input=disk,
        capture_output=True,
        check=True,
    )
    assert done.stdout == disk


def test_the_script_is_found_in_its_directory() -> None:
    assert shutil.which("diskimg", path=str(SCRIPT.parent)) == str(SCRIPT)
