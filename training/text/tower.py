"""The text tower, by n-grams or by an encoder, and its late fusion with the photo's network."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from handler.text import ReadsText, TextSpec
from scripts.phrases import counted
from training.params import Params
from training.text.encoder import EncoderTower, encoder_of, load_encoder

# of words and n-grams that an id stands for: fastText's 3 to 6 (arXiv:1607.04606), without the longest, which are rare in titles
SHORTEST, LONGEST = 3, 5
# a title of 60 characters has some 150; a text at the limit of characters has all its words in, and part of its n-grams
LENGTH = 512
STD = 0.1  # of the first embeddings: words that were never seen then have features, too, but short ones


def text_spec(buckets: int) -> TextSpec:
    """How a text is read by a model with so many embeddings."""
    return TextSpec(LENGTH, buckets, SHORTEST, LONGEST)


class TextTower(nn.Module):
    """ids int64 (B, L) -> features (B, D), logits (B, C): the mean of embeddings and a linear layer (arXiv:1607.01759).

    Both are zeros for a row of no ids: no text says nothing. D is `width`.
    """

    def __init__(self, spec: TextSpec, width: int, num_classes: int) -> None:
        super().__init__()
        self.width = width
        self.table = nn.Embedding(spec.buckets, width)
        self.classes = nn.Linear(width, num_classes)
        nn.init.normal_(self.table.weight, std=STD)
        nn.init.zeros_(self.classes.weight)
        nn.init.zeros_(self.classes.bias)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        # not nn.EmbeddingBag, which ONNX lacks
        given = (ids > 0).to(self.table.weight.dtype)[:, :, None]  # (B, L, 1)
        count = given.sum(1)  # (B, 1)
        features = (self.table(ids) * given).sum(1) / count.clamp(min=1)
        return features, self.classes(features) * count.clamp(max=1)


def make_tower(params: Params, num_classes: int, encoder: Mapping[str, Any] | None) -> tuple[TextTower | EncoderTower, ReadsText]:
    """The text tower, and how texts are read for it: by n-grams, or by params.text_encoder.

    `encoder` is that of a run, whose weights are loaded next. ValueError as load_encoder.
    """
    if params.text_encoder is None:
        spec = text_spec(params.text_buckets)
        return TextTower(spec, params.text_width, num_classes), spec
    tower = encoder_of(encoder, num_classes) if encoder else load_encoder(params.text_encoder, num_classes)
    return tower, tower.spec


def fuse(photo: Tensor | tuple[Tensor, ...], text: tuple[Tensor, Tensor], seen: Tensor) -> Tensor | tuple[Tensor, ...]:
    """The sum of both logits (B, C); with features (B, F) and (B, D) too, if `photo` has them, side by side: (B, F + D).

    What a photo has beside features and logits is returned as it is.
    `seen` (B,) is 1 for a photo that counts, 0 for one that does not.
    """
    counts, (text_features, text_logits) = seen[:, None], text
    if isinstance(photo, Tensor):
        return photo * counts + text_logits
    features, logits, *others = photo
    return torch.cat([features * counts, text_features], 1), logits * counts + text_logits, *others


def not_black(crops: Tensor) -> Tensor:
    """1 for each of crops (B, H, W, 3) that shows anything, 0 for a black one, which stands for no photo: float32 (B,)."""
    return crops.flatten(1).float().amax(1).clamp(max=1)


@torch.no_grad()
def take_tower(tower: TextTower | EncoderTower, given: Mapping[str, Tensor], theirs: Sequence[str], labels: Sequence[str]) -> str:
    """Load the text tower of a run with the classes `theirs`; a sentence on what was taken. Without one it starts anew."""
    classes, bias = given.get("tower.classes.weight"), given.get("tower.classes.bias")
    body = [(own, given.get(f"tower.{name}")) for name, own in tower.state_dict().items() if not name.startswith("classes.")]
    if classes is None or bias is None or any(other is None for _, other in body):
        return "the text tower starts anew"
    if isinstance(tower, TextTower):
        ((table, other),) = body
        if other is not None and other.shape != table.shape:
            return f"the text tower starts anew, as that one has {' x '.join(map(str, other.shape))} embeddings"
        table.copy_(other)
    elif not all(other is not None and torch.equal(own, other) for own, other in body):
        return "the text tower starts anew, as that run's encoder is another"
    rows = [(row, theirs.index(label)) for row, label in enumerate(labels) if label in theirs]
    for row, old in rows:
        tower.classes.weight[row] = classes[old]
        tower.classes.bias[row] = bias[old]
    return f"the text tower with the rows of {counted(len(rows), 'class')}"
