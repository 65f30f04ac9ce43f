"""Finds a Chromium for the tests in this folder; as a script, installs one where there is none."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"


def find_chromium() -> str | None:
    """The path of $CHROMIUM, of the system's Chromium or Chrome, or of playwright's own; None if there is none."""
    for place in (os.environ.get("CHROMIUM"), *map(shutil.which, NAMES), MAC):
        if place and Path(place).exists():
            return place
    with sync_playwright() as playwright:
        place = playwright.chromium.executable_path
    return place if Path(place).exists() else None


def install_chromium() -> None:
    """Debian's package where this may install packages, else playwright's download into the user's cache."""
    is_debian = sys.platform == "linux" and platform.freedesktop_os_release().get("ID") == "debian"
    if is_debian and os.geteuid() == 0:
        subprocess.run(["apt-get", "update", "-qq"], check=False)
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"], check=False)
    else:
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False)


if __name__ == "__main__":
    if not find_chromium():
        install_chromium()
    if not find_chromium():
        sys.exit("No Chromium or Chrome was found, and none could be installed. Install one, or set CHROMIUM=its path.")
