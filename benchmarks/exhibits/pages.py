"""Pictures for the gallery: photographs of pages in headless Chromium, and PNG files made small."""

from __future__ import annotations

import base64
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

WIDTH = 1280  # of the browser's window, px
COLOURS = 128  # in a picture's palette: a spectrogram in fewer shows steps
FLAGS = ("headless=new", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking", "hide-scrollbars")


class Browser:
    """Takes photographs of local pages."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def photograph(self, page: Path, picture: Path, height: int) -> None:
        """Write the top `height` px of a page, or all of a shorter one, as PNG."""
        self._size(height)
        self._driver.get(page.absolute().as_uri())
        self._size(min(height, self._driver.execute_script("return document.documentElement.scrollHeight")))
        picture.write_bytes(base64.b64decode(self._driver.get_screenshot_as_base64()))

    def _size(self, height: int) -> None:
        shape = {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", shape)


def can_photograph() -> bool:
    """Whether Chromium and its driver are installed."""
    return _chromium() is not None and shutil.which("chromedriver") is not None


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium, for as long as it is needed."""
    from selenium import webdriver

    with tempfile.TemporaryDirectory(prefix="gallery-", ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = str(_chromium())
        for flag in (*FLAGS, f"user-data-dir={profile}"):
            options.add_argument(f"--{flag}")
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=shutil.which("chromedriver")))
        try:
            yield Browser(driver)
        finally:
            driver.quit()


def shrink(source: Path, picture: Path) -> None:
    """Write a PNG again with a palette: a third of the bytes, for the eye the same."""
    picture.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(source) as image:
        flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")
    flat.quantize(COLOURS, dither=Image.Dither.NONE).save(picture, optimize=True)


def _chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("google-chrome")
