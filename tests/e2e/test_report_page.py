"""The pages of `pydreaming report` in a real browser, without a network: on a desk and on a phone nothing sticks out, and everything plays.

Set PYDREAMING_SCREENSHOTS to a folder to keep pictures of the pages.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_model import make_checkpoint, write_sweep

from pydreaming import cli
from pydreaming.analysis.reports.clip import DREAMS

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="needs chromium and chromedriver")

LONG = "a-recording-with-a-name-that-is-much-too-long-for-the-screen-of-any-telephone-there-is"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    make_checkpoint(folder / "run", steps=2)
    clip = write_sweep(folder / f"sounds/{LONG}.wav", 1.0, seed=3)
    words = [str(clip), "--normal", str(clip.parent), "--out", str(folder / "clip.html")]
    assert cli.main(["report", str(folder / "run"), *words]) == 0
    return folder / "clip.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    flags = ["headless=new", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking", "disable-component-update"]
    for flag in [*flags, "disable-sync", f"user-data-dir={tmp_path_factory.mktemp('chromium')}"]:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=str(CHROMEDRIVER)))
    driver.set_page_load_timeout(60)
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd(
        "Network.emulateNetworkConditions", {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    )
    yield driver
    driver.quit()


@pytest.mark.parametrize("width", [1280, 390])
def test_everything_is_there_and_nothing_sticks_out(page: Path, browser: Any, width: int) -> None:
    shape = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", shape)
    browser.get(page.as_uri())
    durations = "return [...document.querySelectorAll('audio')].map(a => a.duration || 0)"
    deadline = time.monotonic() + 30
    while not all(browser.execute_script(durations)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert browser.execute_script(durations)[0] == pytest.approx(1.0, abs=0.01)
    assert len(browser.execute_script(durations)) == 1 + DREAMS
    assert all(browser.execute_script(durations))
    assert browser.execute_script("return [...document.images].every(i => i.naturalWidth > 0)")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert "on average" in browser.execute_script("return document.body.innerText")
    assert browser.get_log("browser") == []  # no refused resource, no script error
    _keep_picture(browser, width)


def _keep_picture(browser: Any, width: int) -> None:
    if folder := os.environ.get("PYDREAMING_SCREENSHOTS", ""):
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(Path(folder) / f"clip-report-{width}.png"))
