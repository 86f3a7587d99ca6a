"""Set up .venv with the packages of some extras: `python3 scripts/install.py serve train dev`.

Runs on the machine's own Python, before anything is installed: standard library only. Needs no root.
Writes .venv/installed-EXTRA when an extra is complete, and build/install.log with all that was said.

uv installs, which takes a third of pip's time for the gigabytes of the training packages. pip fetches uv, and its settings
(PIP_INDEX_URL, pip.conf) are uv's, too.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TextIO

VENV = Path(".venv")
LOG = Path("build/install.log")
OLDEST = (3, 11)
SETTING = re.compile(r"^([\w:-]+)\.([\w-]+)='(.*)'$", re.MULTILINE)
# what `du -s .venv` shows once an extra is installed, and the same again for the downloads
NEEDED_GB = {"serve": 1.0, "train": 12.0, "cloud": 0.5, "dev": 0.5}


def make_venv() -> Path:
    """The Python of .venv, which is made, or made anew if an earlier set-up was broken off."""
    python = VENV / "bin" / "python"
    works = python.exists() and subprocess.run([str(python), "-m", "pip", "--version"], capture_output=True).returncode == 0
    if not works:
        print(f"making {VENV} with Python {sys.version.split()[0]}", flush=True)
        done = subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], capture_output=True, text=True)
        if done.returncode != 0:
            shutil.rmtree(VENV, ignore_errors=True)
            raise SystemExit(
                f"error: {sys.executable} could not make a virtual environment:\n{(done.stdout + done.stderr).strip()}\n"
                "On Debian and Ubuntu its venv module is a package of its own: apt install python3-venv"
            )
    return python


def index_of_pip(python: Path) -> "dict[str, str]":
    """The environment variables that tell uv of the mirror and the certificates that pip is set to use."""
    done = subprocess.run([str(python), "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    found = SETTING.findall(done.stdout)
    # of pip's sections the later one here overrides
    settings = {name: value for where in ("global", "install", ":env:") for section, name, value in found if section == where}
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # which pip obeys, too
        if variable in os.environ:
            settings.setdefault("cert", os.environ[variable])
    known = {"index-url": "UV_DEFAULT_INDEX", "cert": "SSL_CERT_FILE"}
    return {name: settings[ours] for ours, name in known.items() if ours in settings}


def install(python: Path, extras: "list[str]") -> int:
    """Install the extras of pyproject.toml as constraints.txt pins them, with signs of life. Returns the exit status."""
    LOG.parent.mkdir(exist_ok=True)
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "-c", "constraints.txt", "uv"]
    # one build that caches its bytecode: where Python writes none, each process would compile torch anew
    uv = [str(python), "-m", "uv", "pip", "install", "--compile-bytecode", "-c", "constraints.txt", "-e", f".[{','.join(extras)}]"]
    environment = {
        **index_of_pip(python),
        **os.environ,
        "VIRTUAL_ENV": str(VENV.resolve()),
        "UV_BUILD_CONSTRAINT": "constraints.txt",
        "PYTHONUNBUFFERED": "1",
    }
    with LOG.open("w", encoding="utf-8") as log:
        return next((status for command in (pip, uv) if (status := run_logged(command, environment, log)) != 0), 0)


def run_logged(command: "list[str]", environment: "dict[str, str]", log: TextIO) -> int:
    """Run a command, all its output to the log, what tells of progress on the screen; its exit status."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                log.write(line)
                if line.lstrip().startswith(("Resolved", "Downloading", "Prepared", "Installed", "Bytecode")):
                    print("  " + line.strip()[:110], flush=True)
        except BaseException:
            process.terminate()  # SIGTERM reaches this script alone, and the other would go on by itself
            raise
    return process.returncode


def explain_failure() -> str:
    """What a person can do about the failure that build/install.log records."""
    log = LOG.read_text(encoding="utf-8", errors="replace")
    tail = "\n".join("  " + line for line in log.strip().splitlines()[-12:])
    if "No space left on device" in log or "Errno 28" in log:
        advice = "The disk is full: make room and run the same command again; it goes on where it stopped."
    elif "Permission denied" in log:
        advice = "Files here belong to someone else: check the owner of this folder and of .venv."
    elif any(
        sign in log.lower()
        for sign in (
            "connect",
            "failed to fetch",
            "dns error",
            "max retries",
            "timed out",
            "name or service",
            "proxy",
            "certificate",
        )
    ):
        advice = "The package index cannot be reached: check the network, or set PIP_INDEX_URL to a mirror."
    elif "No solution found" in log or "No matching distribution" in log:
        advice = (
            f"A package has no build for Python {sys.version.split()[0]} here, or no index is reachable; try PYTHON=python3.12."
        )
    else:
        advice = "Run the same command again; if it fails alike, the log says why."
    return f"error: the installation failed ({LOG}):\n{tail}\n{advice}"


def main() -> int:
    """Command line; see the module's docstring."""
    extras = sys.argv[1:]
    if sys.version_info < OLDEST:
        print(f"error: Python {sys.version.split()[0]} is too old, 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ...")
        return 1
    needed, free = sum(NEEDED_GB[extra] for extra in extras), shutil.disk_usage(".").free / 1e9
    if free < needed:
        print(f"error: the disk is full: {free:.1f} GB are free here, {'+'.join(extras)} may need {needed:.1f} GB")
        return 1
    python = make_venv()
    print(f"installing {' + '.join(extras)} into {VENV} (log: {LOG})", flush=True)
    try:
        status = install(python, extras)
    except OSError as error:
        print(f"error: the installation failed: {error}")
        return 1
    if status != 0:
        print(explain_failure())
        return 1
    for extra in extras:
        (VENV / f"installed-{extra}").touch()
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted: run the same command again, it goes on where it stopped")
