"""A copy of the project in a git repository of its own, with a bare one as origin and a bucket as DVC's remote."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import boto3
import yaml

from tests.conftest import LIMIT_S, ROOT
from tests.training.test_dvc import commit, environment, remote, run

STEP = re.compile(r"^--- (\w+): ", re.MULTILINE)


class Project:
    """The copy in `folder`; `retrain` runs the command in it."""

    def __init__(self, folder: Path, s3: str, bucket: str) -> None:
        self.folder, self.s3 = folder, s3
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for name in listed.stdout.splitlines():
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, folder / name)
        run(folder, "git", "init", "-q", "-b", "main")
        run(folder, "git", "init", "-q", "--bare", f"{folder}.git")
        run(folder, "git", "remote", "add", "origin", f"{folder}.git")
        client = boto3.client("s3", endpoint_url=s3)
        client.create_bucket(Bucket=bucket)
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        client.close()
        remote(folder, "set", f"s3://{bucket}/dvc", "--endpoint", s3)

    def train_champion(self, params) -> str:
        """The pipeline's first model, of the photos in data/food, pushed and committed; what was printed."""
        (self.folder / "params.yaml").write_text(yaml.safe_dump(params))
        run(self.folder, "dvc", "add", "-q", "data/food")
        said = run(self.folder, "dvc", "repro")
        self.commit("The first model")
        return said + self.push("The first model is kept")

    def push(self, message: str) -> str:
        """What make push says; its changes are committed."""
        said = remote(self.folder, "push")
        self.commit(message)
        return said

    def commit(self, message: str) -> None:
        """Commit and push all that has changed."""
        commit(self.folder, message)
        run(self.folder, "git", "push", "-q", "origin", "main")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """The command, running; its output is to be read."""
        command = [sys.executable, "-m", "scripts.retrain.retrain", *arguments]
        return subprocess.Popen(
            command, cwd=self.folder, env=environment(self.folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def retrain(self, *arguments: str, code: int = 0) -> str:
        """Its output, ended with this exit status."""
        return run(self.folder, sys.executable, "-m", "scripts.retrain.retrain", *arguments, code=code)

    def kill_at(self, step: str, runs_a_command: bool, *arguments: str) -> list[str]:
        """Kill (-9) the command, and it alone, within a step: the steps that it began by then."""
        process, output = self.start(*arguments), ""
        assert process.stdout
        for line in process.stdout:
            output += line
            if f"--- {step}:" in output and (not runs_a_command or "\n$ " in output.partition(f"--- {step}:")[2]):
                break
        else:
            raise AssertionError(f"{step} was never begun: {output}")
        time.sleep(0.3 if runs_a_command else 0)  # not an event that is waited for: somewhere within the command's start
        os.kill(process.pid, signal.SIGKILL)
        process.wait(LIMIT_S)
        process.stdout.close()
        return STEP.findall(output)

    def changed(self) -> str:
        """What git sees as changed."""
        return run(self.folder, "git", "status", "--porcelain")
