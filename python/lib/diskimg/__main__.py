"""The command: `diskimg …`, or `python -m diskimg …`."""

import os
import signal
import sys
from pathlib import Path

from diskimg._native import run_command


def main() -> int:
    """Run the command with this process's arguments and return its exit code.

    This is the command written in Rust; its arguments, output and exit codes are qemu-img's. If
    it is called through a link named ``qemu-img``, it uses that name in its messages.
    """
    name = Path(sys.argv[0])
    called = "diskimg" if name.name == "__main__.py" else str(name)
    # If a standard stream is closed, the next file opened would get its descriptor, and messages
    # would be written to an output image.
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    # Python's handler only sets a flag; the command installs its own handler or uses the default.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return run_command([called, *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
