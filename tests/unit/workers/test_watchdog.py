from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

CODE = """
import logging, sys, time
from workers.watchdog import Watchdog
logging.basicConfig(level=logging.INFO)
dog = Watchdog(1.0)
for _ in range(5):
    time.sleep(0.3)
    dog.progress()
print("worked", flush=True)
{then}
"""


def run(then: str) -> subprocess.Popen[str]:
    code = CODE.format(then=then)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_loop_that_stands_still_ends_the_process_and_says_where() -> None:
    process = run("import ctypes; ctypes.CDLL(None).sleep(60)")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "worked\n")
    assert 'File "<string>", line ' in err
    assert "error: no progress for 1 s" in err.splitlines()[-1]


def test_who_is_closed_or_was_stopped_from_outside_is_left_in_peace() -> None:
    process = run("time.sleep(0.3); dog.progress(); dog.close(); time.sleep(1.6); print('ended')")
    assert process.stdout is not None
    assert process.stdout.readline() == "worked\n"
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(1.6)
    os.kill(process.pid, signal.SIGCONT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "ended\n"), err
