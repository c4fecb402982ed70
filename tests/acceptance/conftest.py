"""What a user has: programs, a terminal, a browser."""

import os
import shutil

import pytest


@pytest.fixture
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is not installed, and in CI nothing may be skipped")
        pytest.skip("chromium is not installed (on Debian: apt install chromium)")
    return found
