"""What a user sees: a tracked run in the real MLflow page, in a real browser.

Set PYDREAMING_SCREENSHOTS to a folder to keep pictures of the pages.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pytest
from listening import beyond_this_host, listening

from pydreaming.config import load_config
from pydreaming.tracking import Spool, run_link, runs_link
from pydreaming.tracking.writer import RUN_FILE, SPOOL

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="needs chromium and chromedriver")

REPORT = "<!doctype html><title>r</title><h1 id='h'>What the model heard</h1><script>document.title='ran'; h.append(' indeed')</script>"
METRICS = {
    "learning/loss": lambda t: 3 * math.exp(-3 * t) + 1,
    "learning/nce_accuracy_k1": lambda t: 1 - math.exp(-4 * t),
    "learning/nce_accuracy_k2": lambda t: 0.9 - 0.9 * math.exp(-3 * t),
    "world_model/retrieval_k1": lambda t: 0.8 * t,
    "world_model/retrieval_k8": lambda t: 0.4 * t,
    "health/kl": lambda t: 5 - 2 * t,
    "health/perplexity": lambda t: 1 + 20 * t,
    "machine/steps_per_s": lambda t: 12 + math.sin(9 * t),
    "workers/clips_per_s_mean": lambda t: 40 + math.cos(9 * t),
}


class Shown(NamedTuple):
    """A served run: the link that `workers.ui` printed, the address below it, the ids, and where its processes listen."""

    link: str
    base: str
    experiment_id: str
    run_id: str
    sockets: frozenset[tuple[str, int]]


def _write_run(run_dir: Path) -> None:
    import matplotlib.image

    run_dir.mkdir()
    (run_dir / "config.yaml").write_text(load_config(["defaults"], ["--run.dir", str(run_dir.parent)]).to_yaml())
    (run_dir / "report.html").write_text(REPORT)
    with wave.open(str(run_dir / "dream.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes((8000 * np.sin(np.arange(8000) * 0.3)).astype("<i2").tobytes())
    spool = Spool(run_dir / SPOOL)
    spool.start()
    for step in range(0, 101, 2):
        spool.metrics(step, {name: curve(step / 100) for name, curve in METRICS.items()})
    for step in (0, 50, 100):
        picture = run_dir / f"dream-{step}.png"
        matplotlib.image.imsave(picture, np.sin(np.outer(np.arange(64), np.arange(160)) / (100 + 4 * step)), origin="lower")
        spool.image(picture, "dream vs truth", step)
    spool.artifact(run_dir / "dream.wav", "audio")
    spool.artifact(run_dir / "report.html")
    spool.end("FINISHED")
    subprocess.run([sys.executable, "-m", "workers.tracker", "--run", str(run_dir)], check=True, timeout=90)


@pytest.fixture(scope="session")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    runs = tmp_path_factory.mktemp("runs")
    _write_run(runs / "digits-first-try")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "workers.ui", "--run-dir", str(runs), "--port", str(port)]
    page = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert page.stdout is not None
        link = page.stdout.readline().removeprefix("MLflow: ").strip()
        assert link.startswith("http://127.0.0.1"), "the page did not start"
        run = json.loads((runs / "digits-first-try" / RUN_FILE).read_text())
        served = psutil.Process(page.pid)
        sockets = frozenset(listening([served, *served.children(recursive=True)]))
        yield Shown(link, f"http://127.0.0.1:{port}", run["experiment_id"], run["run_id"], sockets)
    finally:
        page.send_signal(signal.SIGINT)
        assert page.wait(30) == 0
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", port))  # Ctrl-C left no server behind


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    flags = ["headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"]
    flags += ["disable-component-update", "disable-sync", "window-size=1500,1300", f"user-data-dir={tmp_path_factory.mktemp('chromium')}"]
    for flag in flags:
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=str(CHROMEDRIVER)))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


def _until(browser: Any, what: Callable[[], bool], name: str, seconds: float = 40.0) -> None:
    """Wait for the page to show something; keep a picture of it either way."""
    deadline = time.monotonic() + seconds
    while not (found := what()) and time.monotonic() < deadline:
        time.sleep(0.3)
    folder = os.environ.get("PYDREAMING_SCREENSHOTS", "")
    if folder:
        time.sleep(1.5)  # let charts settle
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))
    assert found, f"the page does not show it ({name}): {_text(browser)[:1500]}"


def _text(browser: Any) -> str:
    return str(browser.execute_script("return document.body.innerText"))


def test_the_page_is_served_to_this_host_only(shown: Shown) -> None:
    assert int(shown.base.rpartition(":")[2]) in {port for _, port in shown.sockets}
    assert beyond_this_host(shown.sockets) == []


def test_link_opens_the_dashboard_with_charts_under_questions(shown: Shown, browser: Any) -> None:
    browser.get(shown.link)
    wanted = ["digits-first-try", "1. Is it learning?", "2. Is it a world model?", "nce accuracy by horizon k"]
    _until(browser, lambda: all(word in _text(browser) for word in wanted), "dashboard")
    _until(browser, lambda: len(browser.find_elements("css selector", ".js-plotly-plot .scatterlayer .trace")) >= 3, "charts")
    assert "GenAI" not in browser.current_url


def test_image_series_has_a_step_slider(shown: Shown, browser: Any) -> None:
    browser.get(shown.link)

    def scrolled() -> bool:
        for heading in browser.find_elements("xpath", "//*[contains(text(), '6. Look and listen')]"):
            browser.execute_script("arguments[0].scrollIntoView({block: 'start'})", heading)
        return bool(browser.find_elements("css selector", "[role=slider]")) and _loaded_pictures(browser) > 0

    _until(browser, scrolled, "images")


def _loaded_pictures(browser: Any) -> int:
    script = "return [...document.images].filter(i => i.naturalWidth > 0 && i.src.includes('get-artifact')).length"
    return int(browser.execute_script(script))


def test_plain_link_without_the_dashboard_shows_the_run_too(shown: Shown, browser: Any) -> None:
    """The way out for the day that MLflow does not know our view state any more."""
    browser.get("about:blank")
    browser.get(runs_link(shown.base, shown.experiment_id, with_dashboard=False))
    _until(browser, lambda: "digits-first-try" in _text(browser) and "1 Is it learning" in _text(browser), "plain")


def test_artifacts_page_renders_the_report_and_plays_audio(shown: Shown, browser: Any) -> None:
    browser.get(run_link(shown.base, shown.experiment_id, shown.run_id, "artifacts"))
    _until(browser, lambda: "report.html" in _text(browser) and "config.yaml" in _text(browser), "artifacts")
    browser.find_element("xpath", "//*[text()='report.html']").click()
    _until(browser, lambda: "What the model heard indeed" in _frame_text(browser), "report")
    browser.find_element("xpath", "//*[text()='audio']").click()
    _until(browser, lambda: bool(browser.find_elements("xpath", "//*[text()='dream.wav']")), "audio-folder")
    browser.find_element("xpath", "//*[text()='dream.wav']").click()
    _until(browser, lambda: _audio_seconds(browser) == pytest.approx(1.0, abs=0.1), "audio")


def _audio_seconds(browser: Any) -> float:
    """Duration of the audio element, which MLflow keeps in a shadow root; 0 where there is none."""
    script = """
      const find = (root) => { for (const e of root.querySelectorAll('*')) {
        if (e.tagName === 'AUDIO') return e.duration || 0;
        const inner = e.shadowRoot ? find(e.shadowRoot) : 0;
        if (inner) return inner;
      } return 0; };
      return find(document);"""
    return float(browser.execute_script(script))


def _frame_text(browser: Any) -> str:
    frames = browser.find_elements("tag name", "iframe")
    for frame in frames:
        browser.switch_to.frame(frame)
        text = _text(browser)
        browser.switch_to.default_content()
        if text:
            return text
    return ""
