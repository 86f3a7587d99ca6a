"""A file of starting weights as named tensors; whatever else lies at the path is refused with what it is and what to do.

Nothing in a file is executed: pickles are read by torch's weights_only, and of other classes only those that training
frameworks keep beside weights are let in, each as an inert stand-in.
"""

import argparse
import difflib
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from scripts.phrases import counted

# the files of a run, best first: the best epoch's averaged weights, then the state, which holds averaged weights, too
RUN_FILES = ("checkpoint.pt", "last.pt")
AGAIN = "fetch it again, and compare its size with the original's"
# what begins in this way is no file of weights that torch wrote
MAGIC = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: git lfs pull fetches it"),
    (b"\x89HDF", "an HDF5 file, as Keras writes it: expected weights of PyTorch"),
    (b"\x1f\x8b", "compressed by gzip: unpack it first"),
    (b"BZh", "compressed by bzip2: unpack it first"),
    (b"\xfd7zXZ", "compressed by xz: unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it first"),
    (b"Rar!", "a rar archive: unpack it first"),
    (b"\x93NUMPY", "a NumPy array: expected weights of PyTorch"),
    (b"GGUF", "a GGUF file: expected weights of PyTorch"),
    (b"{", "JSON, a description or an index of weights and not the weights: give the .safetensors or .pth file itself"),
)
# what one of these in a zip file tells
MEMBERS = (
    ("MAR-INF/MANIFEST.json", "an archive for serving, which cannot be trained further: give the run that it was made from"),
    ("constants.pkl", "a TorchScript program, which cannot be trained further: save the network's state_dict() instead"),
    ("archive_format", "a program of torch.export, which cannot be trained further: give the run that it was made from"),
    ("archive_version", "a program of torch.export, which cannot be trained further: give the run that it was made from"),
    (".npy", "an archive of NumPy arrays: expected weights of PyTorch"),
    (".pth", "a zip archive: unpack it first"),
    (".pt", "a zip archive: unpack it first"),
    (".safetensors", "a zip archive: unpack it first"),
)
PROGRAM = "an exported program, which cannot be trained further: give the run that it was made from, or its .pth file"
# packages whose classes training frameworks keep beside weights: settings, paths, metrics
BESIDE = re.compile(
    r"(argparse|pathlib|omegaconf|numpy|collections|datetime|typing|enum|pytorch_lightning|lightning\w*|mmengine|yacs|ml_collections)\."
    r"|_codecs\.encode$|builtins\.(dict|list|set|tuple|int|str|float|bool|object)$"
)


class Unused:
    """Stands for an object beside the weights; its class's code is not run."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


@dataclass(frozen=True)
class Source:
    """Starting weights: each tensor by its dotted path in the file, and what the file tells of their network.

    `labels`, `spec`, `model_args` are of runs of ours alone; `architecture` is timm's or torchvision's name, "" if unknown.
    """

    name: str
    tensors: dict[str, Tensor]
    architecture: str = ""
    labels: tuple[str, ...] = ()
    spec: dict[str, Any] = field(default_factory=dict)
    model_args: dict[str, Any] | None = None


def read_weights(given: str) -> Source:
    """The weights in a file, or in the folder of a run. ValueError, with what to do, if there are none."""
    path = find(given)
    content = load(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected weights by name: save the network's state_dict()")
    if "params" in content and "labels" in content and ("weights" in content or "average" in content):
        return of_run(path, content)
    tensors = dict(flat(content))
    if not tensors:
        raise ValueError(
            f"{path} holds no weights; its keys are {[str(key) for key in content][:5]}: save the network's state_dict()"
        )
    arguments = content.get("args")
    # timm's `arch` is the name of a class, torchvision's that of a network
    architecture = getattr(arguments, "model", "") or content.get("architecture") or content.get("arch")
    return Source(str(path), tensors, architecture if isinstance(architecture, str) else "")


def of_run(path: Path, content: Mapping[str, Any]) -> Source:
    """The averaged weights in a checkpoint or a state of ours."""
    params = content["params"]
    weights = content["weights"] if "weights" in content else content["average"]
    tensors = {name.removeprefix("network."): tensor for name, tensor in weights.items()}
    # a checkpoint has those of its text tower apart, a state has them among the others
    tensors |= {f"tower.{name}": tensor for name, tensor in (content.get("tower") or {}).items()}
    spec = content.get("spec", params["spec"])
    return Source(str(path), tensors, params["model"], tuple(content["labels"]), dict(spec), dict(params["model_args"]))


def flat(content: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """(dotted path, tensor) of each tensor in nested dicts."""
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")


def find(given: str) -> Path:
    """The file that `given` names. ValueError if there is none."""
    path = Path(given).expanduser()
    if path.is_dir():
        for name in RUN_FILES:
            if (path / name).is_file():
                return path / name
        files = sorted(file.name for file in path.iterdir() if file.suffix in (".pth", ".pt", ".safetensors", ".ckpt", ".bin"))
        advice = f"give a file: {path / files[0]}" if files else "give the folder of a run, or a file"
        raise ValueError(f"the folder {given!r} holds neither {' nor '.join(RUN_FILES)}: {advice}")
    if path.is_file():
        return path
    if "://" in given:
        raise ValueError(f"weights {given!r} are an address, expected a file: download it first (curl -LO {given})")
    if path.with_name(path.name + ".dvc").is_file():
        raise ValueError(f"weights file {given!r} is tracked by DVC and not here: make pull fetches it (or dvc pull {path}.dvc)")
    if path.exists():
        raise ValueError(f"weights {given!r} are no regular file")
    names = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    close = [str(path.with_name(name)) for name in difflib.get_close_matches(path.name, names)]
    raise ValueError(
        f"weights file {given!r} does not exist; expected a file, the folder of a run, 'hub' or 'none'"
        + (f" (similar: {', '.join(close)})" if close else "")
    )


def load(path: Path) -> Any:
    """What a file of torch or safetensors holds, on the CPU. ValueError says what another file is."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise ValueError(f"weights file {path} cannot be read: {error.strerror}") from error
    if what := what_it_is(path, head):
        raise ValueError(f"weights file {path} is {what}")
    if is_safetensors(head):
        try:
            return safetensors.torch.load_file(path)
        except Exception as error:  # safetensors' own type, which is no ValueError
            raise ValueError(f"weights file {path} is cut off or damaged ({error}): {AGAIN}") from error
    return load_pickle(path)


def is_safetensors(head: bytes) -> bool:
    """Whether a file begins as safetensors do: the length of a JSON header, then the header."""
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000


def what_it_is(path: Path, head: bytes) -> str:
    """What a file is if it is known not to hold weights, and what to do; "" if it may."""
    if not head:
        return f"empty: {AGAIN}"
    text = head.decode("utf-8", "ignore").lstrip("\ufeff \r\n\t").lower()
    for start, what in MAGIC:
        if head.startswith(start):
            return what
    if text.startswith(("<!doctype", "<html", "<?xml", "<head", "<body", "<!--")):
        return "a web page or XML, as a server answers where a file is missing or a login is needed: download the file itself"
    if path.suffix == ".dvc" or ("outs:" in text and "md5:" in text):
        return f"a DVC file, which only names the weights: make pull, then WEIGHTS={path.with_suffix('')}"
    if path.suffix in (".onnx", ".xml", ".tflite", ".engine", ".pb") or (head[:1] == b"\x08" and b"pytorch" in head[:64]):
        return PROGRAM
    if head.startswith(b"PK"):
        return what_the_zip_is(path)
    if head.isascii() and not any(byte < 9 for byte in head):
        return f"text that begins with {head[:40].decode()!r}, not weights: {AGAIN}"
    return ""


def what_the_zip_is(path: Path) -> str:
    """The same for a zip file, as torch writes them."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        return f"cut off or damaged, at {counted(path.stat().st_size, 'byte')} ({error}): {AGAIN}"
    what = next((what for end, what in MEMBERS if any(name.endswith(end) for name in names)), "")
    return what or ("" if any(name.endswith("data.pkl") for name in names) else "a zip archive without weights: unpack it first")


def load_pickle(path: Path) -> Any:
    """The content of a file that torch.save wrote. ValueError if it holds more than data."""
    try:
        with torch.serialization.safe_globals(stand_ins(path)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not (unsafe := re.search(r"GLOBAL (\S+)", str(error))):
            raise ValueError(f"weights file {path} is no file of torch.save or safetensors, or is damaged: {AGAIN}") from error
        raise ValueError(
            f"weights file {path} holds code ({unsafe[1]}), which is not run, as it may do anything. Where you trust it, "
            "load it with weights_only=False and save its state_dict alone: torch.save(state_dict, 'weights.pth')"
        ) from error
    except Exception as error:  # torch raises types of many kinds for files that are damaged
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"weights file {path} is cut off, damaged, or no file of torch.save ({reason}): {AGAIN}") from error


def stand_ins(path: Path) -> list[Any]:
    """What torch.load may make, with its name in the file, of classes that are kept beside weights."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # files in torch's older format; torch.load says what is wrong with others
        names = ["argparse.Namespace"]
    known: dict[str, type] = {"argparse.Namespace": argparse.Namespace}
    # a dict's items can be put into a dict alone
    return [(known.get(name, OrderedDict if name.endswith("Dict") else Unused), name) for name in names if BESIDE.match(name)]
