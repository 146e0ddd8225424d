"""Convert an image between object stores, through fsspec.

    pip install 'diskimg[fsspec]' s3fs
    python object_store.py s3://incoming/disk.vmdk s3://images/disk.qcow2

Only the allocated parts of the source are fetched, with several requests at a time. The output is
written to a temporary file, and appears in the store when it is complete.
"""

import sys

import diskimg
from diskimg import fsspec


def convert(source: str, output: str) -> diskimg.Report:
    """Convert the image behind one URL to another."""
    with fsspec.source(source) as image:
        # A few requests: header and tables.
        info = diskimg.info(image)
        print(f"{info.format}, {info.virtual_size} bytes")
        with fsspec.output(output) as file:
            return diskimg.convert(
                image, file, src_format=info.format, format="qcow2", compress=True
            )


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print("usage: object_store.py SOURCE-URL OUTPUT-URL", file=sys.stderr)
        return 1
    report = convert(*arguments)
    print(f"{report.stored_bytes} bytes stored of {report.guest_bytes}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
