"""Where a run comes from: the commit of the code, the version of the data."""

import hashlib
import json
import subprocess
from pathlib import Path

import yaml


def git_commit() -> str:
    """Commit of the working tree and whether it was dirty, e.g. "1a2b3c4 clean"; "unknown" outside a repository."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit} {'dirty' if changed else 'clean'}"


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
