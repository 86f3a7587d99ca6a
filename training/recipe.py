"""The recipe's parts, each a function of hyper-parameters and step: rates, groups, freezing, mixing, averaging."""

import math
import random
from typing import Any, NamedTuple

import torch
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from training.model import Classifier, heads
from training.params import Params
from training.text.encoder import EncoderTower


def lr_factor(step: int, warmup_steps: int, total_steps: int) -> float:
    """Share of the peak rate at `step` (from 0): linear warm-up (arXiv:1706.02677), then cosine decay (arXiv:1608.03983)."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def parameter_groups(classifier: Classifier, params: Params) -> list[dict[str, Any]]:
    """Groups for AdamW, each with its `peak_lr`: the head has a rate of its own, the body's falls by layer_decay a layer.

    So has the text tower. Norms and biases (one dimension) do not decay. Layers as timm counts them (arXiv:2106.08254).
    """
    own = {id(p): params.head_lr for module in heads(classifier.network).values() for p in module.parameters()}
    own |= {id(p): params.text_lr for p in classifier.tower.parameters()} if classifier.tower else {}
    scale: dict[int, float] = {}
    if params.layer_decay < 1:
        for group in param_groups_layer_decay(classifier.network, layer_decay=params.layer_decay):
            scale |= {id(p): float(group["lr_scale"]) for p in group["params"]}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for p in classifier.parameters():
        # the rate is part of the key: AdamW has one rate a group, and layer_decay one a layer
        peak_lr = own.get(id(p), params.lr * scale.get(id(p), 1.0))
        groups.setdefault((peak_lr, p.ndim > 1), []).append(p)
    return [
        {"params": ps, "peak_lr": peak_lr, "lr": peak_lr, "weight_decay": params.weight_decay if decays else 0.0}
        for (peak_lr, decays), ps in groups.items()
    ]


def freeze(classifier: Classifier, params: Params, epoch: int) -> list[nn.Module]:
    """The modules that are frozen in `epoch` (from 0), a text encoder among them; all others learn.

    ValueError names a module that does not exist.
    """
    classifier.requires_grad_(True)
    # at no epoch: it knows more words than the titles would teach, and text_lr is a rate for what starts at zero
    modules = [classifier.tower.encoder.requires_grad_(False)] if isinstance(classifier.tower, EncoderTower) else []
    if params.freeze_epochs == 0 or epoch < params.freeze_epochs:
        for name in params.freeze:
            try:
                modules.append(classifier.network.get_submodule(name).requires_grad_(False))
            except AttributeError as error:
                names = [name for name, _ in classifier.network.named_children()]
                raise ValueError(f"freeze: {params.model} has no module {name!r}; it has {names}") from error
    return modules


# Mixing is our own: timm's Mixup draws from numpy's global state, so that a step's mix, and the crops drawn after it, would
# depend on the number of processes and on what ran before, and a resumed run would not repeat an undisturbed one.


class Mix(NamedTuple):
    """How a step mixes each photo with its neighbour: `share` of the photo stays; with a `box` it is cutmix, else mixup."""

    share: float
    box: tuple[slice, slice] | None = None


def choose_mix(params: Params, step: int, epoch: int) -> Mix | None:
    """The mix of a step, the same on every rank: mixup (arXiv:1710.09412), cutmix (arXiv:1905.04899) or, None, neither."""
    alphas = [("mixup", params.mixup), ("cutmix", params.cutmix)]
    choices = [(name, alpha) for name, alpha in alphas if alpha > 0]
    if not choices or (params.mix_off_epoch and epoch + 1 >= params.mix_off_epoch):
        return None
    # a generator of its own for each step: the mix is a function of seed and step alone
    rng = random.Random(f"mix {params.seed} {step}")
    name, alpha = rng.choice(choices)
    share, size = rng.betavariate(alpha, alpha), params.train_size
    if name == "mixup":
        return Mix(share)
    side = round(size * math.sqrt(1 - share))
    y, x = rng.randint(-side // 2, size - side // 2), rng.randint(-side // 2, size - side // 2)
    box = slice(max(y, 0), min(y + side, size)), slice(max(x, 0), min(x + side, size))
    # at an edge the box is cut off, so the share follows from what is left of it
    return Mix(1 - (box[0].stop - box[0].start) * (box[1].stop - box[1].start) / size**2, box)


def swap_neighbours(x: Tensor) -> Tensor:
    """`x` (B, ...) with photos 2i and 2i + 1 in each other's place."""
    # timm flips the whole batch; neighbours stay on one rank however a batch is divided, so the result does not depend on that
    return x.view(-1, 2, *x.shape[1:]).flip(1).view(x.shape)


def mix_crops(crops: Tensor, mix: Mix) -> Tensor:
    """Mixed crops (B, S, S, 3) for `mix`, B even: float32 from mixup, uint8 from cutmix."""
    others = swap_neighbours(crops)
    if mix.box is None:
        return others.float().lerp(crops.float(), mix.share)
    mixed = crops.clone()
    mixed[:, mix.box[0], mix.box[1]] = others[:, mix.box[0], mix.box[1]]
    return mixed


def mix_sides(sides: list[Tensor], mix: Mix) -> list[Tensor]:
    """Texts' ids (B, L), and whether photos count (B,), for `mix`: of each pair, those of the photo that has the larger share."""
    return sides if mix.share >= 0.5 else [swap_neighbours(side) for side in sides]


class Average:
    """Moving average of a network's weights and batch statistics in `averaged`, a second network like it.

    The first steps count more than decay alone would let them: 1 - decay is at least 9 / (10 + steps).
    """

    def __init__(self, averaged: nn.Module, source: nn.Module, decay: float) -> None:
        self.decay, self.averaged = decay, averaged.requires_grad_(False).eval()
        pairs = list(zip([*averaged.parameters(), *averaged.buffers()], [*source.parameters(), *source.buffers()], strict=True))
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self.targets, self.sources = [t for t, _ in floats], [s for _, s in floats]
        self.counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the source's weights after `step` (from 0)."""
        # one call for all tensors: a loop over hundreds of small ones is slow
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.targets, self.sources, weight)
        # integers (num_batches_tracked) have no average
        for target, source in self.counters:
            target.copy_(source)
