"""Set up .venv with the packages of some extras: `python3 scripts/install.py serve train dev`.

Runs on the machine's own Python, before anything is installed: standard library only. Needs no root.
Writes .venv/installed-EXTRA when an extra is complete, and build/install.log with all output.

uv.lock pins every package by its hashes. uv installs, which takes a third of pip's time for the gigabytes of the training packages;
pip fetches uv, and its settings (PIP_INDEX_URL, pip.conf) are handed on to uv.
"""

import argparse
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
LISTS = Path("build/install")  # what uv.lock names, as requirements
OLDEST = (3, 11)
SETTING = re.compile(r"^([\w:-]+)\.([\w-]+)='(.*)'$", re.MULTILINE)
# what `du -s .venv` shows once an extra is installed, and the same again for the downloads
NEEDED_GB = {"serve": 1.0, "parquet": 0.4, "train": 12.0, "cloud": 0.5, "tracing": 0.1, "dev": 0.5}
# of the log's lines, those that are printed too, as signs of life
PROGRESS = ("Resolved", "Downloading", "Prepared", "Installed")
# the first whose sign is in the log says what to do; signs are lower case
ADVICE = (
    (
        ("no space left on device", "errno 28"),
        "The disk is full: make room and run the same command again; it goes on where it stopped.",
    ),
    (("permission denied",), "Files here belong to someone else: check the owner of this folder and of .venv."),
    (
        ("hash mismatch", "do not match the hashes"),
        "A file is not the one that uv.lock names, and was not installed: ask whoever runs the index or mirror why it has another.",
    ),
    (
        ("connect", "failed to fetch", "dns error", "max retries", "timed out", "name or service", "proxy", "certificate"),
        "The package index cannot be reached: check the network, or set PIP_INDEX_URL to a mirror.",
    ),
    (
        ("no solution found", "no matching distribution", "no wheels with a matching"),
        "A package has no build for Python {python} on this machine, or the index does not have it; try PYTHON=python3.12.",
    ),
    (("",), "Run the same command again; if it fails in the same way, the log says why."),
)


class Terminated(KeyboardInterrupt):
    """SIGTERM, handled as Ctrl-C is."""


def pinned(package: str) -> str:
    """The package as uv.lock has it, as a requirement of pip: version and hashes."""
    import tomllib  # not in a Python that is too old, which gets as far as to say so

    with Path("uv.lock").open("rb") as file:
        (found,) = [one for one in tomllib.load(file)["package"] if one["name"] == package]
    hashes = [f"--hash={wheel['hash']}" for wheel in found["wheels"]]
    return " ".join([f"{package}=={found['version']}", *hashes])


def make_venv() -> Path:
    """The Python of .venv, which is made, or made again if an earlier set-up was broken off."""
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
    """The environment variables that give uv the mirror and the certificates that pip is set to use."""
    done = subprocess.run([str(python), "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    found = SETTING.findall(done.stdout)
    # of pip's sections the later one here overrides
    settings = {name: value for where in ("global", "install", ":env:") for section, name, value in found if section == where}
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # which pip follows, too
        if variable in os.environ:
            settings.setdefault("cert", os.environ[variable])
    known = {"index-url": "UV_DEFAULT_INDEX", "cert": "SSL_CERT_FILE"}
    return {name: settings[ours] for ours, name in known.items() if ours in settings}


def commands(python: Path, extras: "list[str]") -> "list[list[str]]":
    """What is run, one after the other, to install these extras."""
    pip, uv = [str(python), "-m", "pip", "install"], [str(python), "-m", "uv"]
    # not `uv sync`: it would fetch the very addresses in uv.lock, past any mirror
    export = [*uv, "export", "--quiet", "--frozen", "--no-emit-project", "--no-annotate", "--python", str(python)]
    packages, build = str(LISTS / "packages.txt"), str(LISTS / "build.txt")
    install = [*uv, "pip", "install", "--build-constraints", build]
    return [
        [*pip, "--disable-pip-version-check", "--no-input", "--no-deps", "--require-hashes", "-r", str(LISTS / "uv.txt")],
        [*export, "--only-group", "build", "--output-file", build],
        [*export, *(f"--extra={extra}" for extra in extras), "--output-file", packages],
        [*install, "--require-hashes", "-r", packages],
        [*install, "--no-deps", "--editable", "."],
    ]


def install(python: Path, extras: "list[str]") -> int:
    """Install the extras of pyproject.toml as uv.lock pins them, with signs of life. Returns the exit status."""
    LISTS.mkdir(parents=True, exist_ok=True)
    (LISTS / "uv.txt").write_text(pinned("uv") + "\n", encoding="utf-8")
    environment = {
        **index_of_pip(python),
        **os.environ,
        "VIRTUAL_ENV": str(VENV.resolve()),
        "UV_PYTHON_DOWNLOADS": "never",
        "PYTHONUNBUFFERED": "1",
    }
    with LOG.open("w", encoding="utf-8") as log:
        for command in commands(python, extras):
            status = run_logged(command, environment, log)
            if status != 0:
                return status
    return 0


def run_logged(command: "list[str]", environment: "dict[str, str]", log: TextIO) -> int:
    """Run a command, all its output to the log, signs of progress to the terminal; its exit status."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                log.write(line)
                if line.lstrip().startswith(PROGRESS):
                    print("  " + line.strip()[:110], flush=True)
        except BaseException:
            process.terminate()  # SIGTERM reaches this script alone, and the other would go on by itself
            raise
    return process.returncode


def explain_failure() -> str:
    """What a person can do about the failure that build/install.log records."""
    log = LOG.read_text(encoding="utf-8", errors="replace")
    tail = "\n".join("  " + line for line in log.strip().splitlines()[-12:])
    advice = next(advice for signs, advice in ADVICE if any(sign in log.lower() for sign in signs))
    return f"the installation failed ({LOG}):\n{tail}\n{advice.format(python=sys.version.split()[0])}"


def fail(message: str) -> int:
    """Print `error: message` on stderr. Returns the exit status, 1."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    return 1


def main() -> int:
    """Command line; see the module's docstring."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("extras", nargs="+", choices=sorted(NEEDED_GB))
    extras = arguments.parse_args().extras
    if sys.version_info < OLDEST:
        return fail(f"Python {sys.version.split()[0]} is too old, 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ...")
    needed, free = sum(NEEDED_GB[extra] for extra in extras), shutil.disk_usage(".").free / 1e9
    if free < needed:
        return fail(f"the disk is full: {free:.1f} GB are free here, {'+'.join(extras)} may need {needed:.1f} GB")
    python = make_venv()
    print(f"installing {' + '.join(extras)} into {VENV} (log: {LOG})", flush=True)
    try:
        status = install(python, extras)
    except OSError as error:
        return fail(f"the installation failed: {error}")
    if status != 0:
        return fail(explain_failure())
    for extra in extras:
        (VENV / f"installed-{extra}").touch()
    return 0


def terminate(*_: object) -> None:
    """SIGTERM's handler."""
    raise Terminated


if __name__ == "__main__":
    # not scripts/command.py, which an older Python cannot read
    signal.signal(signal.SIGTERM, terminate)
    try:
        sys.exit(main())
    except KeyboardInterrupt as error:
        print("interrupted: run the same command again, it goes on where it stopped", file=sys.stderr)
        sys.exit(128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT))
