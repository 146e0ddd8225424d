"""Check an upload before it is stored, as OpenStack's Glance does.

    python check_upload.py upload.img qcow2

The file is untrusted: `inspect` opens nothing else, reads a bounded amount of it, and always comes
to a verdict. With ``--sandbox``, what was accepted is converted in a confined process.
"""

import argparse
import sys
from pathlib import Path

import diskimg

MAX_SIZE = 100 << 30
"""Largest disk that is accepted, in bytes."""


def check(file: Path, claimed: str) -> list[str]:
    """Return why an upload is refused; nothing if it is accepted."""
    inspection = diskimg.inspect(
        file,
        format=claimed,
        max_virtual_size=MAX_SIZE,
        # A small file that becomes a large disk keeps a converter busy.
        max_ratio=10_000,
    )
    if inspection:
        return []
    # Messages quote the image only in printable characters.
    return [f"{one.code}: {one.message}" for one in inspection.findings if one.severity == "error"]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Check an upload.")
    parser.add_argument("file", type=Path)
    parser.add_argument("format", help="the format that the user has named")
    parser.add_argument("--sandbox", action="store_true", help="and convert it to raw, confined")
    args = parser.parse_args(arguments)

    reasons = check(args.file, args.format)
    for reason in reasons:
        print(f"refused: {reason}")
    if reasons:
        return 2
    print("accepted")
    if args.sandbox:
        # What was inspected is now decoded, in a process that can do nothing else.
        with diskimg.sandboxed(memory=2 << 30, timeout=600, require=False) as box:
            report = box.convert(
                args.file,
                args.file.with_suffix(".raw"),
                src_format=args.format,
                external_files="none",
                max_size=MAX_SIZE,
            )
        print(f"converted {report.guest_bytes} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
