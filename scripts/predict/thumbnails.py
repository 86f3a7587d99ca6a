"""Small pictures of photos for the contact sheet, decoded as the worker does it: in processes of their own, within its budget."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import yaml
from PIL import Image

from handler.decoders import Budget, Decoded, Decoders
from handler.metrics import Metrics
from handler.preprocess import Spec
from scripts.predict.offline import BUSY
from scripts.predict.photo import PredictError
from scripts.predict.sources import photo_named

SIDE = 144  # pixels; shown at 96 to 144
QUALITY = 75
BATCH = 8


class Thumbnails:
    """Decodes the middle of photos, upright."""

    def __init__(self, config: Path) -> None:
        """Start the decoders. `config`: a model-config.yaml, for its budget. ValueError if they do not start."""
        # mean and std are the network's, which there is none of
        spec = Spec((3, SIDE, SIDE), "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0, "center")
        budget = Budget.from_config(yaml.safe_load(config.read_text(encoding="utf-8")))
        self._decoders = Decoders(spec, budget, Metrics("", ()))

    def of(self, names: Sequence[str]) -> list[str]:
        """data: addresses of the photos of these names, in order; "" for one that is not there any more."""
        found: list[str] = []
        for start in range(0, len(names), BATCH):
            contents = [_content(name) for name in names[start : start + BATCH]]
            decoded = iter(self._decoders.decode([content for content in contents if content])[0])
            found += [_address(self._alone(content, next(decoded))) if content else "" for content in contents]
        return found

    def _alone(self, content: bytes, decoded: Decoded | Exception) -> Decoded | Exception:
        """A photo that was too costly beside the others of its batch: alone it has the whole budget."""
        return self._decoders.decode([content])[0][0] if getattr(decoded, "status", None) == BUSY else decoded


def _content(name: str) -> bytes:
    try:
        return photo_named(name).read()
    except (PredictError, ValueError):
        return b""


def _address(decoded: Decoded | Exception) -> str:
    if isinstance(decoded, Exception):
        return ""
    buffer = io.BytesIO()
    Image.fromarray(decoded.crop).save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
