"""How a deployment's image is built: for the GPU and the processor of its instances, whatever machine builds it."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from scripts.ecs import progress
from scripts.ecs.deploy.image import build_of
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


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("InstanceType: c7g.large", "c7g.large is ARM64, but Architecture is X86_64: set it"),
        ("Architecture: ARM64", "c7i.large is X86_64, but Architecture is ARM64"),
        ('Gpu: "yes"', "TORCH is cu130, but InstanceType c7i.large has no GPU"),
    ],
)
def test_image_that_the_instances_could_not_run_is_not_built(tmp_path, lines, message):
    with pytest.raises(DeploymentError, match=message):
        build_of(loaded(tmp_path, "parameters:\n", f"parameters:\n  {lines}\n"))
    fitting = "parameters:\n  InstanceType: g5g.xlarge\n  Architecture: ARM64\n  Gpu: 'yes'\n"
    assert build_of(loaded(tmp_path, "parameters:\n", fitting)).platform == "linux/arm64"


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
