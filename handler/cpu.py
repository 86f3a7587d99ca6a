"""The CPU that this process runs on: its kind, and whether it adds products of int8 exactly."""

import hashlib
import json
import platform
from functools import cache
from pathlib import Path

# what tells CPUs of one kind from others, of x86 and of Arm, in /proc/cpuinfo
KIND = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags", "CPU implementer", "CPU part", "Features")
VNNI = {"avx512_vnni", "avx_vnni"}
ARM = {"aarch64", "arm64"}


@cache
def described() -> dict[str, str]:
    """What /proc/cpuinfo says of the first core; empty where there is none."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}


def kind() -> str:
    """The CPU's name, and some digits that stand for its kind and instructions."""
    known = {name: described()[name] for name in KIND if name in described()} or {"processor": platform.processor()}
    digits = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:8]
    return f"{described().get('model name') or platform.machine()} {digits}"


def adds_int8_exactly() -> bool:
    """Whether sums of products of int8 are exact: on x86 that takes VNNI (Intel from 2019 on, AMD from Zen 4 on).

    Older ones add two products in 16 bits, which saturate, so that an int8 network answers otherwise than where it was judged:
    docs.openvino.ai, "Saturation (overflow) Issue". Where nothing is known of a CPU, it counts as an older one.
    """
    return platform.machine() in ARM or not VNNI.isdisjoint(described().get("flags", "").split())
