"""Where a run comes from: the commit of the code, the version of the data. What cannot be found out is said on stderr."""

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import yaml

from training.tracking.store import say

CHECKOUT = Path(__file__).resolve().parents[2]


def git(*arguments: str) -> str:
    """Output of a git command in the checkout of this code. OSError without git, CalledProcessError if it fails."""
    # a hook's variables name another repository; code that we run already may lie in somebody else's folder
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | {"LC_ALL": "C"}
    command = ["git", "-C", str(CHECKOUT), "-c", f"safe.directory={CHECKOUT}", "--no-optional-locks", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def git_commit() -> str:
    """Commit of this code and whether its files differ from it, e.g. "1a2b3c4 clean"; "unknown" where git has none."""
    try:
        if (top := Path(git("rev-parse", "--show-toplevel"))) != CHECKOUT:
            return _unknown(f"{CHECKOUT} is no git repository of its own, {top} around it is another one")
        return f"{git('rev-parse', 'HEAD')} {'dirty' if git('status', '--porcelain') else 'clean'}"
    except OSError as error:
        return _unknown(f"git cannot be run ({error.strerror})")
    except subprocess.CalledProcessError as error:
        return _unknown((error.stderr.strip() or f"git ends with {error.returncode}").partition("\n")[0])


def _unknown(reason: str) -> str:
    """The word "unknown"; rank 0 prints why."""
    if os.environ.get("RANK", "0") == "0":
        say(f"the commit of the code is not recorded: {reason}")
    return "unknown"


def dvc_version(root: Path) -> str:
    """DVC's md5 of the data set in the folder `root`, by the .dvc file that tracks it or a folder above; else "not tracked".

    It is the same before and after a push. Whether the folder still holds that version is for `dvc status` to say. "unknown" if
    the .dvc file is not as DVC writes it.
    """
    for folder in (root, *root.parents):
        file = folder.with_name(folder.name + ".dvc") if folder.name else folder
        if file.is_file():
            try:
                return _version(yaml.safe_load(file.read_text(encoding="utf-8"))["outs"][0])
            except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError, AttributeError) as error:
                say(f"the version of the data is not recorded: {file} is not as DVC writes it ({type(error).__name__})")
                return "unknown"
    return "not tracked"


def _version(out: dict[str, Any]) -> str:
    """The md5 of what a .dvc file tracks."""
    if "md5" in out:
        return str(out["md5"])
    # after a push to a version-aware remote the files are listed instead: the md5 of a folder is that of its list
    listed = [{"md5": entry["md5"], "relpath": entry["relpath"]} for entry in out["files"]]
    listed.sort(key=lambda entry: tuple(entry["relpath"].split("/")))
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode()).hexdigest() + ".dir"
