# Stubs of the native module (src/). Not part of the public API.

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, TypeVar, final

from diskimg._errors import Error
from diskimg._server import ServeArgs
from diskimg._types import ConvertArgs, OpenArgs
from diskimg.iso._create import Addition, CreateArgs
from diskimg.iso._image import ExtractArgs
from diskimg.iso._remaster import RemasterArgs
from diskimg.types import DigestAlgorithm, Format, Namespace

__all__ = [
    "VERSION",
    "Image",
    "Iso",
    "IsoContents",
    "IsoWalk",
    "Server",
    "Stop",
    "amend",
    "apply_snapshot",
    "bench",
    "change_bitmap",
    "commit",
    "compare",
    "confine",
    "convert",
    "create",
    "create_snapshot",
    "delete_snapshot",
    "detect",
    "format_of_name",
    "formats",
    "inspect",
    "iso_bytes",
    "iso_create",
    "iso_remaster",
    "iso_remaster_bytes",
    "limits",
    "map_html",
    "map_summary",
    "measure_size",
    "rebase",
    "release",
    "repair",
    "resize",
    "run_command",
    "shown_url",
    "take_modified_without_locks",
    "word",
    "words",
]

_T = TypeVar("_T")

VERSION: str

# Code, severity and message.
_CheckFinding: TypeAlias = tuple[
    Literal["corruption", "leak", "check-error", "digest-mismatch", "digest-not-verified"],
    Literal["error", "warning", "note"],
    str,
]

# The fields of `Report`.
_ReportFields: TypeAlias = tuple[
    int,
    int,
    int,
    int,
    tuple[list[tuple[int, int, str]], int],
    list[str],
    list[str],
    bool,
    tuple[DigestAlgorithm, str, list[tuple[str, str]]] | None,
]

@final
class Image:
    @staticmethod
    def open(file: object, args: OpenArgs, metadata_only: bool, chain: bool) -> Image: ...
    def close(self) -> None: ...
    @property
    def closed(self) -> bool: ...
    @property
    def name(self) -> str: ...
    @property
    def format(self) -> Format: ...
    @property
    def size(self) -> int: ...
    @property
    def cluster_size(self) -> int: ...
    @property
    def layers(self) -> int: ...
    @property
    def warnings(self) -> list[str]: ...
    def info(self, layer: int) -> str: ...
    def preflight(self, consumer: str) -> str: ...
    def bitmaps(self) -> str | None: ...
    def dirty_ranges(self, name: str, start: int, end: int) -> list[tuple[int, int]]: ...
    def extents(
        self, start: int, end: int, max_count: int
    ) -> list[tuple[int, int, int, bool, bool, bool, bool, int | None, str | None]]: ...
    def read_at(self, offset: int, len: int) -> bytes: ...
    def readinto_at(self, offset: int, buffer: memoryview) -> None: ...
    def cluster(self, offset: int) -> memoryview: ...
    def check(self) -> tuple[list[_CheckFinding], str] | None: ...
    def measure(self, format: str, pairs: list[tuple[str, str]]) -> str: ...
    def partitions(self, sector_size: int | None) -> str | None: ...
    def file_system(self, partition: int) -> str | None: ...
    def listdir(self, partition: int, path: bytes) -> list[tuple[Any, ...]]: ...

@final
class Server:
    @staticmethod
    def start(file: object, how: OpenArgs, writable: bool, args: ServeArgs) -> Server: ...
    @property
    def uri(self) -> str: ...
    @property
    def closed(self) -> bool: ...
    def close(self) -> None: ...
    def __del__(self) -> None: ...

@final
class Iso:
    @staticmethod
    def open(
        file: object, args: OpenArgs, namespace: str, session: str | int, strict: bool
    ) -> Iso: ...
    def close(self) -> None: ...
    @property
    def closed(self) -> bool: ...
    @property
    def name(self) -> str: ...
    @property
    def namespace(self) -> Namespace: ...
    @property
    def namespaces(self) -> list[Namespace]: ...
    @property
    def truncated(self) -> str | None: ...
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
        how: ExtractArgs,
        progress: Callable[[int, int], object] | None,
    ) -> tuple[int, int, int, int, int, list[tuple[str, Error]]]: ...

@final
class IsoWalk:
    def next(self, max_count: int) -> tuple[list[tuple[Any, ...]], Error | None]: ...

@final
class IsoContents:
    @property
    def size(self) -> int: ...
    def read_at(self, offset: int, len: int) -> bytes: ...
    def readinto_at(self, offset: int, buffer: memoryview) -> None: ...

@final
class Stop:
    def __new__(cls) -> Stop: ...
    def request(self) -> None: ...
    def run(self, function: Callable[[], _T]) -> _T: ...

def word(name: str, text: str) -> str | None: ...
def words() -> list[tuple[str, list[str]]]: ...
def format_of_name(name: str) -> Format: ...
def shown_url(url: str) -> str: ...
def iso_bytes(how: CreateArgs, additions: Sequence[Addition]) -> bytes: ...
def iso_create(
    destination: object,
    how: CreateArgs,
    additions: Sequence[Addition],
    durable: bool,
    progress: Callable[[int, int], object] | None,
) -> tuple[int, list[str]]: ...
def iso_remaster_bytes(source: Iso, changes: RemasterArgs) -> bytes: ...
def iso_remaster(
    source: Iso,
    changes: RemasterArgs,
    destination: object,
    durable: bool,
    progress: Callable[[int, int], object] | None,
) -> tuple[int, list[str]]: ...
def convert(
    sources: list[tuple[object, OpenArgs]],
    destination: object,
    how: ConvertArgs,
    progress: Callable[[int, int], object] | None,
) -> _ReportFields: ...
def create(
    path: str,
    format: str,
    size: int | None,
    pairs: list[tuple[str, str]],
    backing: tuple[str, str | None] | None,
    external_files: str,
    limits: list[tuple[str, int]],
    force_share: bool,
    max_size: int | None,
    progress: Callable[[int, int], object] | None,
) -> tuple[int, list[tuple[str, str]], list[str]]: ...
def bench(
    path: str, how: OpenArgs, numbers: tuple[int, int, int, int, int, int], pattern: int | None
) -> float: ...
def repair(
    path: str, scope: str, how: OpenArgs, backup: str | None
) -> tuple[Format, list[tuple[Any, Any, str]], list[tuple[Any, Any, str]], str] | None: ...
def resize(
    path: str,
    size: str,
    how: OpenArgs,
    shrink: bool,
    preallocation: str,
    fix_gpt: bool,
) -> tuple[int, int]: ...
def rebase(
    path: str,
    backing: tuple[str, str | None] | None,
    how: OpenArgs,
    header_only: bool,
    compress: bool,
    threads: int | None,
    direct: bool,
    progress: Callable[[int, int], object] | None,
) -> int: ...
def amend(
    path: str,
    pairs: list[tuple[str, str]],
    how: OpenArgs,
    progress: Callable[[int, int], object] | None,
) -> int: ...
def commit(
    path: str,
    base: str | None,
    how: OpenArgs,
    keep: bool,
    threads: int | None,
    rate_limit: int | None,
    direct: bool,
    progress: Callable[[int, int], object] | None,
) -> tuple[str, int, bool]: ...
def take_modified_without_locks() -> bool: ...
def change_bitmap(
    path: str,
    name: str,
    action: str,
    granularity: int | None,
    source: Image | None,
    source_name: str | None,
    how: OpenArgs,
) -> None: ...
def create_snapshot(path: str, name: str, how: OpenArgs) -> str: ...
def apply_snapshot(path: str, snapshot: str, how: OpenArgs) -> None: ...
def delete_snapshot(path: str, snapshot: str, how: OpenArgs) -> None: ...
def compare(
    a: Image,
    b: Image,
    strict: bool,
    threads: int | None,
    progress: Callable[[int, int], object] | None,
) -> tuple[Literal["identical", "content", "size", "status"], int | None]: ...
def map_html(image: Image, check: bool, progress: Callable[[int, int], object] | None) -> str: ...
def map_summary(image: Image, max_seconds: float) -> str | None: ...
def measure_size(format: str, pairs: list[tuple[str, str]], size: int) -> str: ...
def detect(file: object) -> Format: ...
def limits() -> list[tuple[str, int, str]]: ...
def inspect(
    file: object,
    claimed: str | None,
    maxima: tuple[int | None, int | None, int | None],
    allow: list[str],
    limits: list[tuple[str, int]],
) -> str: ...
def formats() -> list[tuple[str, list[tuple[str, str, str, str | None]]]]: ...
def run_command(argv: list[str]) -> int: ...
def confine(
    read: list[tuple[str, str]],
    write: list[str],
    modify: list[tuple[str, str]],
    options: dict[str, str],
) -> None: ...
def release() -> None: ...
