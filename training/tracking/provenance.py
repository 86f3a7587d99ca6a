"""Where a run comes from: the commit of the code, the version of the data."""

import hashlib
import json
import os
import subprocess
from pathlib import Path

import yaml

from scripts.paths import ROOT


def git_commit() -> str:
    """Commit of this checkout and whether it was dirty, e.g. "1a2b3c4 clean"; else "unknown (no git: ...)", with the reason."""
    try:
        # a copy without .git, unpacked within a repository of something else, has none of that one's commits
        _git("ls-files", "--error-unmatch", "training/__init__.py")
        return f"{_git('rev-parse', 'HEAD').strip()} {'dirty' if _git('status', '--porcelain') else 'clean'}"
    except OSError as error:
        return f"unknown (no git: it cannot be run, {error.strerror})"
    except subprocess.CalledProcessError as error:
        return f"unknown (no git: {reason(error.stderr)})"


def reason(stderr: str) -> str:
    """What git's error means, with the remedy where there is one."""
    if "dubious ownership" in stderr:
        return f"the checkout belongs to another user; git config --global --add safe.directory {ROOT}"
    if "not a git repository" in stderr or "did not match any file" in stderr:
        return "these files are not from a clone"
    if "HEAD" in stderr:
        return "the repository has no commit yet"
    return next(iter(stderr.splitlines()), "no reason given")


def _git(*arguments: str) -> str:
    environment = os.environ | {"LC_ALL": "C"}  # reasons are found by git's English words
    return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=True, env=environment).stdout


def dvc_version(root: Path) -> str:
    """DVC's md5 of the data set in the folder `root`, by the .dvc file that tracks it or a folder above; else "not tracked".

    It is the same before and after a push. Whether the folder still holds that version is for `dvc status` to say.
    """
    for folder in (root, *root.parents):
        file = folder.with_name(folder.name + ".dvc") if folder.name else folder
        if file.is_file():
            out = yaml.safe_load(file.read_text(encoding="utf-8"))["outs"][0]
            if "md5" in out:
                return str(out["md5"])
            # after a push to a version-aware remote the files are listed instead: the md5 of a folder is that of its list
            listed = [{"md5": entry["md5"], "relpath": entry["relpath"]} for entry in out["files"]]
            listed.sort(key=lambda entry: tuple(entry["relpath"].split("/")))
            return hashlib.md5(json.dumps(listed, sort_keys=True).encode()).hexdigest() + ".dir"
    return "not tracked"
