"""golden.json: generated pictures with the programs' answers, by which an archive proves itself wherever it runs."""

import base64
import io
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from handler.preprocess import Spec, blank, coarse, ids_of, preprocess
from handler.program import Program, inputs
from training.data.pictures import draw

# on another CPU or engine float32 moves a probability by some 1e-5, bfloat16 by 4e-4, Pillow's resizing in place of the wheel's by
# 8e-4 (handler/resize.py); a wrong crop or mean moves it by far more
GOLDEN_TOLERANCE = 3e-3
# besides, of what a precision moves: rounding enlarges what another CPU moves, int8 most
SHARE_OF_LOSS = 0.25
# JPEG decoders on other CPUs may round a pixel the other way; a field of pixels hardly moves
CROP_TOLERANCE = 2


def golden_pictures() -> dict[str, bytes]:
    """Generated pictures as files, by name: turned by EXIF, with alpha, in CMYK, as photos may be."""
    rng = random.Random(101)

    def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, image_format, **options)
        return buffer.getvalue()

    held_sideways = Image.Exif()
    held_sideways[0x0112] = 6  # EXIF orientation: turn by 90 degrees
    see_through = draw(2, rng, (240, 300)).convert("RGBA")
    see_through.putalpha(Image.linear_gradient("L").resize(see_through.size))
    return {
        "landscape.jpg": encoded(draw(0, rng, (400, 300)), "JPEG", quality=90),
        "sideways.jpg": encoded(draw(1, rng, (400, 260)), "JPEG", quality=90, exif=held_sideways),
        "alpha.png": encoded(see_through, "PNG"),
        "cmyk.jpg": encoded(draw(3, rng, (300, 300)).convert("CMYK"), "JPEG", quality=90),
    }


def golden_texts(labels: Sequence[str]) -> dict[str, tuple[str, str]]:
    """(picture, text) by name, for a model that reads texts: beside a picture, and alone; wide letters, accents."""
    named = f"{labels[0].upper()}, \uff57\uff49\uff54\uff48 {labels[-1]}"
    return {
        "landscape.jpg with a text": ("landscape.jpg", named),
        "alpha.png with a text": ("alpha.png", "Cre\u0300me bru\u0302le\u0301e \U0001f36e \u62c9\u9762"),
        "text alone": ("", named),
    }


def golden_answers(program: nn.Module, spec: Spec, programs: Mapping[str, Program], labels: Sequence[str]) -> dict[str, Any]:
    """The content of golden.json: what each of `programs`, by name, answers to pictures, and how far it may be off elsewhere.

    That is more for a program whose answers differ more from those of `program`, float32 torch. Of a model that reads texts also
    answers to a picture with a text, and to a text alone, whose image is empty.
    """
    pictures = golden_pictures()
    asked = {name: (name, "") for name in pictures} | (golden_texts(labels) if spec.text else {})
    crops = [preprocess(pictures[name], spec) if name else blank(spec) for name, _ in asked.values()]  # (H, W, 3)
    ids = ids_of([text for _, text in asked.values()], spec)
    batch = inputs(np.stack(crops), ids)
    with torch.inference_mode():
        probabilities, confidence, _ = (tensor.numpy() for tensor in program(*map(torch.from_numpy, batch)))
    own = {}
    for name, other in programs.items():
        answers = other(*batch)[:2]
        loss = max(float(np.abs(a - b).max()) for a, b in zip(answers, (probabilities, confidence), strict=True))
        own[name] = _rounded(*answers) | {"tolerance": round(GOLDEN_TOLERANCE + SHARE_OF_LOSS * loss, 6)}
    photos = [
        {
            "name": name,
            "image": base64.b64encode(pictures.get(picture, b"")).decode(),
            **({"text": text} if text else {}),
            "coarse_crop": coarse(crop).tolist(),
        }
        for (name, (picture, text)), crop in zip(asked.items(), crops, strict=True)
    ]
    return {"crop_tolerance": CROP_TOLERANCE, "programs": own, "photos": photos}


def _rounded(probabilities: np.ndarray, confidence: np.ndarray) -> dict[str, Any]:
    """Answers as JSON has them."""
    return {
        "probabilities": [[round(float(p), 7) for p in row] for row in probabilities],
        "confidence": [round(float(score), 7) for score in confidence],
    }
