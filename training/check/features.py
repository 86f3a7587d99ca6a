"""Features of photos, by weights that are at hand: those of the parameters, else of the starter's archive."""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from handler.preprocess import Spec, preprocess
from handler.program import load_program
from scripts.paths import ROOT
from training.evaluation.features import BATCH, extract_features
from training.model import build
from training.params import Params

STARTER = ROOT / "model_store" / "starter"


Features = Callable[[Sequence[Path]], Tensor]
"""Features float32 (N, F) of N readable photos."""


def chosen_features(params: Params) -> tuple[Features, str]:
    """What gives features, and by which weights, for people: the weights are read here, and no photo.

    ValueError if the parameters' weights do not fit; or if they name none, or cannot be fetched, and the starter is not here.
    """
    reason = "the parameters start from random weights"
    if params.weights != "none":
        try:
            classifier, spec = build(params, 2)
        except ValueError as error:
            if params.weights != "hub":
                raise
            reason = str(error)
        else:
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            classifier.to(device)
            return (
                lambda paths: extract_features(classifier, spec, paths, device)[0].features,
                f"{params.model}, weights {params.weights}",
            )
    if not (STARTER / "program.json").is_file():
        raise ValueError(
            f"no weights to compare photos by: {reason}, and there is no starter in {STARTER}: "
            "give WEIGHTS=file of the parameters' network (--weights)"
        )
    return _starters, f"the starter's network, as {reason}"


def _starters(paths: Sequence[Path]) -> Tensor:
    spec = Spec.from_dict(json.loads((STARTER / "spec.json").read_text(encoding="utf-8")))
    program = load_program(STARTER, json.loads((STARTER / "program.json").read_text(encoding="utf-8")), 0)
    parts: list[np.ndarray] = []
    with ThreadPoolExecutor() as pool:
        for start in tqdm(range(0, len(paths), BATCH), "comparing photos", delay=3, leave=False):
            crops = pool.map(lambda path: preprocess(path.read_bytes(), spec), paths[start : start + BATCH])
            parts.append(program(np.stack(list(crops))).features)
    return torch.from_numpy(np.concatenate(parts))
