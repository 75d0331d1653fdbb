"""Kills a process at every operation on files, one after the other: what a power cut or kill -9 leaves, in all its forms."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator

OPERATIONS = (
    "open",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.scandir",
    "os.listdir",
    "shutil.rmtree",
    "os.link",
    "os.truncate",
)
_LIMIT = 500


def at_every_file_operation(act: Callable[[], object]) -> Iterator[int]:
    """Run `act` in a fork of this process that gets SIGKILL just before its n-th operation on files, for n = 1, 2, ... to its end.

    Yields n after each death, and once more after the first run that came to its end; the caller looks at what is left and prepares
    the next one. Raises AssertionError when `act` itself fails.
    """
    for number in range(1, _LIMIT):
        pid = os.fork()
        if pid == 0:
            _run(act, number)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        assert code in (0, -signal.SIGKILL), f"the act failed by itself before operation {number}"
        yield number
        if code == 0:
            print(f"killed before each of {number - 1} operations on files")
            return
    raise AssertionError(f"more than {_LIMIT} operations")


def _run(act: Callable[[], object], number: int) -> None:
    count = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event in OPERATIONS:
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    code = 1
    try:
        sys.addaudithook(hook)  # there is no way to take it off again: hence a process for each
        act()
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(code)
