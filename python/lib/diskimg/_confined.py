"""The child process of `diskimg.sandboxed`: runs one operation in the sandbox.

The request is a JSON object on standard input. Each line of standard output is a JSON object with
one key: ``progress``, ``part``, ``result`` or ``error``. A long list is sent in parts, of which
``result`` is the last.
"""

from __future__ import annotations

import difflib  # noqa: F401  # For messages: nothing can be imported in the sandbox.
import json
import os
import signal
import sys
from typing import Any

from diskimg import _native, _operations
from diskimg._errors import UnsupportedError
from diskimg._wire import encode, encode_error

_PART = 1000
"""Number of values in a part of a list."""


def main() -> None:
    """Run the operation and end the process."""
    request = json.load(sys.stdin)
    out = os.dup(1)
    # Nothing else may be printed among the messages.
    os.dup2(2, 1)

    def send(**message: Any) -> None:
        line = memoryview(json.dumps(message).encode() + b"\n")
        while line:
            line = line[os.write(out, line) :]

    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _limit(request["memory"], request["cpu_seconds"])
        _confine(request)
        result = encode(_run(request, send))
        _native.release()
        if isinstance(result, list):
            *parts, result = [result[at : at + _PART] for at in range(0, len(result) or 1, _PART)]
            for part in parts:
                send(part=part)
        send(result=result)
    except KeyboardInterrupt:
        _native.release()
        os._exit(1)
    except Exception as error:
        # Before the parent kills this process.
        _native.release()
        send(error=encode_error(error))
    # Without the end of the interpreter, which would open files.
    os._exit(0)


def _limit(memory: int | None, cpu_seconds: int | None) -> None:
    import resource

    for kind, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, cpu_seconds)):
        if value is not None:
            resource.setrlimit(kind, (value, value))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _confine(request: dict[str, Any]) -> None:
    read = [(name, policy) for name, policy in request["read"]]
    modify = [(name, policy) for name, policy in request["modify"]]
    try:
        _native.confine(read, request["write"], modify, request["options"])
    except OSError as error:
        if request["require"]:
            raise UnsupportedError(f"cannot confine the operation: {error}") from None


def _run(request: dict[str, Any], send: Any) -> Any:
    arguments = request["arguments"]
    if request["progress"]:
        arguments["progress"] = lambda done, total: send(progress=[done, total])
    if arguments.get("secrets") is not None:
        secrets = arguments["secrets"].items()
        arguments["secrets"] = {name: bytes.fromhex(value) for name, value in secrets}
    return getattr(_operations, request["operation"])(**arguments)
