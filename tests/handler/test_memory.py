"""What a server may take at most fits the memory that it is given: on ECS, and by `make run-image`."""

import re

import pytest
import yaml

from handler.decoders import Budget
from scripts.bench.costly_photos import KINDS
from scripts.bench.photo_costs import measure
from tests.conftest import ROOT

MIB = {"k": 1 / 1024, "m": 1, "g": 1024}
# measured with the starter 0.2.0: a worker, without its decoders, that kept three compiled programs; and one decoder. The starter
# 0.3.0 takes 192
WORKER_MIB, DECODER_MIB = 332, 19  # of the decoder while it has nothing to do
# the rest of the JVM, and the process of scripts/serving: assumed
OTHER_MIB = 224
CONFIG = yaml.safe_load((ROOT / "handler" / "model-config.yaml").read_text())


def size(text: str) -> float:
    return int(text[:-1]) * MIB[text[-1]]


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.DOTALL | re.MULTILINE)
    assert match, pattern
    return match[1]


def ecs() -> float:
    template = (ROOT / "scripts" / "ecs" / "templates" / "service.yaml").read_text()
    memory, tmp = (int(found(rf"^  {name}:\n.*?Default: (\d+)", template)) for name in ("TaskMemory", "TmpMiB"))
    return memory - tmp


def run_image() -> float:
    hardened = found(r"^hardened := ([^\n]*)", (ROOT / "Makefile").read_text())
    return size(found(r"--memory (\w+)", hardened)) - size(found(r"size=(\w+)", hardened))


def compose() -> float:
    values = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return size(values["services"]["server"]["mem_limit"]) - size(found(r"size=(\w+)", values["services"]["server"]["tmpfs"]))


@pytest.mark.parametrize("given", [ecs, run_image, compose])
def test_all_that_a_server_may_take_in_a_rollout_fits_its_memory(given):
    # requests lie in the JVM: a queue of photos, and the bodies that arrive
    vmargs = found(r"^vmargs=([^\n]*)", (ROOT / "config.properties").read_text())
    java = sum(size(found(rf"{option}(\w+)", vmargs)) for option in ("-Xmx", "-XX:MaxDirectMemorySize="))
    budget = Budget.from_config(CONFIG)
    worker = WORKER_MIB + budget.decoders * DECODER_MIB + CONFIG["handler"]["decode_memory_mb"]
    versions = 2  # while the next one takes over, the one before answers what it has begun
    assert java + versions * CONFIG["maxWorkers"] * worker + OTHER_MIB <= given()


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["WebP, lossless", "PNG, alpha", "JPEG, progressive", "GIF, transparent", "HEIF, tiles", "HEIF, alpha"]
)
@pytest.mark.parametrize("noise", [False, True])
def test_photo_takes_no_more_than_its_estimate(kind, noise):
    measured = measure(kind, noise, Budget.from_config(CONFIG).photo(KINDS[kind][0]))
    assert measured.taken.within(measured.estimated), measured.row
