"""`sandboxed`: operations in confined child processes."""

from __future__ import annotations

import inspect as _inspect
import json
import os
import signal
import subprocess
import sys
import threading
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path as _Path
from typing import IO, Any, Concatenate, ParamSpec, TypeVar

from diskimg import _operations
from diskimg._errors import Error, InvalidError, LimitError, UnsupportedError
from diskimg._progress import progress_callback
from diskimg._wire import decode, decode_error

P = ParamSpec("P")
R = TypeVar("R")

_MAX_LINE = 1 << 24
"""Maximum length in bytes of a message from the child."""

_MAX_VALUES = 1 << 20
"""Maximum number of values in a message from the child: each takes up to 100 bytes of memory."""

_MAX_PARTS = 1 << 28
"""Maximum length in bytes of a list that the child sends in parts."""

_PATIENCE = 5.0
"""Seconds that a child may take to clean up before it is killed."""

_FILES = {"file", "src", "dst", "a", "b", "backing"}
"""Arguments that are names of files."""

_BOOT = "import sys; sys.path.append(sys.argv[1]); from diskimg._confined import main; main()"


def _method(operation: Callable[P, R]) -> Callable[Concatenate[Sandbox, P], R]:
    """Return a method that calls ``operation`` in a confined child process."""

    signature = _inspect.signature(operation)

    def method(self: Sandbox, /, *args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        hints = typing.get_type_hints(operation)
        return typing.cast(R, self._call(operation.__name__, hints["return"], bound.arguments))

    method.__name__, method.__doc__ = operation.__name__, operation.__doc__
    itself = _inspect.Parameter("self", _inspect.Parameter.POSITIONAL_ONLY)
    parameters = [itself, *signature.parameters.values()]
    # `help` shows the operation's parameters.
    vars(method)["__signature__"] = signature.replace(parameters=parameters)
    return method


class Sandbox:
    """Runs operations in confined child processes; see `sandboxed`.

    >>> diskimg.create("disk.qcow2", "1G").size
    1073741824
    >>> with diskimg.sandboxed(require=False) as box:
    ...     box.info("disk.qcow2").virtual_size
    1073741824

    The methods are the functions of the package. Images are given by file name.
    """

    def __init__(
        self,
        *,
        memory: int | None,
        cpu_seconds: int | None,
        timeout: float | None,
        require: bool,
    ) -> None:
        self._limits: dict[str, int | None] = {"memory": memory, "cpu_seconds": cpu_seconds}
        self._require = require
        self._timeout = timeout
        self._children: set[subprocess.Popen[bytes]] = set()
        self._closed = False
        # A signal handler may call `close` while a child is started.
        self._lock = threading.RLock()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the operations that other threads have started."""
        with self._lock:
            self._closed = True
            for child in list(self._children):
                child.kill()

    check = _method(_operations.check)
    compare = _method(_operations.compare)
    convert = _method(_operations.convert)
    detect = _method(_operations.detect)
    info = _method(_operations.info)
    inspect = _method(_operations.inspect)
    map = _method(_operations.map)
    measure = _method(_operations.measure)

    def _call(self, operation: str, kind: Any, arguments: dict[str, Any]) -> Any:
        progress = arguments.pop("progress", None)
        request: dict[str, Any] = {
            **self._limits,
            "require": self._require,
            "operation": operation,
            "arguments": {name: _plain(name, value) for name, value in arguments.items()},
            "progress": progress not in (None, False),
        }
        request.update(_files(operation, request["arguments"]))
        options = request["arguments"].get("options") or {}
        request["options"] = {name: str(value) for name, value in options.items()}
        with progress_callback(progress, operation) as report:
            return self._run(json.dumps(request).encode(), kind, report)

    def _run(self, request: bytes, kind: Any, report: Callable[[int, int], object] | None) -> Any:
        child = self._start_child()
        late = threading.Event()

        def expire() -> None:
            late.set()
            child.kill()

        timer: threading.Timer | None = None
        if self._timeout is not None:
            timer = threading.Timer(self._timeout, expire)
            timer.daemon = True
            timer.start()
        try:
            assert child.stdin is not None and child.stdout is not None
            try:
                child.stdin.write(request)
                child.stdin.close()
            except BrokenPipeError:
                pass
            outcome = _receive(child.stdout, kind, report, late)
        except _EndedError:
            raise self._ended(child.wait(), late.is_set()) from None
        except BaseException:
            _stop(child)
            raise
        finally:
            if timer is not None:
                timer.cancel()
            child.kill()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()
            self._children.discard(child)
        if isinstance(outcome, _Failure):
            raise outcome.error
        return outcome

    def _start_child(self) -> subprocess.Popen[bytes]:
        """Start a child that `close` will stop."""
        with self._lock:
            if self._closed:
                raise InvalidError("the sandbox is closed")
            child = _start()
            self._children.add(child)
        # A signal handler of this thread, which holds the lock, may have closed it.
        if self._closed:
            child.kill()
        return child

    def _ended(self, code: int, late: bool) -> Error:
        """Return the error of a child that ended without a result."""
        if late:
            return LimitError(f"the operation took longer than {self._timeout} seconds")
        if self._closed:
            return Error("the sandbox was closed")
        if code == -signal.SIGXCPU or (code == -signal.SIGKILL and self._limits["cpu_seconds"]):
            seconds = self._limits["cpu_seconds"]
            return LimitError(f"the operation took more than {seconds} seconds of processor time")
        if self._limits["memory"] is not None:
            return LimitError(
                f"the confined process ended with code {code}; it may have needed more than "
                f"{self._limits['memory']} bytes of memory"
            )
        return Error(f"the confined process ended with code {code}")


class _EndedError(Exception):
    """The child ended without a result."""


@dataclass(frozen=True)
class _Failure:
    """The exception that the operation raised."""

    error: Exception


def _start() -> subprocess.Popen[bytes]:
    if not sys.executable:
        raise UnsupportedError("cannot start a confined process: sys.executable is not set")
    packages = str(_Path(__file__).resolve().parent.parent)
    return subprocess.Popen(
        # Isolated from the environment's variables, the current directory and other packages.
        [sys.executable, "-I", "-S", "-c", _BOOT, packages],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Ctrl-C is for this process, which then stops the child.
        process_group=0,
    )


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Let a child remove its temporary files, and end it."""
    child.send_signal(signal.SIGINT)
    try:
        child.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()


def _receive(
    out: IO[bytes],
    kind: Any,
    report: Callable[[int, int], object] | None,
    late: threading.Event,
) -> Any:
    """Return the result that the child sends."""
    parts: list[Any] = []
    room = _MAX_PARTS
    while True:
        line = out.readline(_MAX_LINE)
        if late.is_set() or (not line.endswith(b"\n") and len(line) < _MAX_LINE):
            raise _EndedError
        try:
            if not line.endswith(b"\n"):
                raise ValueError("too long")
            if sum(line.count(sign) for sign in b"[{,:") > _MAX_VALUES:
                raise ValueError("too many values")
            message = json.loads(line)
            [(what, value)] = message.items()
            if what == "result":
                last = decode(kind, value)
                return parts + last if parts else last
            if what == "part":
                room -= len(line)
                if room < 0 or typing.get_origin(kind) is not list:
                    raise ValueError(what)
                parts += decode(kind, value)
                continue
            if what == "error":
                return _Failure(decode_error(value))
            if what != "progress":
                raise ValueError(what)
            done, total = decode(list[int], value)
        except (ValueError, AttributeError, RecursionError) as error:
            raise Error("the confined process sent an invalid message") from error
        if report is not None:
            report(done, total)


def _plain(name: str, value: Any) -> Any:
    """Return an argument as JSON values."""
    if name in _FILES and value is not None:
        if name == "src" and isinstance(value, list | tuple):
            return [_plain(name, one) for one in value]
        if not isinstance(value, str | bytes | os.PathLike):
            raise InvalidError(f"a confined operation needs a file name as {name}")
        return os.fsdecode(value)
    if name == "secrets" and value is not None:
        return {key: bytes(secret).hex() for key, secret in value.items()}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Collection) and not isinstance(value, str | bytes):
        return list(value)
    return value


def _files(operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the files that an operation reads, writes and modifies."""
    policy = arguments.get("external_files", "same-dir")
    if operation in ("inspect", "detect"):
        policy = "none"
    read: list[str] = []
    for argument in ("file", "a", "b", "src"):
        given = arguments.get(argument)
        read.extend(given if isinstance(given, list) else [given] if given is not None else [])
    write: list[str] = []
    modify: list[tuple[str, str]] = []
    dst = arguments.get("dst")
    if dst is not None and arguments.get("in_place"):
        modify.append((dst, policy))
    elif dst is not None:
        write.append(dst)
        directory = os.path.dirname(dst)
        options = arguments.get("options") or {}
        for name in (arguments.get("backing"), options.get("backing_file")):
            if name:
                read.append(os.path.join(directory, name))
        if options.get("data_file"):
            write += [options["data_file"], os.path.join(directory, options["data_file"])]
    return {"read": [(name, policy) for name in read], "write": write, "modify": modify}


def sandboxed(
    *,
    memory: int | None = None,
    cpu_seconds: int | None = None,
    timeout: float | None = None,
    require: bool = True,
) -> Sandbox:
    """Run operations on untrusted images in confined child processes.

    >>> diskimg.create("upload.img", "1G", format="qcow2").size
    1073741824
    >>> with diskimg.sandboxed(memory=2 << 30, timeout=600, require=False) as box:
    ...     if box.inspect("upload.img", format="qcow2"):
    ...         box.convert("upload.img", "disk.raw", src_format="qcow2").guest_bytes
    1073741824

    Each call starts a Python process, which gives up everything that the operation does not need
    before it opens an image: see "Confinement" in SECURITY.md. Results and exceptions are those of
    the functions of the package. They are passed as JSON and checked, so that a process that an
    image has taken over cannot do more to this process than return a wrong result.

    Images must be given by name. A callable ``progress`` is called in this process.

    Args:
        memory: Maximum size in bytes of the child's address space (RLIMIT_AS).
        cpu_seconds: Maximum processor time of each operation, in seconds.
        timeout: Maximum duration of each operation, in seconds.
        require: Raise an exception if the system does not support the sandbox fully (Linux 6.12).
            With `False`, what it supports is applied.

    Raises:
        UnsupportedError: By the operations, if the sandbox is not supported.
        LimitError: By the operations, if they exceed one of these limits.
    """
    return Sandbox(memory=memory, cpu_seconds=cpu_seconds, timeout=timeout, require=require)
