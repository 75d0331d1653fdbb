from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from workers.children import (
    FIRST_DELAY_S,
    HEALTHY_S,
    MAX_DELAY_S,
    MAX_ERRORS,
    SPINS,
    Backoff,
    Child,
    describe_exit,
    role_environment,
)


def test_delays_double_up_to_a_limit_and_begin_anew_after_a_healthy_life() -> None:
    backoff = Backoff()
    delays = [backoff.died(-9, 1.0) for _ in range(8)]
    assert delays[:3] == [FIRST_DELAY_S, 2 * FIRST_DELAY_S, 4 * FIRST_DELAY_S]
    assert delays[-1] == MAX_DELAY_S
    assert backoff.died(-9, HEALTHY_S) == FIRST_DELAY_S


def test_errors_in_a_row_are_given_up_and_kills_are_not() -> None:
    failing, killed = Backoff(), Backoff()
    assert [failing.died(1, 0.1) is None for _ in range(MAX_ERRORS)] == [False] * (MAX_ERRORS - 1) + [True]
    assert all(killed.died(-11, 0.1) is not None for _ in range(50))
    mixed = Backoff()
    assert all(mixed.died(code, 0.1) is not None for code in (1, 1, 1, 1, -9, 1, 1, 1, 1))


@pytest.mark.parametrize(("code", "words"), [(0, "exit code 0"), (3, "exit code 3"), (-9, "SIGKILL"), (-200, "signal 200")])
def test_exits_are_described(code: int, words: str) -> None:
    assert describe_exit(code) == words


def child(tmp_path: Path, code: str, threads: int = 0) -> Child:
    return Child("role", ["-c", code], tmp_path / "role.log", threads)


def finish(process: Child) -> int:
    end = time.monotonic() + 10
    while (code := process.poll()) is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    return code


def test_output_goes_to_the_log_and_numerical_libraries_are_held_back(tmp_path: Path) -> None:
    role = child(tmp_path, "import os; print('first'); print(os.environ['OMP_NUM_THREADS'])", threads=1)
    role.start()
    assert finish(role) == 0
    assert role.last_words() == "1"
    role.start()
    assert finish(role) == 0
    assert (tmp_path / "role.log").read_text().count("first") == 2  # appended, not replaced


def test_an_exit_is_reported_once_and_started_again_when_due(tmp_path: Path) -> None:
    role = child(tmp_path, "raise SystemExit(3)")
    role.start()
    assert finish(role) == 3
    assert role.poll() is None
    delay = role.plan_restart(3)
    assert delay == FIRST_DELAY_S
    assert not role.restart_due()
    time.sleep(delay)
    assert role.restart_due()
    assert finish(role) == 3


def test_kill_takes_grandchildren_along(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "print(p.pid); time.sleep(60)"
    )
    role = child(tmp_path, code)
    role.start()
    end = time.monotonic() + 10
    while not role.last_words():
        assert time.monotonic() < end
        time.sleep(0.02)
    grandchild = int(role.last_words())
    role.signal(signal.SIGKILL)
    assert finish(role) == -9
    status = Path(f"/proc/{grandchild}/stat")
    while status.exists() and status.read_text().split()[2] != "Z":
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_child_shares_its_parents_session_but_not_its_process_group(tmp_path: Path) -> None:
    """In a session of its own the workers' niceness would count for nothing against the learner (Linux autogroup)."""
    role = child(tmp_path, "import os; print(os.getsid(0), os.getpgid(0) == os.getpid())")
    role.start()
    assert finish(role) == 0
    assert role.last_words() == f"{os.getsid(0)} True"


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("2026-11-23 18:40:51,754 ERROR error: cannot write x: No space left\n", "cannot write x: No space left"),
        ("error: first\nlast\n\n", "last"),
        ("x" * 10_000 + "\nerror: no such thing", "no such thing"),
        ("", ""),
    ],
)
def test_the_last_words_of_a_log_are_its_cause(tmp_path: Path, log: str, words: str) -> None:
    (tmp_path / "log").write_text(log)
    assert Child("w", [], tmp_path / "log").last_words() == words
    assert Child("w", [], tmp_path / "none").last_words() == ""


def test_one_that_was_silent_is_not_silent_again_while_it_dies(tmp_path: Path) -> None:
    role = child(tmp_path, f"import pathlib, time; pathlib.Path({str(tmp_path / 'sign')!r}).touch(); time.sleep(60)")
    role.alive = tmp_path / "sign"
    role.start()
    end = time.monotonic() + 30
    while role.silent_s() < 0.2:
        assert time.monotonic() < end
        time.sleep(0.05)
    role.kill_hung()
    assert role.silent_s() == 0.0
    time.sleep(0.3)
    assert role.silent_s() == 0.0
    assert finish(role) == -9


def test_a_child_is_nice_before_it_loads_anything(tmp_path: Path) -> None:
    role = child(tmp_path, "import os; print(os.nice(0))")
    role.niceness = 3
    role.start()
    assert finish(role) == 0
    assert (tmp_path / "role.log").read_text().strip() == str(min(19, os.nice(0) + 3))


def test_threads_that_wait_spin_for_a_moment_unless_the_user_says_otherwise() -> None:
    assert role_environment({}, 0)["GOMP_SPINCOUNT"] == SPINS
    assert role_environment({"GOMP_SPINCOUNT": "7"}, 0)["GOMP_SPINCOUNT"] == "7"
    assert "GOMP_SPINCOUNT" not in role_environment({"OMP_WAIT_POLICY": "PASSIVE"}, 0)
    assert role_environment({}, 1)["OMP_NUM_THREADS"] == "1"
