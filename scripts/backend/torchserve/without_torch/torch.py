"""Stands in for torch in a worker whose programs are not torch's.

TorchServe's worker imports torch for one thing: to recognise an answer that is a torch.Tensor, and our handler returns none. The
real torch takes some 300 MB of memory for that in each worker (its build for CUDA), and over 4 GB of disk. environment.py puts this
folder first on the worker's path, which runs in its archive's folder: an archive of ours in the format torch, and any that is not
ours, gets the real torch from here.
"""

import importlib
import json
import sys
from pathlib import Path


def _formats() -> list[str]:
    """Those of the archive that this process runs in; none if it is none of ours. Earlier versions' have one."""
    try:
        description = json.loads(Path("program.json").read_text(encoding="utf-8"))
        described = description["programs"].values() if "programs" in description else [description]
        return [str(about["format"]) for about in described]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


if (formats := _formats()) and all(name.startswith(("openvino", "onnxruntime")) for name in formats):

    class Tensor:
        """No answer of our handler is an instance of it."""

else:
    sys.path.remove(str(Path(__file__).parent))
    del sys.modules["torch"]
    importlib.import_module("torch")  # takes this module's place for whoever imports it
