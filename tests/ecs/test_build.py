"""How a deployment's image is built: for the GPU and the processor of its instances, whatever machine builds it."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from scripts.ecs import progress
from scripts.ecs.progress import Limit
from scripts.ecs.stacks import DEPLOYMENTS, Deployment, DeploymentError
from tests.conftest import ROOT

EXAMPLE = (DEPLOYMENTS / "seefood.yaml").read_text(encoding="utf-8")


def loaded(tmp_path, old="", new=""):
    (tmp_path / "food.yaml").write_text(EXAMPLE.replace(old, new, 1))
    return Deployment.load("food", tmp_path)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", ("cpu", "linux/amd64")),
        ('Gpu: "yes"', ("cu130", "linux/amd64")),
        ("Architecture: ARM64", ("cpu", "linux/arm64")),
    ],
)
def test_torch_and_platform_follow_the_deployment(tmp_path, line, expected):
    build = loaded(tmp_path, "parameters:\n", f"parameters:\n  {line}\n").build
    assert (build.torch, build.platform) == expected


def test_torch_may_be_another_version_of_cuda_and_nothing_else(tmp_path):
    assert loaded(tmp_path, "parameters:\n", 'torch: cu128\nparameters:\n  Gpu: "yes"\n').build.torch == "cu128"
    with pytest.raises(DeploymentError, match="torch is 'gpu', expected cpu, none or a version of CUDA"):
        loaded(tmp_path, "parameters:\n", "torch: gpu\nparameters:\n")
    with pytest.raises(DeploymentError, match="Gpu is 'True'|Gpu is True"):
        _ = loaded(tmp_path, "parameters:\n", "parameters:\n  Gpu: yes\n").build


def test_workflow_reads_both_as_lines():
    command = [sys.executable, "-m", "scripts.ecs.deploy.build", "seefood"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "torch=cpu\nplatform=linux/amd64\n"


def test_building_and_pushing_do_not_count_towards_the_limit(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    limit = Limit(1800)
    clock.now += 100
    with limit.paused():
        clock.now += 3600
    assert limit.left_s == 1700
