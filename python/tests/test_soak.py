"""A short run of `soak.py`."""

import subprocess
import sys
from pathlib import Path


def test_a_short_soak_leaks_nothing() -> None:
    soak = Path(__file__).with_name("soak.py")
    done = subprocess.run(
        [sys.executable, soak, "--seconds", "12"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "'convert'" in done.stdout and "'CorruptError'" in done.stdout
