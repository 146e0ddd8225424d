# The native half (src/): not for users.

from collections.abc import Callable, Sequence
from typing import Any, Literal, final

from diskimg._errors import Error
from diskimg._types import Conversion, Opening
from diskimg.iso._create import Addition, Making
from diskimg.iso._image import Extraction
from diskimg.iso._remaster import Changes
from diskimg.iso._results import Shown

__all__ = [
    "VERSION",
    "Image",
    "Iso",
    "IsoContents",
    "IsoWalk",
    "compare",
    "convert",
    "create",
    "detect",
    "formats",
    "inspect",
    "iso_bytes",
    "iso_create",
    "iso_remaster",
    "iso_remaster_bytes",
    "limits",
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

@final
class Iso:
    @staticmethod
    def open(
        file: object, opening: Opening, namespace: str, session: str | int, strict: bool
    ) -> Iso: ...
    def close(self) -> None: ...
    @property
    def closed(self) -> bool: ...
    @property
    def name(self) -> str: ...
    @property
    def namespace(self) -> Shown: ...
    @property
    def namespaces(self) -> list[Shown]: ...
    def info(self) -> str: ...
    def stat(self, path: bytes) -> tuple[Any, ...]: ...
    def extents(self, path: bytes) -> list[tuple[int | None, int]]: ...
    def read_dir(self, path: bytes) -> list[tuple[Any, ...]]: ...
    def walk(self, path: bytes) -> IsoWalk: ...
    def contents(self, path: bytes) -> IsoContents: ...
    def verify(self) -> str: ...
    def extract(
        self,
        path: bytes,
        dest: str,
        how: Extraction,
        progress: Callable[[int, int], object] | None,
    ) -> tuple[int, int, int, int, int, list[tuple[str, Error]]]: ...

@final
class IsoWalk:
    def next(self, most: int) -> tuple[list[tuple[Any, ...]], Error | None]: ...

@final
class IsoContents:
    @property
    def size(self) -> int: ...
    def read_at(self, offset: int, len: int) -> bytes: ...
    def readinto_at(self, offset: int, buffer: memoryview) -> None: ...

def iso_bytes(how: Making, additions: Sequence[Addition]) -> bytes: ...
def iso_create(
    destination: object,
    how: Making,
    additions: Sequence[Addition],
    durable: bool,
    progress: Callable[[int, int], object] | None,
) -> tuple[int, list[str]]: ...
def iso_remaster_bytes(source: Iso, changes: Changes) -> bytes: ...
def iso_remaster(
    source: Iso,
    changes: Changes,
    destination: object,
    durable: bool,
    progress: Callable[[int, int], object] | None,
) -> tuple[int, list[str]]: ...
def convert(
    sources: list[tuple[object, Opening]],
    destination: object,
    how: Conversion,
    progress: Callable[[int, int], object] | None,
) -> tuple[
    int,
    int,
    int,
    int,
    list[tuple[int, int, str]],
    list[str],
    bool,
    tuple[str, str, list[tuple[str, str]]] | None,
]: ...
def create(
    path: str,
    format: str,
    size: int | None,
    pairs: list[tuple[str, str]],
    backing: tuple[str, str | None] | None,
    references: str,
    limits: list[tuple[str, int]],
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
def limits() -> list[tuple[str, int, str]]: ...
def inspect(
    file: object,
    claimed: str | None,
    most: tuple[int | None, int | None, int | None],
    allow: list[str],
    limits: list[tuple[str, int]],
) -> str: ...
def formats() -> list[tuple[str, list[tuple[str, str, str, str | None]]]]: ...
def run_command(argv: list[str]) -> int: ...
