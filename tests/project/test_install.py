"""scripts/install.py: what it hands on of pip's settings, a whole set-up through a mirror, and what it says when one fails."""

import contextlib
import functools
import hashlib
import http.server
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from scripts import install
from tests.conftest import LIMIT_S, ROOT
from tests.project.containers import QuietHandler

PYTHON = Path(sys.executable)
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "seefood"
version = "0.1.0"
requires-python = ">=3.11"
[project.optional-dependencies]
serve = ["soup"]
cloud = ["uv"]
[dependency-groups]
build = []
"""
BACKEND = """
import zipfile
def build_editable(folder, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(f"{folder}/seefood-0.1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("seefood-0.1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: seefood\\nVersion: 0.1.0\\n")
        wheel.writestr("seefood-0.1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("seefood-0.1.0.dist-info/RECORD", "")
    return "seefood-0.1.0-py3-none-any.whl"
"""


@pytest.fixture
def pip_settings(tmp_path, monkeypatch):
    """Pip with no settings but those that are written to this file."""
    for variable in [name for name in os.environ if name.startswith("PIP_")] + ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]:
        monkeypatch.delenv(variable, raising=False)
    file = tmp_path / "pip.conf"
    file.write_text("")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    return file


def test_mirror_and_certificates_of_pip_are_those_of_uv(pip_settings, monkeypatch):
    pip_settings.write_text("[global]\nindex-url = https://mirror.example/simple\ncert = /own/bundle.pem\n")
    settings = {"UV_DEFAULT_INDEX": "https://mirror.example/simple", "SSL_CERT_FILE": "/own/bundle.pem"}
    assert install.index_of_pip(PYTHON) == settings
    monkeypatch.setenv("PIP_INDEX_URL", "https://other.example/simple")
    assert install.index_of_pip(PYTHON)["UV_DEFAULT_INDEX"] == "https://other.example/simple"


def test_certificates_that_pip_takes_from_the_environment_are_those_of_uv(pip_settings, monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)  # no other file either
    assert install.index_of_pip(PYTHON) == {}
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/bundle.pem")
    assert install.index_of_pip(PYTHON)["SSL_CERT_FILE"] == "/bundle.pem"


WHEEL = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def wheel(folder, name, files):
    """Put a wheel of these files into an index's folder, and onto its page."""
    path = folder / name / f"{name}-1.0-py3-none-any.whl"
    path.parent.mkdir(parents=True, exist_ok=True)
    about = f"{name}-1.0.dist-info"
    contents = {**files, f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", f"{about}/WHEEL": WHEEL}
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in contents.items():
            archive.writestr(file, content)
        archive.writestr(f"{about}/RECORD", "".join(f"{file},,\n" for file in [*contents, f"{about}/RECORD"]))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (path.parent / "index.html").write_text(f'<a href="{path.name}#sha256={digest}">{path.name}</a>')


class Mirror:
    """A package index on this machine, and a project whose uv.lock names the public one, which cannot be reached from here."""

    def __init__(self, folder):
        self.index, self.project, self.requests = folder / "index", folder / "project", []
        wheel(self.index, "soup", {"soup.py": "WARM = True\n"})
        # stands in for the package: it starts the program that is installed beside this Python
        program = shutil.which("uv", path=str(PYTHON.parent))
        wheel(
            self.index,
            "uv",
            {"uv/__init__.py": "", "uv/__main__.py": f"import os, sys; os.execv({program!r}, ['uv', *sys.argv[1:]])"},
        )
        (self.project / "scripts").mkdir(parents=True)
        shutil.copy(ROOT / "scripts/install.py", self.project / "scripts")
        (self.project / "pyproject.toml").write_text(PROJECT)
        (self.project / "backend.py").write_text(BACKEND)

    def lock(self, url):
        command = [str(PYTHON.with_name("uv")), "lock", "--quiet", "--default-index", url, "--python", str(PYTHON)]
        subprocess.run(command, cwd=self.project, check=True)
        path = self.project / "uv.lock"
        text = path.read_text().replace(f'registry = "{url}"', 'registry = "https://index.example/simple"')
        path.write_text(text.replace(url, "https://files.example"))

    def install(self, *extras, **environment):
        nowhere = "http://127.0.0.1:9"
        own = {"HTTPS_PROXY": nowhere, "HTTP_PROXY": nowhere, "ALL_PROXY": nowhere, "NO_PROXY": "127.0.0.1"}
        own |= {"UV_CACHE_DIR": str(self.project / "cache"), "PIP_NO_CACHE_DIR": "1"}
        return subprocess.run(
            [sys.executable, "scripts/install.py", *extras],
            cwd=self.project,
            env={**os.environ, **own, **environment},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    def failure(self, *extras):
        """What a set-up that fails prints on stderr."""
        done = self.install(*extras)
        assert done.returncode == 1
        assert done.stderr.startswith("error: the installation failed (build/install.log)")
        return done.stderr

    @contextlib.contextmanager
    def another(self, package):
        """Within it, the mirror has another file than uv.lock names."""
        before = {path: path.read_bytes() for path in (self.index / package).iterdir()}
        wheel(self.index, package, {"stranger.py": "", f"{package}/__init__.py": "", f"{package}/__main__.py": ""})
        yield
        for path, content in before.items():
            path.write_bytes(content)


@pytest.fixture
def mirror(tmp_path, pip_settings):
    mirror = Mirror(tmp_path)

    class Handler(QuietHandler):
        def send_head(self):
            mirror.requests.append(self.path)
            return super().send_head()

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(mirror.index))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        mirror.lock(url)
        mirror.requests.clear()
        pip_settings.write_text(f"[global]\nindex-url = {url}\n")
        yield mirror
        server.shutdown()


@pytest.mark.slow
def test_set_up_through_a_mirror_goes_on_after_failures_and_installs_nothing_that_uv_lock_does_not_name(mirror, pip_settings):
    """One .venv for all of it: to make it takes longest."""
    assert "files.example" in (mirror.project / "uv.lock").read_text()
    through_the_mirror = pip_settings.read_text()
    pip_settings.write_text("[global]\nindex-url = http://127.0.0.1:9/simple\nretries = 1\n")
    assert "The package index cannot be reached: check the network, or set PIP_INDEX_URL to a mirror." in mirror.failure("serve")
    pip_settings.write_text(through_the_mirror)
    for package in ("uv", "soup"):
        with mirror.another(package):
            assert "A file is not the one that uv.lock names" in mirror.failure("serve")
    assert not list((mirror.project / ".venv").rglob("stranger.py"))
    assert not list((mirror.project / ".venv").glob("installed-*"))
    mirror.requests.clear()

    done = mirror.install("serve", "cloud")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "installing serve + cloud into .venv" in done.stdout
    assert "Installed" in done.stdout  # a sign of life
    assert "/soup/soup-1.0-py3-none-any.whl" in mirror.requests
    assert {path.name for path in (mirror.project / ".venv").glob("installed-*")} == {"installed-serve", "installed-cloud"}
    subprocess.run([str(mirror.project / ".venv/bin/python"), "-c", "import soup; assert soup.WARM"], check=True)
    mirror.requests.clear()
    assert mirror.install("serve").returncode == 0
    assert not [path for path in mirror.requests if path.endswith(".whl")]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_with_the_signals_status(mirror, number, status):
    command = [sys.executable, "scripts/install.py", "serve"]
    process = subprocess.Popen(command, cwd=mirror.project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline().startswith("making .venv")
    process.send_signal(number)
    assert "interrupted: run the same command again, it goes on where it stopped" in process.communicate(timeout=LIMIT_S)[1]
    assert process.returncode == status


@pytest.mark.parametrize(
    ("log", "advice"),
    [
        ("error: Failed to write: No space left on device (os error 28)", "The disk is full"),
        ("error: failed to create directory: Permission denied", "Files here belong to someone else"),
        ("cause: Hash mismatch for `soup==1.0`", "A file is not the one that uv.lock names"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", "A file is not the one that uv.lock names"),
        ("error: No solution found when resolving dependencies", "A package has no build for Python"),
        ("error: Failed to fetch: `https://host/simple/soup/`", "The package index cannot be reached"),
        ("error: something else", "Run the same command again"),
    ],
)
def test_a_failure_comes_with_its_remedy(tmp_path, monkeypatch, log, advice):
    monkeypatch.setattr(install, "LOG", tmp_path / "install.log")
    (tmp_path / "install.log").write_text(f"first\n{log}\n")
    message = install.explain_failure()
    assert log in message
    assert message.splitlines()[-1].startswith(advice)


def test_too_little_room_is_said_before_anything_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["install.py", "serve", "train"])
    monkeypatch.setattr(install.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 98, 2_500_000_000))
    assert install.main() == 1
    assert "error: the disk is full: 2.5 GB are free here, serve+train may need 13.0 GB" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_uv_is_pinned_by_the_hashes_of_its_wheels(monkeypatch):
    monkeypatch.chdir(ROOT)
    requirement = install.pinned("uv")
    assert re.fullmatch(r"uv==[\d.]+( --hash=sha256:[0-9a-f]{64}){5,}", requirement)
