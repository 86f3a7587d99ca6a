"""What Lighthouse says of the page, on a simulated phone and on a desktop.

Needs Debian's chromium (or CHROMIUM=path) and Node.js, whose npm fetches Lighthouse.
"""

import json
import os
import shutil
import subprocess

import pytest

from tests.chromium import CHROMIUM, needs_chromium
from tests.conftest import LIMIT_S

LIGHTHOUSE = "lighthouse@12.8.2"  # the last that runs on Node.js 18 and 20
pytestmark = [
    pytest.mark.browser,
    pytest.mark.server,
    pytest.mark.slow,
    needs_chromium,
    pytest.mark.skipif(not shutil.which("npx"), reason="there is no npx: apt-get install npm"),
]


@pytest.mark.parametrize("form", ["phone", "desktop"])
def test_each_score_is_at_least_95(server, tmp_path, form):
    out = tmp_path / "report.json"
    command = ["npx", "--yes", LIGHTHOUSE, f"http://127.0.0.1:{server.port}/", "--quiet", "--output=json", f"--output-path={out}"]
    command += ["--chrome-flags=--headless=new --no-sandbox --disable-gpu"]
    command += ["--only-categories=performance,accessibility,best-practices"]
    command += ["--preset=desktop"] if form == "desktop" else []
    environment = os.environ | {"CHROME_PATH": CHROMIUM}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    scores = {name: round(100 * category["score"]) for name, category in report["categories"].items()}
    print(form, scores)  # pytest -s
    lost = {name: audit["title"] for name, audit in report["audits"].items() if audit["score"] == 0}
    assert len(scores) == 3
    assert min(scores.values()) >= 95, (scores, lost)
