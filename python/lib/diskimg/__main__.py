"""The command: `diskimg …`, or `python -m diskimg …`."""

import os
import signal
import sys
from pathlib import Path

from diskimg._native import run_command


def main() -> int:
    """Run the command with this process's arguments; gives the exit code.

    It is the very command that is written in Rust: arguments, output and exit
    codes are qemu-img's. A link called ``qemu-img`` speaks in that name.
    """
    name = Path(sys.argv[0])
    called = "diskimg" if name.name == "__main__.py" else str(name)
    # A stream that is closed would be the next file that is opened: an output.
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    # Python's handler would only take note; the command has its own, or none.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return run_command([called, *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
