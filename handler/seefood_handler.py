"""TorchServe's entry into the archive: a photo in, the most probable dishes out.

Reads only what lies in the archive: spec.json, index_to_name.json, model.onnx, golden.json and model-config.yaml.
"""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np

from handler.preprocess import PhotoError, Spec, coarse, preprocess
from handler.request import RequestError, read_request
from handler.runtime import Program


class SeefoodHandler:
    """One worker's model: `initialize` once, then `handle` for each batch."""

    def initialize(self, context: Any) -> None:
        """Load the archive's content and answer its golden photos. ValueError if anything is missing or differs."""
        model_dir = Path(context.system_properties["model_dir"])
        self.spec = Spec.from_dict(json.loads((model_dir / "spec.json").read_text(encoding="utf-8")))
        names = json.loads((model_dir / "index_to_name.json").read_text(encoding="utf-8"))
        self.labels = [names[str(index)] for index in range(len(names))]
        settings = context.model_yaml_config["handler"]
        self.top_k = settings["top_k"]
        self.program = Program(model_dir / "model.onnx", settings["num_threads"])
        self.model, self.version = context.model_name, context.manifest["model"]["modelVersion"]
        self._check_golden(json.loads((model_dir / "golden.json").read_text(encoding="utf-8")))

    def _check_golden(self, golden: dict[str, Any]) -> None:
        """Proof that this machine computes what training computed; it warms the program up, too."""
        crops = [preprocess(base64.b64decode(photo["image"]), self.spec) for photo in golden["photos"]]
        for photo, crop in zip(golden["photos"], crops, strict=True):
            off = np.abs(coarse(crop).astype(int) - np.array(photo["coarse_crop"])).max()
            if off > golden["crop_tolerance"]:
                raise ValueError(f"golden photo {photo['name']!r}: the crop is off by {off} of 255 from the training side's")
        expected = np.array([photo["probabilities"] for photo in golden["photos"]])  # (B, num_classes)
        if expected.shape[1] != len(self.labels):
            raise ValueError(f"label map has {len(self.labels)} names, golden answers have {expected.shape[1]} classes")
        answers = self.inference(crops)
        if answers.shape != expected.shape:
            raise ValueError(f"label map has {len(self.labels)} names, model has {answers.shape[1]} outputs")
        for photo, difference in zip(golden["photos"], np.abs(answers - expected).max(axis=1), strict=True):
            if not difference <= golden["tolerance"]:
                raise ValueError(
                    f"golden photo {photo['name']!r}: probabilities differ by {difference:.2g} from the training side's, "
                    f"at most {golden['tolerance']:.2g} is allowed"
                )

    def handle(self, requests: list[dict[str, Any]], context: Any) -> list[dict[str, Any]]:
        """One JSON answer a request, in their order; a request with a bad photo gets its own 400."""
        crops, positions, top_ks = [], [], []
        answers: list[dict[str, Any]] = [{} for _ in requests]
        for i, request in enumerate(requests):
            context.set_response_content_type(i, "application/json")
            try:
                headers = context.get_all_request_header(i)
                photo_bytes, top_k = read_request(request, headers, len(self.labels), self.top_k)
                crops.append(preprocess(photo_bytes, self.spec))
                positions.append(i)
                top_ks.append(top_k)
            except (RequestError, PhotoError) as error:
                context.set_response_status(400, "Bad Request", i)
                answers[i] = {"code": 400, "type": type(error).__name__, "message": str(error)}
        if crops:
            for i, answer in zip(positions, self.postprocess(self.inference(crops), top_ks), strict=True):
                answers[i] = answer
        return answers

    def inference(self, crops: list[np.ndarray]) -> np.ndarray:
        """Probabilities float32 (B, num_classes) of B crops uint8 (H, W, 3)."""
        return self.program(np.stack(crops))

    def postprocess(self, probabilities: np.ndarray, top_ks: list[int]) -> list[dict[str, Any]]:
        """The answer for each row of (B, num_classes): its top_k classes, best first."""
        answers = []
        for row, top_k in zip(probabilities, top_ks, strict=True):
            best = np.argsort(-row, kind="stable")[:top_k]
            predictions = [{"label": self.labels[i], "index": int(i), "probability": float(row[i])} for i in best]
            answers.append({"predictions": predictions, "model": self.model, "version": self.version})
        return answers
