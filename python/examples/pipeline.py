"""Convert every VMDK in a folder to compressed, verified qcow2 images.

    python pipeline.py incoming outgoing

An output appears under its name only when it is complete, so that the pipeline can be stopped and
started again at any time: what exists is done.
"""

import argparse
import logging
import sys
from pathlib import Path

import diskimg

log = logging.getLogger("pipeline")


def convert(source: Path, folder: Path) -> bool:
    """Convert an image and return whether that succeeded."""
    output = folder / f"{source.stem}.qcow2"
    if output.exists():
        return True
    try:
        report = diskimg.convert(
            source,
            output,
            src_format="vmdk",
            compress=True,
            # Read the output again, and compare it, before it gets its name.
            verify=True,
            digest="sha256",
            # A bar on a terminal; with tqdm installed, also in a notebook.
            progress=True,
        )
    except diskimg.TransientError as error:
        log.error("try again later: %s", error)
        return False
    except diskimg.Error as error:
        # One line: file, structure, offset, what was found, and what to do about it.
        log.error("%s", error)
        return False
    assert report.digests is not None
    digest = report.digests.files[0].digest
    output.with_suffix(".qcow2.sha256").write_text(f"{digest}  {output.name}\n")
    return True


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Convert VMDK images to qcow2.")
    parser.add_argument("incoming", type=Path)
    parser.add_argument("outgoing", type=Path)
    args = parser.parse_args(arguments)
    # The package logs the beginning, the end and all warnings to the logger `diskimg`.
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")

    args.outgoing.mkdir(exist_ok=True)
    results = [convert(source, args.outgoing) for source in sorted(args.incoming.glob("*.vmdk"))]
    log.info("%d of %d images are converted", sum(results), len(results))
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
