"""Conversions in an asynchronous service: several at a time, with deadlines and progress.

    python service.py a.vmdk b.vmdk

A web framework would call `convert_all` in a handler. If the client goes away, the framework
cancels the handler's task, and the conversions stop and leave nothing.
"""

import asyncio
import sys
from pathlib import Path

import diskimg
from diskimg import aio

DEADLINE = 600.0
"""Seconds that a conversion may take."""

AT_ONCE = asyncio.Semaphore(2)
"""Each conversion uses all processors, so that more do not end earlier."""


class Job:
    """A conversion, and how far it has come."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.output = source.with_suffix(".qcow2")
        self.percent = 0

    def progress(self, done: int, total: int) -> None:
        """Called in the thread of the event loop: no locks are needed."""
        self.percent = 100 * done // max(total, 1)

    async def run(self) -> str:
        """Convert the image and return a line about it."""
        async with AT_ONCE:
            try:
                async with asyncio.timeout(DEADLINE):
                    report = await aio.convert(self.source, self.output, progress=self.progress)
            except TimeoutError:
                return f"{self.source.name}: took longer than {DEADLINE} seconds"
            except diskimg.Error as error:
                return str(error)
        # Single bytes of the disk, without converting anything.
        async with aio.open(self.output, "qcow2") as image:
            bootable = await image.read_at(510, 2) == b"\x55\xaa"
        boot = "bootable" if bootable else "without a boot sector"
        return f"{self.output.name}: {report.guest_bytes} bytes, {boot}"


async def convert_all(sources: list[Path]) -> list[str]:
    """Convert images and return a line about each."""
    jobs = [Job(source) for source in sources]
    # If one task fails or this one is cancelled, the others are cancelled.
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(job.run()) for job in jobs]
    return [task.result() for task in tasks]


def main(arguments: list[str]) -> int:
    for line in asyncio.run(convert_all([Path(name) for name in arguments])):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
