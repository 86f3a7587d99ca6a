"""Which tensors of a file a network takes over: body by name and shape, head by labels. Little of it fits: refused."""

import contextlib
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn

from scripts.phrases import counted, some
from training.weights.file import Source

MIN_SHARE = 0.5  # of the body's tensors; below it is another network's file
COUNTER = "num_batches_tracked"
# checkpoints of timm, torchvision, Lightning and wrappers: asked for only where no other prefix was found
CONTAINERS = ("", "model.", "state_dict.", "module.", "model_state_dict.", "state_dict_ema.", "model_ema.")


@dataclass(frozen=True)
class Fit:
    """A file's tensors below `prefix`, by the network's names, beside the network's own."""

    prefix: str
    given: Mapping[str, Tensor]
    wanted: Mapping[str, Tensor]

    @property
    def taken(self) -> dict[str, Tensor]:
        """The tensors whose name and shape fit."""
        return {
            key: self.given[key] for key, own in self.wanted.items() if key in self.given and self.given[key].shape == own.shape
        }

    @property
    def other_shape(self) -> list[str]:
        """Name and both shapes of each tensor whose name alone fits."""
        pairs = {name: (self.given[name].shape, own.shape) for name, own in self.wanted.items() if name in self.given}
        return [f"{name} ({shown(a)} in the file, {shown(b)} in the network)" for name, (a, b) in pairs.items() if a != b]


def shown(shape: Sequence[int]) -> str:
    """A shape as a sentence shows it."""
    return " x ".join(map(str, shape)) or "a number"


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors below a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def best_fit(network: nn.Module, wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Fit:
    """The part of a file that fits best: below any prefix (module., state_dict., ...), of equal ones the averaged weights."""
    counts: Counter[str] = Counter()
    for name, tensor in tensors.items():
        for start in [0, *(dot.end() for dot in re.finditer(r"\.", name))]:
            if (own := wanted.get(name[start:])) is not None and own.shape == tensor.shape:
                counts[name[:start]] += 1
    ranked = sorted(counts, key=lambda prefix: (-counts[prefix], not re.search("ema|average", prefix), len(prefix)))
    fits = [Fit(prefix, under(prefix, tensors), wanted) for prefix in ranked[:1]]
    if not fits or len(fits[0].taken) < len(wanted):
        # timm's own translation of other projects' names and of other sizes of position embeddings
        module = sys.modules[type(network).__module__]
        translate: Any = getattr(module, "checkpoint_filter_fn", None) or getattr(module, "_filter_fn", dict)
        for prefix in dict.fromkeys([*ranked[:1], *CONTAINERS]):
            # it expects names that are not there, and raises what it likes
            with contextlib.suppress(Exception):
                fits.append(Fit(prefix, dict(translate(under(prefix, tensors), network)), wanted))
    fits.append(Fit("", tensors, wanted))
    return max(fits, key=lambda fit: len(fit.taken))  # the first of equal ones


def blocks(names: Iterable[str]) -> dict[str, set[int]]:
    """The numbers of the blocks that each list of blocks has: layer1.0.conv1.weight is of block 0 of layer1."""
    numbers: dict[str, set[int]] = {}
    for name in names:
        for match in re.finditer(r"\.(\d+)(?=\.)", name):
            numbers.setdefault(name[: match.start()], set()).add(int(match[1]))
    return numbers


def other_depth(fit: Fit, heads: Sequence[str]) -> str:
    """How the numbers of blocks differ; "" if they do not."""
    theirs = blocks(name for name in fit.given if not name.startswith(tuple(heads)))
    for part, own in blocks(fit.wanted).items():
        if (given := theirs.get(part, own)) != own:
            return f"{part} has {counted(len(given), 'block')} in the file, {len(own)} in the network"
    return ""


def take(network: nn.Module, heads: Mapping[str, nn.Module], model: str, source: Source, labels: Sequence[str]) -> str:
    """Load what fits into the network; a sentence on what was taken, and what starts anew. `heads` are its last layers by name.

    ValueError if it is another network's file, or not finite.
    """
    name, start = model.partition(".")[0], tuple(f"{head}." for head in heads)
    if source.labels and source.architecture.partition(".")[0] != name:
        raise ValueError(
            f"weights {source.name} are of {source.architecture}, the parameters' model is {model}: "
            f"set model: {source.architecture}, or give weights of {model}"
        )
    body = {key: own for key, own in network.state_dict().items() if not key.startswith(start)}
    # counters of batches do not count: older files lack them
    wanted = {key: own for key, own in body.items() if not key.endswith(COUNTER)}
    fit = best_fit(network, wanted, source.tensors)
    taken = fit.taken
    depth = other_depth(fit, start) if len(taken) >= MIN_SHARE * len(wanted) else ""
    if len(taken) < MIN_SHARE * len(wanted) or depth:
        raise ValueError(refusal(fit, model, source, depth))
    bad = [key for key, tensor in taken.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise ValueError(f"weights {source.name} hold values that are not finite, in {some(bad)}: their training diverged")
    counters = {key: fit.given[key] for key in body if key.endswith(COUNTER) and key in fit.given}
    network.load_state_dict(taken | counters, strict=False)
    became = [new_head(head, key, fit, source, labels) for key, head in heads.items()]
    return sentence(fit, source, became[0])


def refusal(fit: Fit, model: str, source: Source, depth: str) -> str:
    """Why a file is refused: what was expected, how much fits, and examples of both."""
    theirs = [key for key in source.tensors if not key.endswith(COUNTER)]
    # examples are those that do not fit, where there are any
    others, expected = sorted(theirs, key=fit.taken.__contains__), sorted(fit.wanted, key=fit.taken.__contains__)
    count = f"{len(fit.taken)} of the {counted(len(fit.wanted), 'tensor')} of {model}'s body are in its {len(theirs)}"
    name = source.architecture or named_by(source.name)
    reasons = [count, *([depth] if depth else []), *([f"other shapes: {some(fit.other_shape)}"] if fit.other_shape else [])]
    return (
        f"weights {source.name} are of another network{f' ({name})' if name else ''} than {model}, which the parameters name: "
        f"{'; '.join(reasons)}. The file has {some(others)}; expected {some(expected)}. "
        f"Give weights of {model}, or set model to the file's network"
    )


def named_by(file: str) -> str:
    """The network of timm that a file's name names, the longest; "" if none."""
    stem = file.rpartition("/")[2].lower().replace("-", "_")
    return max((name for name in timm.list_models() if name in stem), key=len, default="")


@torch.no_grad()
def new_head(head: nn.Module, name: str, fit: Fit, source: Source, labels: Sequence[str]) -> str:
    """Set a head to zero but for the rows of classes that the file has, too; what became of it, for a sentence.

    At zero the first steps move the head, and no random gradient reaches the trained body.
    """
    weight, bias = head.get_parameter("weight"), getattr(head, "bias", None)
    nn.init.zeros_(weight)
    old, old_bias = fit.given.get(f"{name}.weight"), fit.given.get(f"{name}.bias")
    if old is None:
        return "the head starts anew, as the file has none"
    if not source.labels:
        return f"the head starts anew, as the file does not name its {counted(len(old), 'class')}"
    rows = [(row, source.labels.index(label)) for row, label in enumerate(labels) if label in source.labels]
    if not rows or old.shape[1:] != weight.shape[1:] or len(old) != len(source.labels):
        return f"the head starts anew, as its {counted(len(old), 'class')} are others"
    to, of = [row for row, _ in rows], [row for _, row in rows]
    weight[to] = old[of].to(weight.dtype)
    if bias is not None and old_bias is not None:
        nn.init.zeros_(bias)
        bias[to] = old_bias[of].to(bias.dtype)
    if len(rows) == len(labels):
        return f"the head with the rows of all {len(labels)} classes"
    new = [label for label in labels if label not in source.labels]
    return f"the head with the rows of {counted(len(rows), 'class')}, new are {some(new)}"


def sentence(fit: Fit, source: Source, head: str) -> str:
    """What was taken, and what starts anew."""
    taken, missing = fit.taken, [key for key in fit.wanted if key not in fit.given]
    body = f"all {len(taken)}" if len(taken) == len(fit.wanted) else f"{len(taken)} of {len(fit.wanted)}"
    below = f" (below {fit.prefix.rstrip('.')})" if fit.prefix else ""
    text = f"weights from {source.name}{below}: {body} tensors of the body are taken, {head}"
    if missing or fit.other_shape:
        text += f"; the body starts anew in {some([*fit.other_shape, *missing])}"
    return text
