"""Whether bytes are a photo, as the server sees it, and the photo without what its file says about people and places."""

from functools import cached_property

import yaml

from handler.decoders import Budget, Decoders
from handler.errors import PhotoError
from handler.limits import format_of
from handler.metrics import Metrics
from handler.photo_file import open_photo
from handler.preprocess import Spec
from handler.strip import strip
from scripts.paths import ROOT
from scripts.predict.photo import UnreadError

SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif"}
SIDE = 224


class Checker:
    """Decodes photos in processes of their own, within the worker's budget: a hostile one ends no run."""

    @cached_property
    def _decoders(self) -> Decoders:
        # mean and std are the network's, which there is none of
        spec = Spec((3, SIDE, SIDE), "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0, "center")
        config = yaml.safe_load((ROOT / "handler" / "model-config.yaml").read_text(encoding="utf-8"))
        return Decoders(spec, Budget.from_config(config), Metrics("", ()))

    def clean(self, content: bytes) -> tuple[bytes, str]:
        """(the stripped photo, its file's suffix). UnreadError."""
        try:
            open_photo(content)
        except PhotoError as error:
            raise UnreadError(str(error), error.status, "PhotoError") from error
        outcome = self._decoders.decode([content])[0][0]
        if isinstance(outcome, Exception):
            raise UnreadError(str(outcome), getattr(outcome, "status", 422), "PhotoError") from outcome
        name = str(format_of(content))
        try:
            return strip(content), SUFFIXES[name]
        except Exception as error:  # whatever is wrong with the file
            raise UnreadError(
                f"a {name}: {error}" if isinstance(error, ValueError) else f"a {name} that breaks off", 415
            ) from error
