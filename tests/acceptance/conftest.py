"""Programs that a user has installed."""

import os
import shutil

import pytest


@pytest.fixture
def chromium() -> str:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is not installed, and CI must not skip tests")
        pytest.skip("chromium is not installed (on Debian: apt install chromium)")
    return program
