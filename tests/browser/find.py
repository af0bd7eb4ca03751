"""Find a Chromium for the browser tests: the system's, Playwright's, or a fresh install."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)


def system_browser() -> str | None:
    """Path of an installed Chromium or Chrome; PLAYGROUND_BROWSER overrides."""
    if chosen := os.environ.get("PLAYGROUND_BROWSER"):
        return chosen
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return found or next((path for path in MAC if Path(path).exists()), None)


def playwright_browser() -> str | None:
    """Path of the browser that Playwright downloaded, if it did."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def find() -> str | None:
    return system_browser() or playwright_browser()


def install() -> str | None:
    """Try Playwright's own browser, then the system's package manager."""
    attempts = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    if shutil.which("apt-get"):
        sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
        attempts += [[*sudo, "apt-get", "update", "-qq"],
                     [*sudo, "apt-get", "install", "-y", "-qq", "chromium"]]  # fmt: skip
        if os.geteuid() == 0:  # quicker and smaller, and it brings its libraries
            attempts = attempts[1:] + attempts[:1]
    elif shutil.which("brew"):
        attempts.append(["brew", "install", "--cask", "chromium"])
    for command in attempts:
        try:
            subprocess.run(command, check=False, timeout=900, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.TimeoutExpired) as error:
            print(f"{command[0]}: {error}", file=sys.stderr)
        if found := find():
            return found
    return None


if __name__ == "__main__":
    path = find() or (install() if "--install" in sys.argv else None)
    print(path or "no browser found: install Chromium or Chrome")
    sys.exit(path is None)
