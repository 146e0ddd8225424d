# The native half (src/): not for users.

from collections.abc import Callable
from typing import Literal, final

from diskimg._types import Conversion, Opening

__all__ = [
    "VERSION",
    "Image",
    "compare",
    "convert",
    "create",
    "detect",
    "formats",
    "measure_size",
    "run_command",
]

VERSION: str

@final
class Image:
    @staticmethod
    def open(file: object, opening: Opening, facts: bool, chain: bool) -> Image: ...
    def close(self) -> None: ...
    @property
    def closed(self) -> bool: ...
    @property
    def name(self) -> str: ...
    @property
    def format(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def cluster_size(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def warnings(self) -> list[str]: ...
    def info(self, layer: int) -> str: ...
    def extents(
        self, start: int, end: int, most: int
    ) -> list[tuple[int, int, int, bool, bool, bool, bool, int | None, str | None]]: ...
    def read_at(self, offset: int, len: int) -> bytes: ...
    def readinto_at(self, offset: int, buffer: memoryview) -> None: ...
    def cluster(self, offset: int) -> memoryview: ...
    def check(
        self,
    ) -> tuple[list[tuple[Literal["corruption", "leak", "check-error"], str]], str] | None: ...
    def measure(self, format: str, pairs: list[tuple[str, str]]) -> str: ...

def convert(
    sources: list[tuple[object, Opening]],
    destination: object,
    how: Conversion,
    progress: Callable[[int, int], object] | None,
) -> tuple[int, int, int, int, list[tuple[int, int, str]], list[str]]: ...
def create(
    path: str,
    format: str,
    size: int | None,
    pairs: list[tuple[str, str]],
    backing: tuple[str, str | None] | None,
    references: str,
    progress: Callable[[int, int], object] | None,
) -> tuple[int, list[tuple[str, str]]]: ...
def compare(
    a: Image,
    b: Image,
    strict: bool,
    threads: int | None,
    progress: Callable[[int, int], object] | None,
) -> tuple[Literal["identical", "content", "size", "status"], int | None]: ...
def measure_size(format: str, pairs: list[tuple[str, str]], size: int) -> str: ...
def detect(file: object) -> str: ...
def formats() -> list[tuple[str, list[tuple[str, str, str, str | None]]]]: ...
def run_command(argv: list[str]) -> int: ...
