"""Exported models of several programs, made of one that has some: what `make export FORMAT=openvino,onnxruntime` would write."""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from handler.signals import PROFILE, Profile, save_profiles

MORE = "onnxruntime/f32"


def profiles_of(exported: Path, programs: Iterable[str]) -> dict[str, Profile]:
    """The reference of each program."""
    return {name: profile for name in programs if (profile := Profile.load(exported / PROFILE, name))}


def with_onnxruntime(exported: Path, folder: Path) -> Path:
    """A copy, in which ONNX Runtime runs the same file, too."""
    shutil.copytree(exported, folder)
    content = {name: json.loads((folder / name).read_text()) for name in ("program.json", "golden.json")}
    programs, golden = content["program.json"]["programs"], content["golden.json"]
    profiles = profiles_of(folder, programs)
    programs[MORE] = programs["openvino/f32"] | {"format": "onnxruntime", "confidence_threshold": -2.0}
    golden["programs"][MORE] = golden["programs"]["openvino/f32"]
    profiles[MORE] = profiles["openvino/f32"]
    for name, values in content.items():
        (folder / name).write_text(json.dumps(values))
    save_profiles(folder / PROFILE, profiles)
    return folder


def as_before(exported: Path, folder: Path) -> Path:
    """A copy in the shape of earlier versions: one format, its programs named by their precisions."""
    shutil.copytree(exported, folder)
    content = {name: json.loads((folder / name).read_text()) for name in ("program.json", "golden.json")}
    programs, golden = content["program.json"].pop("programs"), content["golden.json"]
    precisions = {about["precision"]: about for about in programs.values()}
    for about in precisions.values():
        content["program.json"] |= {"format": about.pop("format"), "file": about.pop("file")}
        del about["precision"]
    content["program.json"]["precisions"] = precisions
    answers = golden.pop("programs")
    golden["tolerance"] = {name.split("/")[1]: 0.1 for name in answers}
    for i, photo in enumerate(golden["photos"]):
        photo |= {key: answers["openvino/f32"][key][i] for key in ("probabilities", "confidence")}
    profiles = {name.split("/")[1]: profile for name, profile in profiles_of(folder, programs).items()}
    for name, values in content.items():
        (folder / name).write_text(json.dumps(values))
    save_profiles(folder / PROFILE, profiles)
    return folder
