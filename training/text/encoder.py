"""A text tower by an encoder of Hugging Face's: by its name on the hub, or by its folder. Frozen; only a linear layer on it learns.

Needs the extra `encoder` (transformers), in training alone: the encoder is exported within the program. Nothing that comes with an
encoder is run: its weights are safetensors, its code is that of transformers.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import Tensor, nn

from handler.tokens import TOKENIZER, TokenSpec
from scripts.phrases import counted
from training.weights.hub import offline_if_unreachable

# tokens that an encoder is shown; a title of 60 characters has some 20, and each costs as much as the next
LENGTH = 64
CONFIG = "config.json"
FILES = (CONFIG, TOKENIZER, "model*.safetensors*")
MISSING = "text_encoder needs the package transformers, which is not installed: .venv/bin/python -m pip install transformers"


class EncoderTower(nn.Module):
    """ids int64 (B, L) of TokenSpec -> features (B, D), logits (B, C): the mean of the encoder's last layer, and a linear layer.

    Both are zeros for a row of no ids: no text says nothing. D is `width`. `source` holds the encoder's "config" and "tokenizer",
    as its files do.
    """

    def __init__(self, encoder: nn.Module, source: dict[str, Any], num_classes: int) -> None:
        super().__init__()
        self.encoder, self.source = encoder, source
        self.spec = TokenSpec(LENGTH, source["tokenizer"])
        self.pad = source["config"].get("pad_token_id") or 0
        self.width = self._checked_width()
        self.classes = nn.Linear(self.width, num_classes)
        nn.init.zeros_(self.classes.weight)
        nn.init.zeros_(self.classes.bias)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        last = self._last_layer(ids)
        given = (ids > 0).to(last.dtype)[:, :, None]  # (B, L, 1)
        count = given.sum(1)  # (B, 1)
        features = (last * given).sum(1) / count.clamp(min=1)
        return features, self.classes(features) * count.clamp(max=1)

    def _last_layer(self, ids: Tensor) -> Tensor:
        """(B, L, D)."""
        given = ids > 0
        # a row of no ids attends to its first place: to none, softmax would divide by zero
        attended = torch.cat([torch.ones_like(given[:, :1]), given[:, 1:]], 1)
        shown = torch.where(given, ids - 1, self.pad)
        last: Tensor = self.encoder(input_ids=shown, attention_mask=attended.long()).last_hidden_state
        return last

    def _checked_width(self) -> int:
        """D. ValueError if it reads no texts, none of LENGTH tokens, or not each token of its tokenizer."""
        kind = self.source["config"].get("model_type")
        try:
            embeddings = self.encoder.get_input_embeddings().num_embeddings  # type: ignore[operator]
        except (AttributeError, NotImplementedError) as error:  # of ViT, of CLIP
            expected = "an encoder of texts alone, such as bert, distilbert or clip_text_model"
            raise ValueError(f"a model of the type {kind!r} has no embeddings of tokens: expected {expected}") from error
        tokens = self.spec.vocabulary
        if tokens > embeddings:
            raise ValueError(
                f"the text encoder has {counted(embeddings, 'embedding')}, and its {TOKENIZER} {counted(tokens, 'token')}"
            )
        try:
            with torch.no_grad():
                return self._last_layer(torch.ones((1, LENGTH), dtype=torch.int64)).shape[2]
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise ValueError(f"the text encoder, of the type {kind!r}, cannot read {LENGTH} tokens: {reason}") from error


def load_encoder(name: str, num_classes: int) -> EncoderTower:
    """The tower on an encoder with its trained weights. ValueError if it cannot be had, or is none."""
    folder = encoder_folder(name)
    missing = [file for file in (CONFIG, TOKENIZER) if not (folder / file).is_file()]
    if missing or not any(folder.glob("model*.safetensors")):
        raise ValueError(
            f"text_encoder {name} has no {' and no '.join(missing) or 'model.safetensors'}: expected {', '.join(FILES)}"
        )
    with transformers() as library:
        try:
            source = {
                "config": json.loads((folder / CONFIG).read_text(encoding="utf-8")),
                "tokenizer": (folder / TOKENIZER).read_text(encoding="utf-8"),
            }
            config = _config(library, source["config"])
            # float32, whatever is stored: as the rest of the network
            options = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
            encoder, found = library.AutoModel.from_pretrained(folder, config=config, **options)
        except Exception as error:  # the libraries raise types of many kinds for files that are damaged
            raise ValueError(f"text_encoder {name} cannot be loaded: {str(error) or type(error).__name__}") from error
    if absent := sorted(key for key in found["missing_keys"] if not key.startswith("pooler.")):
        raise ValueError(f"text_encoder {name}: its weights lack {counted(len(absent), 'tensor')} of the network, e.g. {absent[0]}")
    try:
        return EncoderTower(_without_pooler(encoder), source, num_classes)
    except ValueError as error:
        raise ValueError(f"text_encoder {name}: {error}") from error


def encoder_of(source: Mapping[str, Any], num_classes: int) -> EncoderTower:
    """The tower on the encoder of a run, whose weights are loaded next. ValueError as load_encoder."""
    with transformers() as library:
        encoder = library.AutoModel.from_config(_config(library, source["config"]), dtype=torch.float32)
    return EncoderTower(_without_pooler(encoder), dict(source), num_classes)


def encoder_folder(name: str) -> Path:
    """The folder of an encoder's files, fetched from the hub if it is no folder here. ValueError if it cannot be had."""
    if (folder := Path(name)).is_dir():
        return folder
    try:
        with offline_if_unreachable() as unreachable:
            return Path(snapshot_download(name, allow_patterns=list(FILES)))
    except (OSError, ValueError) as error:  # all of the hub's own are of these
        reason = unreachable or str(error).strip().partition("\n")[0]
        raise ValueError(
            f"text_encoder {name!r} is no folder, is not in the hub's cache and could not be fetched ({reason}): give the "
            "folder of an encoder, or null for hashed n-grams"
        ) from error


@contextmanager
def transformers() -> Iterator[Any]:
    """The library, silent. ValueError where it is not installed."""
    try:
        import transformers as library
    except ModuleNotFoundError as error:
        raise ValueError(MISSING) from error
    logs = library.utils.logging
    before = logs.get_verbosity()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        yield library
    finally:
        logs.set_verbosity(before)


def _config(library: Any, values: Mapping[str, Any]) -> Any:
    kind = values.get("model_type")
    if kind not in library.CONFIG_MAPPING:
        raise ValueError(f"its {CONFIG} has the model_type {kind!r}, which transformers {library.__version__} lacks")
    return library.CONFIG_MAPPING[kind].from_dict(dict(values))


def _without_pooler(encoder: nn.Module) -> nn.Module:
    """The encoder in evaluation mode, without the layer after its last one, which some have, and which is not used."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None  # type: ignore[assignment]
    return encoder.eval()
