"""The exported program on this machine's CPU: uint8 crops -> probabilities, by OpenVINO."""

from functools import cache
from pathlib import Path

import numpy as np
import openvino as ov


@cache
def core() -> ov.Core:
    """The process's only core, never dropped.

    Its CPU plugin replaces the thread's alternate signal stack and puts the earlier one back at its end: of two
    cores that end in the order in which they began, the second puts back a freed one, and the next signal kills.
    """
    return ov.Core()


class Program:
    """uint8 crops (B, H, W, 3) -> float32 probabilities (B, num_classes), for any B from 1."""

    def __init__(self, path: Path, num_threads: int) -> None:
        """Compile the ONNX file at `path`; 0 threads means one a core. RuntimeError if OpenVINO cannot read it."""
        options = {
            # the golden answers are float32's; the default would be bfloat16 on CPUs that have it, and move them
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": num_threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._request = core().compile_model(core().read_model(path), "CPU", options).create_infer_request()

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        # a copy: OpenVINO's own memory is overwritten by the next call
        return np.array(self._request.infer({0: crops})[0])
