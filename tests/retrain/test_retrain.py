"""make retrain in a copy of the project: killed at each step, run twice, a challenger that is no better, a step that fails."""

import contextlib
import csv
import hashlib
import json
import os
import shutil
import subprocess

import pytest
import yaml

from scripts.retrain.steps import STEPS
from tests.retrain.project import Project
from tests.training.test_dvc import s3  # noqa: F401
from training.data.pictures import generate

pytestmark = [pytest.mark.slow]
NAMES = [step.name for step in STEPS]
NO_COMMAND = {"champion", "report", "shadow"}


@pytest.fixture(scope="module")
def project(tmp_path_factory, s3, tiny_params):  # noqa: F811
    """A weak champion, of four pictures a class; 40 a class are held out, and 25 more are reviewed."""
    folder = tmp_path_factory.mktemp("retrain") / "seefood"
    project = Project(folder, s3, "retrain")
    pictures = generate(folder.parent / "pictures", num_classes=3, per_class=69)
    for label in sorted(path for path in pictures.iterdir() if path.is_dir()):
        photos = sorted(label.iterdir())
        for split, some in (("train", photos[:4]), ("test", photos[4:44])):
            (folder / "data/food" / split / label.name).mkdir(parents=True)
            for photo in some:
                shutil.copy(photo, folder / "data/food" / split / label.name)
    rows = [
        (str(photo), label.name) for label in sorted(pictures.iterdir()) if label.is_dir() for photo in sorted(label.iterdir())[44:]
    ]
    review = folder / "collected/labels.csv"
    review.parent.mkdir(parents=True)
    with review.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    project.train_champion(tiny_params.model_dump() | {"epochs": 8, "global_batch_size": 8})
    return project


def photos_listed(project, *rows):
    """collected/labels.csv with these rows after those that it has."""
    with (project.folder / "collected/labels.csv").open("a", newline="") as file:
        csv.writer(file).writerows(rows)


def version(project):
    return next(part["version"] for part in yaml.safe_load((project.folder / "dvc.yaml").read_text())["vars"] if "version" in part)


def test_killed_at_each_step_the_same_command_goes_on(project):
    for number, name in enumerate(NAMES):
        begun = project.kill_at(name, name not in NO_COMMAND)
        # steps that were done are not taken again; the one that was killed before is
        assert begun in (NAMES[number - 1 : number + 1], NAMES[number : number + 1], NAMES[: number + 1] if number < 2 else []), (
            begun
        )
    said = project.retrain()
    assert "going on with build/retrain/" in said
    assert "1.1.0 is packed" in said
    (run,) = (project.folder / "build/retrain").glob("20*")
    assert set(json.loads((run / "steps.json").read_text())["done"]) == set(NAMES)
    report = (run / "report.md").read_text()
    print(report)
    assert "**1.1.0 is ready to be released**: it is better than 1.0.0." in report
    assert "| all | 75 | 0 |" in report
    assert "| held out before | 120 |" in report
    assert (project.folder / "model_store/seefood-1.1.0.mar").is_file()
    assert version(project) == "1.1.0"


def test_run_twice_it_changes_nothing(project):
    project.commit("Retraining")
    said = project.retrain()
    assert "nothing new: no photo since the retraining of" in said
    assert project.changed() == ""
    assert len(list((project.folder / "build/retrain").glob("20*"))) == 1
    assert "--- train" not in said


def test_nothing_new_can_have_a_status_of_its_own(project):
    """For the DAG, whose other steps are then skipped."""
    assert "nothing new" in project.retrain("--until", "check", "--nothing-new-status", "99", code=99)
    (project.folder / "empty.csv").write_text("path,label\n")
    said = project.retrain("--from", "empty.csv", "--nothing-new-status", "99", code=99)
    assert "empty.csv has no row yet: nothing is added" in said
    (project.folder / "empty.csv").unlink()
    assert project.changed() == ""


def test_a_class_that_is_a_typo_is_refused_before_the_training_and_goes_on_when_corrected(project, tmp_path):
    pictures = generate(tmp_path / "pictures", num_classes=3, per_class=120)
    photo, new = sorted((pictures / "class_1").iterdir())[-2:]
    labels = project.folder / "collected/labels.csv"
    before = labels.read_text()
    photos_listed(project, (photo, "class1"))
    said = project.retrain(code=1)
    assert f"unknown classes: 'class1' (collected/labels.csv, line {len(before.splitlines()) + 1}; close: class_1" in said, said
    assert "a data set with a test split takes no new ones, as nothing would test them: correct them" in said
    assert "--- check" not in said
    # the class is new after all: but a data set with a test split has no photo to test it
    assert "a data set with a test split takes no new ones" in project.retrain("--new-classes", code=1)
    labels.write_text(before)
    photos_listed(project, (photo, "class_1"), (new, "class_0"))
    said = project.retrain("--until", "check")
    assert "going on with build/retrain/" in said
    assert "2 photos came in" in said
    labels.write_text(before)
    photos_listed(project, (photo, "class_1"), (new, "class_1"))
    shutil.rmtree(next(path.parent for path in (project.folder / "build/retrain").glob("*/champion")))
    said = project.retrain("--until", "check")
    assert "1 corrected" in said
    assert len(list((project.folder / "data/food").rglob(f"{sha16(new)}.jpg"))) == 1
    assert (project.folder / "data/food/train/class_1" / f"{sha16(new)}.jpg").is_file()
    shutil.rmtree(next(path.parent for path in (project.folder / "build/retrain").glob("*/champion")))
    project.commit("Two photos more")


def sha16(photo):
    """The start of a photo's name in the data set."""
    return hashlib.sha256(photo.read_bytes()).hexdigest()[:16]


def test_a_challenger_that_is_no_better_releases_nothing(project, tmp_path):
    # pictures of one class under the name of another: the challenger learns them
    pictures = generate(tmp_path / "pictures", num_classes=3, per_class=100)
    labels = sorted(path.name for path in pictures.iterdir() if path.is_dir())
    for label, other in zip(labels, [*labels[1:], labels[0]], strict=True):
        (tmp_path / "wrong" / other).mkdir(parents=True)
        for photo in sorted((pictures / label).iterdir())[70:]:
            shutil.copy(photo, tmp_path / "wrong" / other)
    before = {name: (project.folder / name).read_bytes() for name in ("dvc.yaml", "dvc.lock", "runs/pipeline/checkpoint.pt")}
    champion, archives = version(project), sorted((project.folder / "model_store").glob("*.mar"))
    said = project.retrain("--from", str(tmp_path / "wrong"))
    assert "nothing is released: it is not better than the champion" in said
    assert {name: (project.folder / name).read_bytes() for name in before} == before
    assert version(project) == champion
    assert sorted((project.folder / "model_store").glob("*.mar")) == archives
    report = (project.folder / "build/retrain/report.md").read_text()
    print(report)
    assert f"**Nothing is released, {champion} stays**: it is not better than the champion." in report
    project.commit("Retraining, in vain")
    assert "nothing new" in project.retrain("--from", str(tmp_path / "wrong"))
    assert project.changed() == ""


def test_a_step_that_fails_names_itself_and_the_command_that_goes_on(project, tmp_path):
    (tmp_path / "bad.csv").write_text("path,label\nnowhere.jpg,soup\n")
    said = project.retrain("--from", str(tmp_path / "bad.csv"), code=1)
    assert "error: step ingest failed: `training.data.ingest --reviewed --data data/food" in said
    assert f"Mend that, then go on: make retrain FROM={tmp_path / 'bad.csv'}" in said
    other = project.retrain("--from", str(tmp_path), code=1)
    assert "is not finished, and was started with" in other
    assert "or remove the folder to start anew" in other


@contextlib.contextmanager
def disk(folder, size):
    """A disk of this size on a folder, with what lay there; gives a function that makes it larger."""
    kept = folder.with_name(f"{folder.name}-kept")
    if folder.exists():
        shutil.copytree(folder, kept, symlinks=True)
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine does not let tests mount a disk")
    try:
        if kept.exists():
            shutil.copytree(kept, folder, symlinks=True, dirs_exist_ok=True)
        yield lambda: subprocess.run(["mount", "-o", "remount,size=256m", str(folder)], check=True)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        shutil.rmtree(kept, ignore_errors=True)


def test_on_a_full_disk_it_ends_with_an_error_nothing_is_half_written_and_it_goes_on(project, tmp_path):
    pictures = generate(tmp_path / "pictures", num_classes=3, per_class=150)
    for label in (path for path in pictures.iterdir() if path.is_dir()):
        for photo in sorted(label.iterdir())[:140]:
            photo.unlink()
    shutil.rmtree(project.folder / "build/retrain", ignore_errors=True)  # what another test left unfinished

    def fails_at(step):
        said = project.retrain("--from", str(pictures), code=1)
        assert f"error: step {step} failed" in said, said
        assert "the disk is full" in said, said
        (run,) = (project.folder / "build/retrain").glob("20*")
        assert step not in json.loads((run / "steps.json").read_text())["done"]
        halves = [path for folder in ("build/retrain", "data/food", "runs/") for path in (project.folder / folder).rglob("*.part")]
        assert not halves
        return said

    food = sorted((project.folder / "data/food").rglob("*.jpg"))
    with disk(project.folder / "build/retrain", "24k") as larger:
        fails_at("champion")
        larger()
        with disk(project.folder / "data/food.part", "24k"):
            fails_at("ingest")
            assert sorted((project.folder / "data/food").rglob("*.jpg")) == food
        used = sum(path.stat().st_size // 4096 + 2 for path in (project.folder / "runs").rglob("*")) * 4096
        with disk(project.folder / "runs", used) as larger_runs:
            with contextlib.suppress(OSError), (project.folder / "runs/filler").open("wb", buffering=0) as filler:
                while filler.write(bytes(4096)):
                    pass
            assert "going on with build/retrain/" in fails_at("train")
            larger_runs()
            said = project.retrain("--from", str(pictures), "--until", "evaluate")
            assert "--- ingest" not in said
            assert "is done up to evaluate" in said
        assert len(sorted((project.folder / "data/food").rglob("*.jpg"))) == len(food) + 30
