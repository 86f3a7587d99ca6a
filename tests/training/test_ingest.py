"""New photos become a new version of a data set: what is taken, what is refused, and that nothing is ever half done."""

import csv
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from scripts.command import run
from tests.conftest import LIMIT_S, ROOT, SHARED, bytes_of, needs_photos
from tests.training.test_sets import food101
from tests.waiting import until
from training.data import ingest as ingest_module
from training.data.ingest import staging_folder
from training.data.pictures import draw
from training.data.sets import read_data


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """An empty project folder with parameters; the tests work in it."""
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(ROOT / "params.yaml", "params.yaml")
    return tmp_path


@pytest.fixture
def food(generated):
    """data/food as class folders of four classes."""
    shutil.copytree(generated, "data/food")
    return Path("data/food")


def give(label, number, folder="new", size=(160, 120), **options):
    """A new picture in folder/label; `number` from 1000 makes it unlike the generated ones."""
    path = Path(folder) / label / f"{number}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(number % 4, random.Random(number), size).save(path, **options)
    return path


def ingest(monkeypatch, capsys, *arguments):
    """(exit status, stdout, stderr) of the command."""
    monkeypatch.setattr(sys, "argv", ["ingest.py", *map(str, arguments)])
    status = run(ingest_module.main)
    return status, *capsys.readouterr()


def content(root):
    """Every file below a folder with its bytes and time."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(Path(root).rglob("*")) if path.is_file()}


def refused():
    """{path: (reason, detail)} of the list that was written."""
    with Path("build/ingest-refused.csv").open(newline="") as file:
        return {row["path"]: (row["reason"], row["detail"]) for row in csv.DictReader(file)}


def test_folder_becomes_a_data_set_of_upright_small_photos_without_metadata(monkeypatch, capsys):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    give("pizza", 1000, size=(1600, 1200), exif=exif, comment="at home", quality=95, dpi=(300, 300), icc_profile=b"x" * 200)
    give("pizza", 1001).rename("new/pizza/second.jpeg")
    Path("new/ramen/deeper").mkdir(parents=True)
    Path("new/ramen/deeper/alpha.png").write_bytes(bytes_of(draw(2, random.Random(1), (50, 70)).convert("RGBA"), "PNG"))
    give("ramen", 1003)
    status, output, _ = ingest(monkeypatch, capsys, "new", "--data", "data/food")
    assert status == 0
    assert "4 photos added, 0 present already, 0 refused" in output
    assert re.search(r"pizza +0 -> 2\n +ramen +0 -> 2\n", output)
    assert "this version is not tracked" in output
    photos = sorted(Path("data/food").rglob("*.*"))
    assert [path.parent.name for path in photos] == ["pizza", "pizza", "ramen", "ramen"]
    assert all(re.fullmatch(r"[0-9a-f]{16}\.jpg", path.name) for path in photos)
    sizes = set()
    for path in photos:
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert not image.getexif()
            assert image.info.keys() <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
            sizes.add(image.size)
    assert sizes == {(512, 683), (160, 120), (50, 70)}
    assert not list(Path("data").glob("*.part"))


def test_same_command_again_changes_nothing(monkeypatch, capsys, food):
    for number in range(1000, 1012):
        give(f"class_{number % 4}", number)
    shutil.copyfile("new/class_0/1000.jpg", "new/class_0/copy.jpg")
    assert ingest(monkeypatch, capsys, "new", "--data", food)[0] == 0
    before, listed = content(food), refused()
    status, output, _ = ingest(monkeypatch, capsys, "new", "--data", food)
    assert status == 0
    assert "0 photos added, 12 present already, 1 refused" in output
    assert content(food) == before
    assert refused().keys() == listed.keys() == {"new/class_0/copy.jpg"}


@pytest.mark.slow
def test_csv_names_photos_and_labels(monkeypatch, capsys, food):
    first, second = give("any", 1000, "inbox/a"), give("any", 1001, "inbox/b")
    rows = [
        ["label", "path", "by"],
        ["class_2", first.relative_to("inbox"), "me"],
        ["class_3 ", second.resolve(), ""],
        ["class_3", "gone.jpg", ""],
    ]
    with Path("inbox/list.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows(rows)
    status, output, errors = ingest(monkeypatch, capsys, "inbox/list.csv", "--data", food)
    assert status == 0
    assert "inbox/list.csv: 1 row not taken: line 4: no photo inbox/gone.jpg" in errors
    assert re.search(r"class_2 +30 -> 31\n +class_3 +30 -> 31\n", output)
    assert refused() == {"inbox/gone.jpg": ("unreadable", "No such file or directory")}


@pytest.mark.slow
def test_every_refused_photo_is_listed_with_the_reason(monkeypatch, capsys, food):
    there = food / "class_1" / "004.jpg"
    taken = give("class_0", 1000)
    for name, source in {"0_exact": there, "1_repeat": taken}.items():
        shutil.copyfile(source, f"new/class_{name[0]}/{name}.jpg" if name[0] == "0" else f"new/class_0/{name}.jpg")
    Path("new/class_1").mkdir()
    ImageOps.mirror(Image.open(there)).resize((300, 300)).save("new/class_1/near.png")
    shutil.copyfile(there, "new/class_1/same.jpg")
    for label in ("class_2", "class_3"):
        shutil.copyfile(give("either", 1001, "other"), give(label, 1001))
    Path("new/class_3/notes.txt").write_text("no photo")
    Path("new/class_3/empty.jpg").touch()
    Path("new/class_3/.hidden").touch()
    status, output, _ = ingest(monkeypatch, capsys, "new", "--data", food)
    assert status == 0
    assert refused() == {
        "new/class_0/0_exact.jpg": ("label conflict", "the same photo is given as class_0 and as class_1"),
        "new/class_0/1_repeat.jpg": ("exact duplicate", str(taken)),
        "new/class_1/near.png": ("near-duplicate", str(there)),
        "new/class_1/same.jpg": ("label conflict", "the same photo is given as class_0 and as class_1"),
        "new/class_2/1001.jpg": ("label conflict", "the same photo is given as class_2 and as class_3"),
        "new/class_3/1001.jpg": ("label conflict", "the same photo is given as class_2 and as class_3"),
        "new/class_3/notes.txt": ("unreadable", refused()["new/class_3/notes.txt"][1]),
        "new/class_3/empty.jpg": ("unreadable", "the photo is empty: 0 bytes"),
    }
    assert "1 photo added, 0 present already, 8 refused: 4 label conflict, 2 unreadable, " in output
    for path, (reason, detail) in refused().items():
        assert re.search(rf"refused {path}: {reason}( of|:) {re.escape(detail)}\n", output)


def test_photo_that_is_there_is_refused_and_so_is_one_under_another_label(monkeypatch, capsys, food):
    give("class_0", 1000)
    for label in ("class_1", "class_2"):
        Path("new", label).mkdir()
        shutil.copyfile(food / "class_1" / "004.jpg", f"new/{label}/a.jpg" if label == "class_1" else "b.jpg")
    ImageOps.mirror(Image.open(food / "class_3" / "007.jpg")).save("new/class_2/mirrored.png")
    assert ingest(monkeypatch, capsys, "new", "--data", food)[0] == 0
    assert refused() == {
        "new/class_1/a.jpg": ("exact duplicate", "data/food/class_1/004.jpg"),
        "new/class_2/mirrored.png": ("label conflict", "near-duplicate of data/food/class_3/007.jpg, which is class_3"),
    }


@pytest.mark.slow
def test_nothing_to_take_is_a_failure(monkeypatch, capsys, food):
    before = content(food)
    Path("new/class_0").mkdir(parents=True)
    shutil.copyfile(food / "class_0" / "004.jpg", "new/class_0/a.jpg")
    status, output, errors = ingest(monkeypatch, capsys, "new", "--data", food)
    assert (status, errors) == (1, "error: no photo could be added\n")
    assert "0 photos added, 0 present already, 1 refused" in output
    assert content(food) == before


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["folders", "food-101"])
def test_test_split_stays_and_what_is_in_it_is_refused(monkeypatch, capsys, generated, layout):
    root = Path("data/food")
    if layout == "food-101":
        food101(root / "food-101", generated)
        held_out, listed = root / "food-101" / "images" / "class_1" / "025.jpg", root / "food-101" / "meta" / "test.json"
    else:
        for number, path in enumerate(sorted(generated.rglob("*.jpg"))):
            target = root / ("test" if number % 30 >= 20 else "train") / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        held_out, listed = root / "test" / "class_1" / "025.jpg", root / "test" / "class_0" / "020.jpg"
    before, untouched = read_data(root, 0.1, 0), listed.read_bytes()
    give("class_1", 1000)
    give("class_2", 1001)
    shutil.copyfile(held_out, "new/class_1/a.jpg")
    ImageOps.mirror(Image.open(held_out)).save("new/class_2/b.png")
    for _ in range(2):
        status, output, _ = ingest(monkeypatch, capsys, "new", "--data", root)
        assert status == 0
        assert refused() == {f"new/class_{n}": ("in the held-out test split", str(held_out)) for n in ("1/a.jpg", "2/b.png")}
        after = read_data(root, 0.1, 0)
        assert after.held_out == before.held_out
        assert len(after.train) == len(before.train) + 2
        assert {p.path.parent.parent.name for p in after.train} == {"images" if layout == "food-101" else "train"}
        assert listed.read_bytes() == untouched
    assert "0 photos added, 2 present already" in output
    give("class_9", 1002)
    status, _, errors = ingest(monkeypatch, capsys, "new", "--data", root, "--new-classes")
    assert status == 1
    assert "unknown classes: 'class_9'" in errors
    assert "a data set with a test split takes no new ones" in errors


@pytest.mark.slow
def test_photos_go_into_the_train_folder_whatever_its_name_and_val_and_test_stay(monkeypatch, capsys, generated):
    root = Path("data/food")
    for number, path in enumerate(sorted(generated.rglob("*.jpg"))):
        split = ("Training", "Training", "valid", "holdout")[number % 4]
        target = root / "pictures" / split / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    before = read_data(root, 0.1, 0)
    new = give("class_1", 1000)
    held_out = {photo.split: photo.path for photo in before.held_out + before.test}
    for split, path in held_out.items():
        shutil.copyfile(path, new.with_name(f"{split}.jpg"))
    status, output, _ = ingest(monkeypatch, capsys, "new", "--data", root)
    assert status == 0
    assert refused() == {
        f"new/class_1/{split}.jpg": (f"in the held-out {split} split", str(path)) for split, path in held_out.items()
    }
    after = read_data(root, 0.1, 0)
    assert (after.held_out, after.test) == (before.held_out, before.test)
    (added,) = set(after.train) - set(before.train)
    assert added.path.parent == root / "pictures" / "Training" / "class_1"
    assert re.search(r"test +30 -> 30\n", output)


@pytest.mark.slow
def test_leftovers_are_passed_over_and_files_beside_the_class_folders_are_said(monkeypatch, capsys, food):
    photo = give("class_0", 1000)
    for name in ("._1000.jpg", ".DS_Store", "Thumbs.db", "@eaDir/x.jpg", ".ipynb_checkpoints/x.jpg"):
        (photo.parent / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(photo, photo.parent / name)
    shutil.copytree("new/class_0", "new/__MACOSX")
    for name in ("list.txt", "beside.jpg", os.fsdecode(b"class_0/cr\xe8me.jpg")):
        Path("new", name).write_text("x")
    Path("new/class_0/movie.mov").write_bytes(b"\0\0\0\x14ftypqt  ")
    status, output, errors = ingest(monkeypatch, capsys, "new", "--data", food)
    assert status == 0
    assert "1 photo added, 0 present already, 2 refused: 2 unreadable" in output
    assert refused()["new/class_0/movie.mov"] == ("unreadable", "not a photo: video")
    assert "not taken: 5 files and 3 folders of new: 2 beside the class folders, " in errors


@pytest.mark.slow
def test_unknown_class_is_refused_naming_close_ones_unless_it_is_meant_to_be_new(monkeypatch, capsys, food):
    before = content(food)
    give("class_0", 1000)
    give("class0", 1001)
    give("zabaione", 1002)
    status, _, errors = ingest(monkeypatch, capsys, "new", "--data", food)
    assert status == 1
    assert re.search(r"unknown classes: 'class0' \(close: class_0, .*\), 'zabaione'; if they are new, add --new-classes", errors)
    assert content(food) == before
    status, output, _ = ingest(monkeypatch, capsys, "new", "--data", food, "--new-classes")
    assert status == 0
    assert "3 photos added" in output
    assert {folder.name for folder in food.iterdir()} >= {"class0", "zabaione"}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "nowhere is neither a folder of class folders nor a CSV"),
        ("empty", "empty holds no photo in a class folder"),
        ("columns.csv", r"has the columns \['file', 'cuisine'\], expected path,label"),
        ("outside.csv", "has the label '../class_0', expected the name of a class"),
        ("split", "has the label 'train', expected the name of a class"),
        ("one", "only class 'class_0' has photos to add"),
    ],
)
def test_source_that_cannot_be_understood_is_refused(monkeypatch, capsys, source, message):
    Path("empty").mkdir()
    give("train/class_0", 1000, "split")
    give("class_0", 1000, "one")
    Path("columns.csv").write_text("file,cuisine\na.jpg,class_0\n")
    Path("outside.csv").write_text("path,label\na.jpg,../class_0\n")
    status, _, errors = ingest(monkeypatch, capsys, source, "--data", "data/food")
    assert status == 1
    assert re.search(message, errors)
    assert not Path("data/food").exists()
    assert not list(Path().rglob("*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["class folders", "food-101", "new"])
def test_ingest_that_is_cut_off_while_it_moves_photos_can_be_run_again(monkeypatch, capsys, generated, layout):
    if layout == "food-101":
        food101(Path("data/food"), generated)
    elif layout == "class folders":
        shutil.copytree(generated, "data/food")
    for number in range(1000, 1016):
        give(f"class_{number % 4}", number)
    give("class_9" if layout == "class folders" else "class_0", 1016)
    options = ["--new-classes"] if layout == "class folders" else []
    moves = 0

    def cut_off(name, limit):
        real = getattr(Path, name)

        def move(self, target):
            nonlocal moves
            moves += Path(target).is_relative_to("data") and ".part" not in str(target)
            if moves > limit:
                raise KeyboardInterrupt
            return real(self, target)

        return move

    for limit in range(0, 17, 4):
        moves = 0
        with monkeypatch.context() as patch:
            for name in ("rename", "replace"):
                patch.setattr(Path, name, cut_off(name, limit))
            assert ingest(monkeypatch, capsys, "new", "--data", "data/food", *options)[0] in (0, 130)
        if Path("data/food").exists():
            read_data(Path("data/food"), 0.1, 0)  # a data set at any moment
    assert ingest(monkeypatch, capsys, "new", "--data", "data/food", *options)[0] == 0
    data = read_data(Path("data/food"), 0.1, 0)
    assert len(data.train) + len(data.held_out) == 17 + (0 if layout == "new" else 120)
    assert len({photo.path for photo in data.train + data.held_out}) == 17 + (0 if layout == "new" else 120)


@pytest.mark.slow
def test_killed_ingest_leaves_the_data_set_as_it_was_and_goes_on(monkeypatch, capsys, food):
    before = content(food)
    for number in range(1000, 1400):
        give(f"class_{number % 4}", number, size=(400, 300))
    command = [sys.executable, "-m", "training.data.ingest", "new", "--data", str(food)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={"PYTHONPATH": str(ROOT), "PATH": ""}
    )
    try:
        until(lambda: len(list(Path("data").glob("food.part/*"))) >= 10, process=process, pause_s=0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(LIMIT_S)
    assert Path("data/food.part").is_dir()
    assert content(food) == before
    status, output, _ = ingest(monkeypatch, capsys, "new", "--data", food)
    assert status == 0
    assert "400 photos added" in output or re.search(r"\d+ near-duplicate", output)
    assert not Path("data/food.part").exists()


@pytest.mark.slow
def test_second_ingest_at_the_same_time_is_refused(monkeypatch, capsys, food):
    give("class_0", 1000)
    with staging_folder(food) as staging:
        (staging / "0.jpg").write_text("of the first")
        status, _, errors = ingest(monkeypatch, capsys, "new", "--data", food)
        assert (status, errors) == (1, "error: another ingest into data/food is running: wait for it to end\n")
        assert (staging / "0.jpg").read_text() == "of the first"
    assert ingest(monkeypatch, capsys, "new", "--data", food)[0] == 0


@pytest.mark.slow
def test_old_photos_stay_on_their_side_and_the_summary_says_so(monkeypatch, capsys, food):
    before = {seed: read_data(food, 0.3, seed) for seed in range(20)}
    for number in range(1000, 1060):
        give(f"class_{number % 4}", number)
    _, output, _ = ingest(monkeypatch, capsys, "new", "--data", food)
    assert "no old photos moved between train and held-out" in output
    after = read_data(food, 0.1, 0)
    assert re.search(rf"train +\d+ -> {len(after.train)}\n +held out +\d+ -> {len(after.held_out)}\n", output)
    assert f"-> {after.fingerprint[:12]}" in output
    for seed, old in before.items():
        new = read_data(food, 0.3, seed)
        assert set(old.train) <= set(new.train)
        assert set(old.held_out) <= set(new.held_out)


@needs_photos
@pytest.mark.slow
def test_hard_images_are_taken_or_refused_and_never_stop_the_rest(monkeypatch, capsys, food):
    shutil.copytree(SHARED / "data" / "hard_images", "new/class_0")
    assert ingest(monkeypatch, capsys, "new", "--data", food)[0] == 0
    assert len(list((food / "class_0").iterdir())) > 31
    assert {reason for reason, _ in refused().values()} >= {"unreadable", "near-duplicate"}
    for path in (food / "class_0").iterdir():
        with Image.open(path) as image:
            image.load()
            assert min(image.size) <= 512


def output_of(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_dvc_keeps_each_version_and_the_printed_command_commits_it(monkeypatch, capsys, food):
    dvc = str(Path(sys.executable).with_name("dvc"))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    output_of("git", "init", "-q")
    output_of("git", "config", "user.email", "tests@example.org")
    output_of("git", "config", "user.name", "tests")
    output_of(dvc, "init", "-q")
    numbers, counts = iter(range(1000, 1100)), []
    for _ in range(2):
        for _ in range(8):
            number = next(numbers)
            give(f"class_{number % 4}", number)
        _, output, _ = ingest(monkeypatch, capsys, "new", "--data", food)
        command = re.search(r"^commit it: (git add .*'); then: make push$", output, re.MULTILINE)
        subprocess.run(command[1], shell=True, check=True, capture_output=True)
        counts.append(len(list(food.rglob("*.jpg"))))
    old, new = re.search(r"data version (.+) -> (.+)", output).groups()
    assert old != new
    status, output, _ = ingest(monkeypatch, capsys, "new", "--data", food)
    assert (status, "commit it" in output) == (0, False)
    assert f"data version {new} -> {new}" in output
    output_of("git", "checkout", "-q", "HEAD~1", "--", "data/food.dvc")
    output_of(dvc, "checkout", "-q")
    assert counts == [128, 136]
    assert len(list(food.rglob("*.jpg"))) == 128
    shutil.rmtree(food)
    status, _, errors = ingest(monkeypatch, capsys, "new", "--data", food)
    assert status == 1
    assert "data/food.dvc lists photos of it: fetch them with make pull" in errors


@pytest.mark.slow
def test_failing_dvc_is_reported_and_the_photos_stay(monkeypatch, capsys, food):
    Path(".dvc").mkdir()
    give("class_0", 1000)
    status, _, errors = ingest(monkeypatch, capsys, "new", "--data", food)
    assert status == 1
    assert "the photos are in place, but `dvc add data/food` failed" in errors
    assert len(list((food / "class_0").iterdir())) == 31
