"""Photos saved as tensors (.pt, by torch.save) with a list of their labels, written as PNG files into class folders.

Read are a file a photo, of shape (3, H, W) or (1, H, W), which a list names or a class folder holds; and a file of all,
(N, 3, H, W), beside a list with a row for each, in their order. Values are uint8, or floats from 0 to 1; those that were normalised
need the mean and std by which they were.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from scripts.atomic import aside
from scripts.class_names import split_name
from scripts.folders import Folder, files_below, read_folder
from scripts.phrases import counted
from training.data.folders_or_lists import check_names, layout_of
from training.data.label_lists import LIST_SUFFIXES
from training.data.list_columns import is_label
from training.data.list_table import Table, read_table
from training.data.list_text import read_text
from training.data.photo_folders import PhotoFolder

TENSOR_SUFFIXES = (".pt", ".pth")
NORMALISED = "normalised: give the mean and std of its normalisation, MEAN=0.485,0.456,0.406 STD=0.229,0.224,0.225 for ImageNet's"
SLACK = 1e-3  # of floats from 0 to 1 that went through float16


@dataclass(frozen=True)
class Normalisation:
    """Mean and std of each channel, by which values were normalised."""

    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Saved:
    """One photo: its tensor (3, H, W) or (1, H, W) as it was saved, split, label, and a file name without suffix."""

    values: Tensor
    split: str
    label: str
    name: str


def has_tensors(folder: Path) -> bool:
    """Whether a folder holds saved tensors."""
    return folder.is_dir() and any(path.suffix.lower() in TENSOR_SUFFIXES for path in files_below(folder, Counter()))


def convert(folder: Path, target: Path, normalisation: Normalisation) -> Counter[str]:
    """Write the photos of saved tensors into class folders in `target`; how many each split has ("" without splits).

    ValueError if tensors and labels do not fit each other, or a tensor is no photo; nothing is written then.
    """
    if target.exists():
        raise ValueError(f"{target} is there already: move it away, or give another place")
    target.parent.mkdir(parents=True, exist_ok=True)
    found: Counter[str] = Counter()
    with aside(target) as part:
        for photo in _photos(folder):
            path = part / photo.split / photo.label / f"{photo.name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                raise ValueError(f"two tensors would be {path.relative_to(part)}: give one of them another name")
            try:
                picture(photo.values, normalisation).save(path)
            except ValueError as error:
                raise ValueError(f"{photo.name} of {folder}: {error}") from error
            found[photo.split] += 1
    return found


def picture(values: Tensor, normalisation: Normalisation) -> Image.Image:
    """The picture of a tensor (3, H, W) or (1, H, W), uint8 or float. ValueError if it is none."""
    if values.ndim != 3 or values.shape[0] not in (1, 3) or 0 in values.shape:
        raise ValueError(f"a tensor of shape {tuple(values.shape)}, expected (3, H, W) or (1, H, W)")
    if values.dtype != torch.uint8:
        if not values.dtype.is_floating_point:
            raise ValueError(f"a tensor of {values.dtype}, expected uint8, or floats from 0 to 1")
        mean, std = (torch.tensor(of[: values.shape[0]]).view(-1, 1, 1) for of in (normalisation.mean, normalisation.std))
        values = values.float() * std + mean
        low, high = values.min().item(), values.max().item()
        if not (low >= -SLACK and high <= 1 + SLACK):  # NaN compares false, too
            wrong = "from 0 to 255 as floats" if low >= 0 and high > 2 else NORMALISED
            raise ValueError(f"values from {low:.3g} to {high:.3g}, expected 0 to 1: if they are {wrong}")
        values = (values.clamp(0, 1) * 255).round().to(torch.uint8)
    pixels = values.permute(1, 2, 0).contiguous().numpy()  # (H, W, C)
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def _photos(folder: Path) -> Iterator[Saved]:
    paths = sorted(path for path in files_below(folder, Counter()) if path.suffix.lower() in TENSOR_SUFFIXES)
    first = _load(paths[0])
    if first.ndim == 4:
        yield from _of_all(paths[0], first)
        for path in paths[1:]:
            yield from _of_all(path, _load(path))
        return
    layout = layout_of(_tree(read_folder(folder, Counter())))
    check_names(layout.labels)
    for split, classes in layout.splits.items():
        for label, of_class in classes.items():
            for path in of_class:
                yield Saved(_load(path), split, label, path.stem)


def _tree(folder: Folder) -> PhotoFolder:
    """A folder whose photos are its tensors."""
    tensors = [path for path in folder.files if path.suffix.lower() in TENSOR_SUFFIXES]
    return PhotoFolder(folder.path, tensors, [_tree(inner) for inner in folder.folders])


def _of_all(path: Path, values: Tensor) -> Iterator[Saved]:
    """The photos of a file of all (N, 3, H, W)."""
    labels = _labels(_list_of(path))
    if len(labels) != len(values):
        raise ValueError(
            f"{path} holds {counted(len(values), 'photo')}, its list {_list_of(path)} has {counted(len(labels), 'row')}"
        )
    for number, (one, label) in enumerate(zip(values, labels, strict=True)):
        yield Saved(one, _role(path), label, f"{path.stem}-{number:06}")


def _list_of(path: Path) -> Path:
    """The list of a file of all: the only one beside it, or that of the same split or name."""
    lists = sorted(other for other in path.parent.iterdir() if other.suffix.lower() in LIST_SUFFIXES)
    role = _role(path)
    fitting = [one for one in lists if one.stem == path.stem] or [one for one in lists if role and _role(one) == role] or lists
    if len(fitting) != 1:
        raise ValueError(
            f"{path} has {counted(len(fitting), 'list')} beside it, expected one CSV with a column label and a row for each photo"
        )
    return fitting[0]


def _role(path: Path) -> str:
    """The split that a file's name says; "" if it says none."""
    named = split_name(path.stem)
    return named.role if named else ""


def _labels(path: Path) -> list[str]:
    """The labels of a list, in the order of its rows."""
    text = read_text(path).text
    table = read_table(text, lambda cell: False, is_label)
    if not table.rows:  # one column has no separator
        lines = [(number, [line.strip()]) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        table = Table(lines[0][1] if lines else None, lines[1:])
    columns = [number for number, name in enumerate(table.header or []) if is_label(name)]
    if len(columns) != 1 or table.problems:
        problem = "; ".join(table.problems) or f"has the columns {table.header}"
        raise ValueError(f"{path} {problem}: expected one column label, with a row for each photo")
    labels = [cells[columns[0]] for _, cells in table.rows]
    check_names(labels)
    if missing := next((line for (line, _), label in zip(table.rows, labels, strict=True) if not label), None):
        raise ValueError(f"{path}, line {missing}: no label")
    return labels


def _load(path: Path) -> Tensor:
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises pickle, zip, key and type errors alike
        raise ValueError(f"{path} is no tensor that torch.save wrote: {error}") from error
    if not isinstance(values, Tensor):
        raise ValueError(f"{path} holds a {type(values).__name__}, expected a tensor")
    return values.detach()
