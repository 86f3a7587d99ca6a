"""What make evaluate and make report write."""

import csv
import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from handler.preprocess import preprocess
from tests.conftest import ROOT
from training.data.sets import read_data
from training.evaluation.evaluate import evaluate, fitted_on, print_summary
from training.evaluation.evaluate import main as evaluate_command
from training.evaluation.held_out import held_out_photos
from training.evaluation.metrics import calibration_error, calibration_error_by_chance
from training.evaluation.mistakes import Mistake
from training.evaluation.names import characters, drawable, shortened, width
from training.evaluation.plots import most_confused, plot_confusion, plot_mistakes
from training.evaluation.report import calibration, numbered, out_of_distribution, write_report
from training.evaluation.report import main as report_command
from training.evaluation.tables import per_class
from training.model import Checkpoint


def table(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, tiny_run):
    """A copy of the tiny run, evaluated by the command line, with its page."""
    run = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(tiny_run, run)
    for main, arguments in (
        (evaluate_command, ["--checkpoint", str(run / "checkpoint.pt"), "--out", str(run)]),
        (report_command, [str(run)]),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(ROOT)
            patch.setattr(sys, "argv", ["command", *arguments])
            assert not main()
    return run


def test_test_time_augmentation_takes_the_mean_of_each_photo_and_its_mirror_image(tmp_path, tiny_run, generated):
    checkpoint = Checkpoint.load(tiny_run / "checkpoint.pt")
    evaluate(checkpoint, generated, tmp_path, mirrored=True)
    data = read_data(generated, checkpoint.params["val_fraction"], checkpoint.params["seed"])
    classifier, spec = checkpoint.classifier()
    crops = torch.stack([torch.from_numpy(preprocess(photo.path.read_bytes(), spec)) for photo in data.held_out])
    with torch.no_grad():
        once, mirrored = classifier(crops), classifier(crops.flip(2))
    assert (once - mirrored).abs().max() > 0.1
    expected = ((once + mirrored) / 2 / checkpoint.temperature).softmax(1).amax(1)
    rows = table(tmp_path / "predictions.csv")
    assert [float(row["probability"]) for row in rows] == pytest.approx(expected.tolist(), abs=1e-3)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["test_time_augmentation"] == "mean of the logits of each photo and its mirror image"


def test_evaluate_reports_photos_never_trained_on(tmp_path, tiny_run, generated):
    checkpoint = Checkpoint.load(tiny_run / "checkpoint.pt")
    metrics = evaluate(checkpoint, generated, tmp_path)
    assert metrics["photos"] == checkpoint.data["held_out"]
    assert metrics["top1"] == pytest.approx(checkpoint.metrics["top1"])
    assert json.loads((tmp_path / "metrics.json").read_text())["top1"] == round(metrics["top1"], 4)
    rows = [line.split(",") for line in (tmp_path / "confusion.csv").read_text().splitlines()]
    assert sum(int(count) for row in rows[1:] for count in row[1:]) == metrics["photos"]
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_evaluate_asks_the_test_split_where_there_is_one_beside_val_and_says_so(tmp_path, tiny_run, generated, capsys):
    root = tmp_path / "splits"
    for number, path in enumerate(sorted(generated.rglob("*.jpg"))):
        target = root / ("train", "valid", "test")[number % 3] / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    checkpoint = Checkpoint.load(tiny_run / "checkpoint.pt")
    data = read_data(root, 0.2, 0)
    left = [photo for photo in data.test if photo.sha256 not in checkpoint.trained_on]
    contents = {name: [photo.sha256 for photo in getattr(data, name)] for name in ("train", "held_out")}
    same = replace(checkpoint, data=data.summary(), trained_on=contents["train"], held_out=contents["held_out"])
    # the first was fitted on photos that here are in test
    for judged, photos, fitted in ((checkpoint, len(left), True), (same, 40, False)):
        assert evaluate(judged, root, tmp_path / "out")["photos"] == photos
        metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
        assert (metrics["split"], metrics["temperature_fitted_on_these"]) == ("test", fitted)
        print_summary(tmp_path / "out")
        assert f"{photos} test photos of train, valid and test folders in splits" in capsys.readouterr().out
    assert held_out_photos(same, data).held_out == data.held_out


@pytest.mark.slow
def test_evaluate_leaves_out_photos_of_another_data_set_that_were_trained_on(tmp_path, tiny_run, generated):
    other = tmp_path / "other"
    for folder in generated.iterdir():
        (other / folder.name).mkdir(parents=True)
        for path in sorted(folder.iterdir())[:20]:
            (other / folder.name / path.name).write_bytes(path.read_bytes())
    checkpoint = Checkpoint.load(tiny_run / "checkpoint.pt")
    assert 0 < evaluate(checkpoint, other, tmp_path / "out")["photos"] < checkpoint.data["held_out"]


def test_tables_agree_with_each_other(evaluated):
    metrics = json.loads((evaluated / "metrics.json").read_text())
    predictions, classes = table(evaluated / "predictions.csv"), table(evaluated / "per_class.csv")
    assert len(predictions) == metrics["photos"] == sum(int(row["support"]) for row in classes)
    correct = [row for row in predictions if row["actual"] == row["predicted"]]
    assert [row for row in predictions if row["correct"] == "1"] == correct
    assert len(correct) / len(predictions) == pytest.approx(metrics["top1"], abs=1e-4)
    assert sum(float(row["f1"]) for row in classes) / len(classes) == pytest.approx(metrics["f1"], abs=1e-3)
    for row in classes:
        named = [p for p in predictions if p["predicted"] == row["label"]]
        hits = [p for p in named if p["actual"] == row["label"]]
        assert float(row["precision"]) == pytest.approx(len(hits) / max(1, len(named)), abs=1e-4)
        assert float(row["recall"]) == pytest.approx(len(hits) / int(row["support"]), abs=1e-4)
    assert all(float(row["probability"]) >= float(row["probability_of_actual"]) for row in predictions)


def test_temperature_lowers_the_loss_and_both_calibration_errors_are_reported(evaluated):
    checkpoint = Checkpoint.load(evaluated / "checkpoint.pt")
    metrics = json.loads((evaluated / "metrics.json").read_text())
    assert metrics["temperature"] == pytest.approx(checkpoint.temperature, abs=1e-4)
    assert metrics["calibration_error_before"] == pytest.approx(checkpoint.metrics["calibration_error"], abs=1e-3)
    assert metrics["loss"] <= checkpoint.metrics["loss"] + 1e-4
    assert 0 < metrics["calibration_error_by_chance"] < 1
    assert metrics["temperature_fitted_on_these"] is True


def test_most_confused_class_is_named():
    confusion = torch.tensor([[5, 0, 3], [1, 9, 0], [0, 0, 4]])
    rows = {row[0]: row for row in per_class(confusion, ("a", "b", "c"))}
    assert rows["a"] == ("a", 0.8333, 0.625, 0.7143, 8, "c", 3)
    assert rows["b"][5:] == ("a", 1)
    assert rows["c"][5:] == ("", 0)
    assert next(iter(rows)) == "a"  # the worst F1 first... c has 4 of 7 predicted right


def test_calibration_error_of_known_answers():
    confident, torn = torch.tensor([[9.0, -9.0]]), torch.tensor([[0.01, 0.0]])
    assert calibration_error(confident.repeat(4, 1), torch.tensor([0, 0, 0, 1])) == pytest.approx(0.25, abs=1e-3)
    assert calibration_error(torn.repeat(4, 1), torch.tensor([0, 0, 1, 1])) == pytest.approx(0.0025, abs=1e-3)


def test_calibration_error_by_chance_is_that_of_calibrated_answers_and_falls_with_their_number():
    for photos in (200, 20_000):
        draw = torch.Generator().manual_seed(photos)
        logits = torch.randn(photos, 5, generator=draw) * 2
        right = torch.rand(photos, generator=draw) < logits.softmax(1).max(1).values
        targets = torch.where(right, logits.argmax(1), (logits.argmax(1) + 1) % 5)
        by_chance = calibration_error_by_chance(logits)
        assert by_chance == calibration_error_by_chance(logits)
        assert calibration_error(logits, targets) == pytest.approx(by_chance, rel=0.6)
        # the mean of |N(0, p (1 - p) / n)| of each bin, weighted: about 0.8 sqrt(bins * 0.2 / photos)
        assert by_chance == pytest.approx(0.8 * (12 * 0.2 / photos) ** 0.5, rel=0.3)
        assert calibration_error(3 * logits, targets) > 3 * by_chance


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 10, 101])
def test_confusion_matrix_gives_each_class_room_for_its_name(tmp_path, count):
    plot_confusion(torch.eye(count, dtype=torch.long) * 7, [f"class_{i}" for i in range(count)], tmp_path / "confusion.png")
    with Image.open(tmp_path / "confusion.png") as image:
        assert image.width >= 28 * count  # pixels a row, for names of 9 points


def test_long_names_and_dollar_signs_leave_the_pictures_whole(tmp_path):
    names = [f"the_rather_long_name_of_${i}_class_with_$\\sauce_{i}" for i in range(4)]
    plot_confusion(torch.eye(4, dtype=torch.long), names, tmp_path / "confusion.png")  # matplotlib warns where nothing fits
    with Image.open(tmp_path / "confusion.png") as image:
        ink = image.convert("L").resize((image.width // 8, image.height // 8)).point(lambda value: 255 * (value < 90))
        left, top, right, bottom = ink.getbbox()
        assert (right - left) * 8 >= 300  # the matrix itself: three inches and more
        assert (bottom - top) * 8 >= 300
    plot_mistakes([Mistake(np.zeros((8, 8, 3), np.uint8), names[0], names[1], 0.7)] * 2, tmp_path / "mistakes.png")
    assert (tmp_path / "mistakes.png").is_file()


def test_model_without_mistakes_has_a_contact_sheet_that_says_so(tmp_path):
    plot_mistakes([], tmp_path / "mistakes.png")
    with Image.open(tmp_path / "mistakes.png") as image:
        assert image.convert("L").getextrema() == (0, 255)
    assert [path.name for path in tmp_path.iterdir()] == ["mistakes.png"]


def test_page_contains_its_pictures_and_needs_no_network(evaluated):
    page = (evaluated / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert not re.search(r"(src|href)=.(?!data:)", page)
    metrics = json.loads((evaluated / "metrics.json").read_text())
    assert f"{100 * metrics['top1']:.1f} %" in page
    assert "class_0" in page
    assert Checkpoint.load(evaluated / "checkpoint.pt").git in page


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"photos": 1, "data": "photos"}', "has no 'top1'"),
        ("{", "cannot be read: Expecting property name"),
        ("[]", "cannot be read: list indices must be integers"),
    ],
)
def test_page_of_metrics_that_another_version_wrote_is_refused_and_the_page_before_stays(tmp_path, content, reason):
    (tmp_path / "metrics.json").write_text(content)
    (tmp_path / "report.html").write_text("the page before")
    with pytest.raises(ValueError, match=rf"metrics.json {reason}.*: make evaluate RUN={tmp_path} writes it again"):
        write_report(tmp_path)
    assert (tmp_path / "report.html").read_text() == "the page before"


def test_page_of_an_out_of_distribution_section_that_another_version_wrote_names_the_key(tmp_path):
    score = {"auroc": 0.9, "caught_at_5_percent_false_alarms": 0.5}
    found = {"scores": {"confidence": score}, "photos": 1, "left_out": 0, "unknown": "x", "score": "confidence"}
    with pytest.raises(KeyError, match="false_positive_rate"):
        out_of_distribution(tmp_path, {"out_of_distribution": found})


@pytest.mark.slow
def test_page_of_a_run_without_curves_says_so_and_one_not_evaluated_is_refused(tmp_path, tiny_run, evaluated):
    run = tmp_path / "foreign"
    shutil.copytree(evaluated, run, ignore=shutil.ignore_patterns("history.csv", "learning_curves.png"))
    done = subprocess.run([sys.executable, "-m", "training.evaluation.report", str(run)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "learning_curves.png is not in the folder of this run" in (run / "report.html").read_text()
    (run / "metrics.json").unlink()
    done = subprocess.run([sys.executable, "-m", "training.evaluation.report", str(run)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"make evaluate RUN={run} first" in done.stderr


ODD_NAMES = [
    *("ラーメン", "김치찌개", "🍜 noodles", "محشي", "ข้าวผัด", "$1_menu$ 50% {x} \\frac{1}{2}", "<b>&amp;", "a\nb\tc"),
    *("a_name_that_goes_on_and_on_and_on_for_ever_1", "a_name_that_goes_on_and_on_and_on_for_ever_2", "", "crème_brûlée"),
]


def test_names_in_any_script_are_drawn_in_fonts_that_have_them_or_as_the_number_of_the_class(tmp_path, recwarn, capfd):
    names, fonts = drawable(ODD_NAMES)
    known = frozenset().union(*map(characters, fonts))
    for number, (name, shown) in enumerate(zip(ODD_NAMES, names, strict=True)):
        assert known.issuperset(shown), name
        assert shown == f"#{number}" or shown == shortened(name), name
        assert width(shown) <= 26
        assert shown
        assert "\n" not in shown
    assert len(set(names)) == len(names)
    assert names[-1] == "crème brûlée"
    assert "…" in names[8]
    count = len(ODD_NAMES)
    plot_confusion(torch.eye(count, dtype=torch.long) * 3, ODD_NAMES, tmp_path / "confusion.png")
    crop = np.zeros((8, 8, 3), np.uint8)
    plot_mistakes(
        [Mistake(crop, name, ODD_NAMES[0], 0.5, (number, 0)) for number, name in enumerate(ODD_NAMES)], tmp_path / "mistakes.png"
    )
    assert not [str(warning.message) for warning in recwarn]
    assert capfd.readouterr() == ("", "")


def test_name_that_no_font_has_is_the_number_of_its_class_not_of_its_row():
    tengwar = "\ue000\ue001"  # of the private use area
    assert drawable(["pizza", tengwar], [7, 4711])[0] == ["pizza", "#4711"]


@pytest.mark.parametrize(
    ("count", "shown"), [(3, 3), (1000, 30), *(pytest.param(*one, marks=pytest.mark.slow) for one in ((101, 101), (5000, 30)))]
)
def test_confusion_matrix_of_many_classes_shows_the_most_confused(tmp_path, count, shown, monkeypatch):
    confusion = torch.eye(count, dtype=torch.long) * 20
    for number in range(min(count, 40) - 1):
        confusion[number, count - 1 - number] += number  # those of later numbers are confused more often
    titles = []
    monkeypatch.setattr(Figure, "suptitle", lambda self, title, **_: titles.append(title))
    plot_confusion(confusion, [f"class_{number}" for number in range(count)], tmp_path / "confusion.png")
    assert titles[0].startswith(f"The 30 most confused of {count:,} classes\n") == (shown < count)
    with Image.open(tmp_path / "confusion.png") as image:
        assert max(image.size) < 5000
    assert (tmp_path / "confusion.png").stat().st_size < 1_000_000
    if shown < count:
        chosen = most_confused(confusion)
        assert len(chosen) == shown
        assert {38, 24, count - 39, count - 25} <= set(chosen)
        assert 3 not in chosen


def test_classes_without_mistakes_fill_the_matrix_of_the_most_confused():
    confusion = torch.eye(500, dtype=torch.long)
    assert most_confused(confusion) == list(range(30))
    confusion[490, 7] = 1
    assert most_confused(confusion) == [*range(29), 490]


@pytest.mark.slow
def test_numbers_are_written_where_pictures_cannot_be_drawn(tmp_path, tiny_run, generated, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("libpng\nis broken")

    monkeypatch.setattr("training.evaluation.plots.plot_confusion", fail)
    (tmp_path / "confusion.png").write_bytes(b"of an earlier evaluation")
    metrics = evaluate(Checkpoint.load(tiny_run / "checkpoint.pt"), generated, tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text())["top1"] == round(metrics["top1"], 4)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("metrics.json", "confusion.csv", "per_class.csv", "predictions.csv", "reliability.png", "mistakes.png"),
    }
    assert (
        capsys.readouterr().err
        == "warning: confusion.png is not drawn (libpng is broken); metrics.json and the tables are complete\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["no matplotlib", "broken font"])
def test_evaluate_without_a_working_matplotlib_ends_with_0_and_a_sentence(tmp_path, tiny_run, trouble):
    broken = {
        "no matplotlib": ("matplotlib.py", "raise ImportError('no matplotlib here')"),
        "broken font": ("sitecustomize.py", "import matplotlib.font_manager as f\nf.get_font = lambda *_, **__: 1 / 0"),
    }[trouble]
    (tmp_path / broken[0]).write_text(broken[1])
    command = [sys.executable, "-m", "training.evaluation.evaluate", "--checkpoint", str(tiny_run / "checkpoint.pt")]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert re.search("warning: .* is drawn|warning: .* is not drawn", done.stderr)
    assert (tmp_path / "out/metrics.json").is_file()


@pytest.mark.slow
def test_whether_the_temperature_was_fitted_on_these_photos_is_said_by_content(tmp_path, tiny_run, generated):
    checkpoint = Checkpoint.load(tiny_run / "checkpoint.pt")
    own = read_data(generated, 0.2, 0)
    shared = {photo.sha256 for photo in own.held_out}
    some, other = tmp_path / "some", tmp_path / "other"
    for folder in sorted(generated.iterdir()):
        for root, photos in ((some, True), (other, False)):
            (root / folder.name).mkdir(parents=True)
            for path in sorted(folder.iterdir()):
                if (hashlib.sha256(path.read_bytes()).hexdigest() in shared) == photos:
                    shutil.copy(path, root / folder.name)
            # two photos of its own, so that it is another data set
            for number in range(2):
                noise = np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8)
                Image.fromarray(noise).save(root / folder.name / f"{folder.name}-{number}-noise.png")
    metrics = {}
    for name, root in (("own", generated), ("some", some), ("other", other)):
        evaluate(checkpoint, root, tmp_path / f"out-{name}")
        metrics[name] = json.loads((tmp_path / f"out-{name}" / "metrics.json").read_text())
    sentences = {name: calibration(found) for name, found in metrics.items()}
    assert metrics["own"]["temperature_fitted_on_these"] is True
    assert "The temperature was fitted on these photos" in sentences["own"]
    assert 0 < metrics["some"]["temperature_photos"] < metrics["some"]["photos"]
    assert f"fitted on {metrics['some']['temperature_photos']} of these photos" in sentences["some"]
    assert metrics["other"]["temperature_fitted_on_these"] is False
    assert sentences["other"].endswith("The temperature was fitted on other photos.")
    older = dataclasses.replace(checkpoint, held_out=None)
    assert fitted_on(older, own) == len(own.held_out)
    assert fitted_on(older, dataclasses.replace(own, fingerprint="of other data")) is None
    unknown = metrics["own"] | {"temperature_photos": None}
    assert "does not record whether its temperature was fitted on some of these photos" in calibration(unknown)


def test_table_of_many_classes_has_both_ends_and_each_class_its_number():
    labels = [f"<class {number}>" for number in range(5000)]
    rows = [[label, "0.5"] for label in reversed(labels)]
    assert numbered(rows[:3], labels) == [["4999", *rows[0]], ["4998", *rows[1]], ["4997", *rows[2]]]
    found = numbered(rows, labels)
    assert [row[0] for row in found[:2]] == ["4999", "4998"]
    assert found[20] == ["…", "4,960 more in per_class.csv", ""]
    assert len(found) == 41


def test_names_that_are_shortened_alike_are_their_numbers():
    start, end = "grilled_chicken_with_rice_and_", "_on_a_white_plate"
    labels = [f"{start}beans{end}", "pizza", f"{start}peas{end}"]
    assert shortened(labels[0]) == shortened(labels[2])
    assert drawable(labels)[0] == ["#0", "pizza", "#2"]


@pytest.mark.slow
def test_held_out_photo_that_is_lost_meanwhile_is_left_out_and_counted(tmp_path, tiny_run, generated, monkeypatch, capsys):
    lost = []

    def read_and_lose(*args):
        data = read_data(*args)
        lost.append(data.held_out[0].path)
        lost[0].unlink()
        return data

    monkeypatch.setattr("training.evaluation.evaluate.read_data", read_and_lose)
    root = shutil.copytree(generated, tmp_path / "data")
    metrics = evaluate(Checkpoint.load(tiny_run / "checkpoint.pt"), root, tmp_path / "out")
    print_summary(tmp_path / "out")
    said = capsys.readouterr()
    assert f"skipped held-out photos that cannot be read: {lost[0]}" in said.err
    assert "1 more cannot be read" in said.out
    rows = (tmp_path / "out/predictions.csv").read_text().splitlines()[1:]
    assert len(rows) == metrics["photos"]
    assert not any(str(lost[0]) in row for row in rows)
