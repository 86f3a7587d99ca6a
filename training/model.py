"""The network with its spec, and the checkpoint that carries it from training to evaluation and export."""

import difflib
import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.data.config import resolve_data_config
from torch import Tensor, nn

from handler.preprocess import Spec
from scripts.atomic import aside
from training.folder import check_exists, process_at_work
from training.params import Params
from training.small_resnet import resnet18_small as resnet18_small  # registers it with timm
from training.text.encoder import EncoderTower
from training.text.tower import TextTower, fuse, make_tower, not_black, take_tower
from training.weights.file import read_weights
from training.weights.fit import take
from training.weights.hub import offline_if_unreachable


class Classifier(nn.Module):
    """Crops (B, H, W, 3) with values in 0..255 -> logits (B, num_classes): normalisation, then timm's network.

    With a `tower`, ids int64 (B, L) of texts count, too; a black crop then stands for no photo.
    """

    mean: Tensor
    std: Tensor
    start = ""  # what its starting weights are, in a sentence

    def __init__(
        self, network: nn.Module, spec: Spec, channels_last: bool = True, tower: TextTower | EncoderTower | None = None
    ) -> None:
        super().__init__()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network = network.to(memory_format=self.memory_format)
        # times 255, as crops hold 0..255; not in the state dict, as the spec carries these values
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1) * 255, persistent=False)
        self.tower = tower

    def forward(self, crops: Tensor, ids: Tensor | None = None, seen: Tensor | None = None) -> Tensor:
        """See the class. `seen` (B,), in training: 0 for a photo that is left out."""
        x = crops.permute(0, 3, 1, 2).to(self.mean.dtype, memory_format=self.memory_format)  # (B, 3, H, W)
        logits: Tensor = self.network((x - self.mean) / self.std)
        if self.tower is None or ids is None:
            return logits
        fused: Tensor = fuse(logits, self.tower(ids), not_black(crops) if seen is None else seen)  # type: ignore[assignment]
        return fused


def build(
    params: Params,
    num_classes: int,
    load_weights: bool = True,
    labels: Sequence[str] = (),
    with_text: bool = False,
    encoder: Mapping[str, Any] | None = None,
) -> tuple[Classifier, Spec]:
    """timm's network params.model, and the spec that its weights were trained with; `with_text`: and a text tower beside it.

    params.weights is "hub", "none", a file or the folder of a run. The head is new, but for classes of `labels` that a run of
    ours knows. `encoder` is the EncoderTower.source of a run that goes on, or is measured. ValueError if timm does not know the
    model, the weights do not fit, or the text encoder cannot be had.
    """
    check_network(params.model)
    if "text" in params.spec:
        raise ValueError(
            f"spec.text is {params.spec['text']!r}, expected none: text_buckets or text_encoder says how texts are read"
        )
    starts = params.weights if load_weights else "none"
    source = read_weights(starts) if starts not in ("hub", "none") else None
    network = create(params, num_classes, from_hub=starts == "hub")
    start = f"weights from timm's hub: {params.model}, with a new head" if starts == "hub" else ""
    if source is not None:
        start = take(network, heads(network), params.model, source, labels)
        if source.spec:
            start += f"; crops as in that run, but for what params.spec sets: {params.spec}"
        if source.model_args not in (None, params.model_args):
            start += f"; that run had model_args {source.model_args}, this one has {params.model_args}"
    # what timm or the run records of these weights, unless the parameters correct it: the one source of mean, size and crop
    config = resolve_data_config(model=network) | (source.spec if source else {}) | params.spec
    config.pop("text", None)  # of a run with texts; whether this one has them is its data's matter
    spec = Spec.from_dict({key: config[key] for key in config if key in Spec.__annotations__ or key in params.spec})
    tower = None
    if with_text:
        tower, text = make_tower(params, num_classes, encoder)
        spec = replace(spec, text=text)
        if source is not None:
            start += f"; {take_tower(tower, source.tensors, source.labels, labels)}"
    classifier = Classifier(network, spec, params.channels_last, tower)
    classifier.start = start
    return classifier, spec


def why_refused(classifier: Classifier, size: int, crops: int, training: bool) -> str | None:
    """Why the network cannot take so many crops of size x size pixels, in its own words; None if it can.

    It is in that mode afterwards, and a pass in training mode has changed its batch statistics.
    """
    try:
        with torch.no_grad():
            classifier.train(training)(torch.zeros(crops, size, size, 3))
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        return str(error).strip().partition("\n")[0] or type(error).__name__
    return None


def check_network(name: str) -> None:
    """ValueError, with similar names, unless timm knows the network."""
    if timm.is_model(name):
        return
    names = timm.list_models()
    plain = {re.sub(r"[^a-z0-9]", "", known): known for known in names}
    close = difflib.get_close_matches(name.lower(), names, n=5)
    close += [plain[key] for key in difflib.get_close_matches(re.sub(r"[^a-z0-9]", "", name.lower()), plain, n=3)]
    raise ValueError(f"timm has no model {name!r}; similar names: {', '.join(dict.fromkeys(close)) or 'none'}")


def create(params: Params, num_classes: int, from_hub: bool) -> nn.Module:
    """timm's network, with weights of its hub and a head of zeros, or with random weights. ValueError if that is not possible."""
    try:
        with offline_if_unreachable() if from_hub else nullcontext("") as unreachable:
            network: nn.Module = timm.create_model(params.model, pretrained=from_hub, num_classes=num_classes, **params.model_args)
    except OSError as error:
        reason = unreachable or textwrap.shorten(str(error), 200)
        raise ValueError(
            f"weights of {params.model} could not be fetched from timm's hub, and are not in its cache ({reason}): "
            "give a file (WEIGHTS=path), or start from random ones (WEIGHTS=none)"
        ) from error
    except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError, KeyError) as error:
        close = ", ".join(timm.list_pretrained(f"{params.model.partition('.')[0]}.*")) or "none"
        advice = f": give a file (WEIGHTS=path) or WEIGHTS=none; with weights on the hub: {close}" if from_hub else ""
        raise ValueError(f"{params.model} with model_args {params.model_args} cannot be made: {error}{advice}") from error
    for head in heads(network).values() if from_hub else ():
        # the first steps move the head, and no random gradient reaches the trained body
        nn.init.zeros_(head.get_parameter("weight"))
    return network


def heads(network: nn.Module) -> dict[str, nn.Module]:
    """The layers that give the logits, by name; LeViT has two, one for distillation."""
    names = cast(dict[str, Any], network.pretrained_cfg)["classifier"]
    return {name: network.get_submodule(name) for name in ([names] if isinstance(names, str) else names)}


def save_whole(content: dict[str, Any], path: Path) -> None:
    """torch.save `content`: at any moment the file is the old one or the new one, whole. OSError as it comes."""
    # by way of memory: on a full disk torch's own writer raises RuntimeError without the reason
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    with aside(path) as part:
        part.write_bytes(buffer.getbuffer())


@dataclass(frozen=True)
class Checkpoint:
    """What one run hands on. `metrics` are of the held-out photos; `trained_on` is the sha256 of each training photo.

    `temperature` divides the logits; `data` holds source, root, fingerprint and counts; `git` is commit and "dirty" or "clean";
    `name` is the model's, None in checkpoints that are older than names (`params["model"]` is timm's network). `held_out` is
    the sha256 of each photo by which epoch and temperature were chosen, None in older checkpoints. `tower` are the weights of
    the text tower, None without one; `encoder` is its EncoderTower.source, None where it has no encoder.
    """

    weights: dict[str, Tensor]
    spec: dict[str, Any]
    labels: tuple[str, ...]
    params: dict[str, Any]
    temperature: float
    epoch: int
    metrics: dict[str, float]
    data: dict[str, Any]
    trained_on: Sequence[str]
    git: str
    name: str | None = None
    held_out: Sequence[str] | None = None
    tower: dict[str, Tensor] | None = None
    encoder: dict[str, Any] | None = None

    def save(self, path: Path) -> None:
        """Write the file whole. OSError if the disk is full."""
        save_whole(vars(self), path)

    @classmethod
    def load(cls, path: Path) -> "Checkpoint":
        """The checkpoint in a file. ValueError if it is missing or not one of ours."""
        try:
            return cls(**torch.load(path, map_location="cpu", weights_only=True))
        except FileNotFoundError as error:
            check_exists(path.parent)
            if pid := process_at_work(path.parent):
                raise ValueError(f"no checkpoint {path} yet: the run is at work, as process {pid}, in its first epoch") from error
            raise ValueError(f"no checkpoint {path}; make train writes one") from error
        except Exception as error:  # torch.load raises pickle, zip, key and type errors alike
            raise ValueError(f"{path} is not a checkpoint of this project: {error}") from error

    @property
    def data_root(self) -> Path | None:
        """The folder of the photos that it was trained on; None for generated pictures."""
        return Path(self.data["root"]) if self.data["root"] else None

    def read_spec(self) -> Spec:
        """How it sees a photo, and reads a text."""
        return Spec.from_dict(self.spec, self.encoder["tokenizer"] if self.encoder else "")

    def classifier(self) -> tuple[Classifier, Spec]:
        """The trained network in evaluation mode, and its spec."""
        params, with_text, spec = Params(**self.params), self.tower is not None, self.read_spec()
        classifier, _ = build(params, len(self.labels), load_weights=False, with_text=with_text, encoder=self.encoder)
        classifier = Classifier(classifier.network, spec, tower=classifier.tower)
        classifier.network.load_state_dict(self.weights)
        if self.tower is not None and classifier.tower is not None:
            classifier.tower.load_state_dict(self.tower)
        return classifier.eval(), spec
