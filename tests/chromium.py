"""The browser of the tests: Debian's chromium, or CHROMIUM=path."""

import os
import shutil

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or ""
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="there is no chromium: apt-get install chromium")
