"""The parts of make retrain that need no training: what came in, the report, the run's folder, versions, agreement."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from scripts.command import run as run_command
from scripts.release.store import StoreError
from scripts.retrain import pipeline, shadow
from scripts.retrain import retrain as command
from scripts.retrain.photos import Split, came_in, check_classes, corrected, refused, remarks
from scripts.retrain.report import captured, compared, expected_answers, incoming, next_steps, table
from scripts.retrain.run import FOLDER, KEPT, RetrainError, Run, find_run, locked, tidy
from scripts.rollout.pairs import Answer
from tests.conftest import LIMIT_S, ROOT
from tests.ecs.scripted_aws import moto_server, outside
from tests.waiting import until


def split(train, held_out, labels=("pie", "soup"), fingerprint="f"):
    return Split(fingerprint, labels, train, held_out)


def test_what_came_in_is_counted_by_class_and_side():
    before = split({"a": "pie", "b": "soup"}, {"c": "pie"})
    after = split({"a": "pie", "b": "soup", "d": "pie", "e": "pie"}, {"c": "pie", "f": "pie"})
    assert came_in(before, after) == {"pie": {"train": 2, "held_out": 1}}
    assert came_in(before, before) == {}
    assert came_in(None, before) == {"pie": {"train": 1, "held_out": 1}, "soup": {"train": 1, "held_out": 0}}


def test_a_split_is_read_with_its_test_photos_held_out(tmp_path):
    values = {"fingerprint": "f", "labels": ["pie", "soup"], "train": [["p/1.jpg", 0, "", "a"]]}
    values |= {"held_out": [["s/1.jpg", 1, "val", "b"]], "test": [["s/2.jpg", 1, "test", "c"]]}
    (tmp_path / "split.json").write_text(json.dumps(values))
    assert Split.read(tmp_path / "split.json") == split({"a": "pie"}, {"b": "soup", "c": "soup"})


def test_what_a_person_should_look_at_is_named():
    before = split({"a": "pie", "x": "pie"}, {"c": "pie", "d": "soup"})
    many = {f"new{number}": "pie" for number in range(30)}
    after = split({"a": "pie", "c": "pie", **many}, {"d": "soup"})
    found = remarks(before, after, came_in(before, after))
    assert "under 20 photos to train on: soup (0)" in found
    assert "pie has 30 of the 30 new photos: its share of the data grows" in found
    assert "1 photo held out before, now trained on: not measured on" in found
    assert any(remark.startswith("1 photo of before, not used any more") for remark in found)
    added = split(after.train | {"n": "tea"}, after.held_out, ("pie", "soup", "tea"))
    assert "new classes: tea" in remarks(before, added, {})


def test_refused_photos_are_counted_over_all_lists(tmp_path):
    (tmp_path / "0.csv").write_text("path,label,reason,detail\na,pie,near-duplicate,b\nc,pie,unreadable,\n")
    (tmp_path / "1.csv").write_text("path,label,reason,detail\nd,pie,near-duplicate,b\n")
    assert refused([tmp_path / "0.csv", tmp_path / "1.csv", tmp_path / "2.csv"]) == {"near-duplicate": 2, "unreadable": 1}


@pytest.mark.parametrize(("version", "after"), [("1.0.0", "1.1.0"), ("1.9.7", "1.10.0"), ("2.3.1-rc.1", "2.4.0")])
def test_next_version_is_the_next_minor_one(version, after):
    assert pipeline.next_version(version) == after


def test_a_version_that_is_none_says_what_is_expected():
    with pytest.raises(ValueError, match=r"version in dvc.yaml is 'new', expected e.g. 1.0.0; or give VERSION=1.1.0"):
        pipeline.next_version("new")


def test_version_of_the_real_dvc_yaml_is_set_and_nothing_else(tmp_path, monkeypatch):
    before = (ROOT / "dvc.yaml").read_text()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text(before)
    old = pipeline.values()["version"]
    pipeline.set_version("7.8.9")
    assert pipeline.values()["version"] == "7.8.9"
    assert (tmp_path / "dvc.yaml").read_text() == before.replace(f"version: {old}", "version: 7.8.9", 1)


def test_a_champion_whose_files_are_gone_is_an_error_with_the_next_step(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text("vars:\n  - name: food\n  - data: data/food\n  - version: 1.0.0\n")
    assert pipeline.keep_champion(tmp_path / "kept") == {"version": "1.0.0", "champion": False}
    (tmp_path / "dvc.lock").write_text("stages:\n  train:\n    cmd: x\n")
    with pytest.raises(pipeline.ChampionError, match="dvc.lock names build/split.json, which is not here: make pull fetches it"):
        pipeline.keep_champion(tmp_path / "kept")


def answer(label, probability=0.8, sure=True, own=False):
    return Answer(label, probability, sure, own)


def test_agreement_counts_photos_that_both_have_answered():
    champion = {"a": answer("pie"), "b": answer("pie"), "c": answer("tea")}
    found = shadow.compared(champion, {"a": answer("pie"), "b": answer("soup"), "d": answer("pie")})
    assert (found["photos"], found["agree"]) == (2, 1)
    assert found["changes"] == [{"from": "pie", "to": "soup", "photos": 1}]
    assert "agree on 1 of 2 photos (50.0 %)" in captured(found)
    assert "| pie | soup | 1 |" in captured(found)
    assert not found["differs"]  # two photos show nothing
    assert "ANSWERS" not in captured(found)


def answered(labels, probability):
    """An answer to each of 90 photos, of so many classes in turn."""
    return {f"photo-{number}": answer(labels[number % len(labels)], probability) for number in range(90)}


@pytest.mark.parametrize(
    ("labels", "probability", "reason", "answers"),
    [
        (("pie", "soup", "tea"), 0.45, "", ""),
        (("pie", "soup", "tea"), 0.9, "its answers have a mean probability of 90 %, 40 % before", "differ"),
        (("soup", "tea", "pie"), 0.4, "it calls 100 % of 30 photos soup that were pie", "differ"),
        (("pie",), 0.4, "it calls 100 % pie, 33 % before", ""),  # nobody wants that
    ],
)
def test_what_a_rollout_would_be_undone_for_is_in_the_report_and_the_record(labels, probability, reason, answers):
    found = shadow.compared(answered(("pie", "soup", "tea"), 0.4), answered(labels, probability))
    assert reason in found["differs"]
    assert bool(found["differs"]) == bool(reason)
    run = SimpleNamespace(done={"shadow": found, "promote": {"better": True}, "archive": {"version": "1.1.0"}}, name="food")
    assert expected_answers(run) == answers
    assert ("`ANSWERS=differ`" in captured(found)) == bool(reason)
    assert ("ANSWERS=differ" in next_steps(run, "data/food")) == bool(answers)


def test_answers_are_read_from_what_predict_writes(tmp_path):
    lines = [
        {
            "photo": "a.jpg",
            "predictions": [{"label": "pie", "probability": 0.75}, {"label": "tea", "probability": 0.25}],
            "sure": False,
        },
        {"photo": "b.jpg", "message": "no photo", "code": 422},
        {"photo": "c.jpg", "predictions": [{"label": "=soup", "probability": 0.5}]},
    ]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert shadow.answers_in(tmp_path / "answers.jsonl", {"pie", "tea"}) == {
        "a.jpg": answer("pie", 0.75, sure=False),
        "c.jpg": answer("=soup", 0.5, own=True),
    }


CAPTURED = ("1-ab.photo", "1-ab.json", "2-ab.photo", "2-ab.json", "2-ab.feedback", "10-ab.photo", "10-ab.json")


def listed(tmp_path, place):
    assert shadow.photos_of(place, tmp_path, "food") == str(tmp_path / "captured.txt")
    return (tmp_path / "captured.txt").read_text().splitlines()


def test_of_a_folder_of_captured_photos_the_newest_without_feedback_are_asked(tmp_path, monkeypatch):
    place = tmp_path / "captured/ab"
    place.mkdir(parents=True)
    for name in CAPTURED:
        (place / name).touch()
    (place / "11-ab.photo").touch()
    (place / "11-ab.json").write_text('{"model": "flowers"}')
    (place / "10-ab.json").write_text('{"model": "food"}')
    assert listed(tmp_path, str(tmp_path / "captured")) == [f"{place}/10-ab.photo", f"{place}/1-ab.photo"]
    monkeypatch.setattr(shadow, "MOST", 1)
    assert listed(tmp_path, str(tmp_path / "captured")) == [f"{place}/10-ab.photo"]


def test_where_another_model_answered_all_captured_photos_none_is_asked(tmp_path):
    place = tmp_path / "captured/ab"
    place.mkdir(parents=True)
    (place / "1-ab.photo").touch()
    (place / "1-ab.json").write_text('{"model": "flowers"}')
    assert shadow.photos_of(str(tmp_path / "captured"), tmp_path, "food") is None
    assert shadow.photos_of(str(tmp_path / "captured"), tmp_path, "flowers") == str(tmp_path / "captured.txt")


def test_of_captured_photos_on_s3_the_newest_without_feedback_are_asked(tmp_path, monkeypatch):
    with moto_server():
        client = outside("s3")
        client.create_bucket(Bucket="photos", CreateBucketConfiguration={"LocationConstraint": client.meta.region_name})
        for name in CAPTURED:
            time_and_id, _, end = name.partition(".")
            time, photo_id = time_and_id.split("-")
            client.put_object(Bucket="photos", Key=f"captured/ab/{photo_id}-{time}.{end}", Body=b"x")
        for other in ("drawn/pie.jpg", "captured2/ab/ab-11.photo", "captured/ab/ab-12.photo"):
            client.put_object(Bucket="photos", Key=other, Body=b"x")
        client.put_object(Bucket="photos", Key="captured/ab/ab-12.json", Body=b'{"model": "flowers"}')
        photos = [f"s3://photos/captured/ab/ab-{time}.photo" for time in (10, 1)]
        assert listed(tmp_path, "s3://photos/captured") == photos
        monkeypatch.setattr(shadow, "MOST", 1)
        monkeypatch.setattr("scripts.serving.capture_store.CONNECTIONS", 1)  # so that the newest answer is read, then the next
        assert listed(tmp_path, "s3://photos/captured") == photos[:1]
        assert listed(tmp_path, "s3://photos/captured/ab") == photos[:1]
        assert shadow.photos_of("s3://photos/drawn", tmp_path, "food") == "s3://photos/drawn"
        with pytest.raises(StoreError, match=r"s3://none/captured: there is no bucket 'none': make it, or correct PHOTOS"):
            shadow.photos_of("s3://none/captured", tmp_path, "food")


def test_the_report_shows_old_and_new_held_out_photos_apart():
    old = {"photos": 100, "challenger": 0.8, "champion": 0.7, "points": 10.0, "interval": [2.0, 18.0], "p_value": 0.013}
    text = compared({"before": old, "new": old | {"photos": 9}})
    assert "| held out before | 100 | 80.0 % | 70.0 % | +10.0 (+2.0 to +18.0) | 0.013 |" in text
    assert "| came in since | 9 |" in text
    assert "they are shown apart and decide nothing" in text


def test_the_report_shows_what_came_in_and_what_was_refused():
    check = {"new": {"pie": {"train": 2, "held_out": 1}}, "train": 50, "held_out": 9, "remarks": ["pie is rare"]}
    check["corrected"] = [{"from": "pie", "to": "tea", "photos": 2}, {"from": "tea", "to": "pie", "photos": 1}]
    text = incoming(check, {"near-duplicate": 4})
    assert "Labels corrected, the newest counts: 2 from pie to tea, 1 from tea to pie." in text
    assert "| pie | 2 | 1 |\n| all | 2 | 1 |" in text
    assert "Refused: 4 near-duplicate." in text
    assert "- To look at: pie is rare" in text
    assert table(("a|b",), []) == "| a\\|b |\n| --- |"


# --- the run's folder ---


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_goes_on_until_its_last_step_is_done(here):
    first = find_run({"from": ["a.csv"]}, "make retrain", 0, "report")
    first.finish("pull", {"remote": True}, 1.0)
    again = find_run({"from": ["a.csv"]}, "make retrain", 0, "report")
    assert (again.folder, again.done["pull"]["remote"]) == (first.folder, True)
    with pytest.raises(ValueError, match=r"is not finished, and was started with .*a\.csv.*or remove the folder to start anew"):
        find_run({"from": ["b.csv"]}, "make retrain", 0, "report")
    again.finish("report", {}, 1.0)
    until(lambda: time.strftime("%Y-%m-%dT%H-%M-%S", time.gmtime()) != first.name)  # runs are named by the second
    assert find_run({"from": ["b.csv"]}, "make retrain", 0, "report").folder != first.folder


def test_what_no_step_has_read_yet_may_be_another_value(here):
    options = {"from": ["a.csv"], "alpha": "7", "version": None, "new_classes": None, "photos": None}
    first = find_run(options, "make retrain", 0, "report")
    for step in ("pull", "champion"):
        first.finish(step, {}, 1.0)
    changed = options | {"alpha": "0.05", "version": "2.0.0", "new_classes": True}
    again = find_run(changed, "make retrain", 0, "report")
    assert (again.folder, again.options) == (first.folder, changed)
    for step in ("ingest", "promote"):
        again.finish(step, {}, 1.0)
    # what is not given is as it was
    assert find_run(dict.fromkeys(options), "make retrain", 0, "report").options == changed
    assert find_run({"version": "3.0.0"}, "make retrain", 0, "report").options == changed | {"version": "3.0.0"}
    for late in ({"alpha": "0.1"}, {"from": ["b.csv"]}):
        with pytest.raises(ValueError, match="is not finished, and was started with"):
            find_run(dict.fromkeys(options) | late, "make retrain", 0, "report")


def test_a_list_that_came_after_a_run_was_begun_is_for_the_next_one(here):
    given = {"from": None, "alpha": None}
    first = find_run(given, "make retrain", 0, "report", {"from": []})
    first.finish("pull", {}, 1.0)
    again = find_run(given, "make retrain", 0, "report", {"from": ["collected/labels.csv"]})
    assert (again.folder, again.options["from"]) == (first.folder, [])


def test_finished_runs_keep_no_champion_and_only_the_newest_stay(here):
    for number in range(KEPT + 4):
        folder = FOLDER / f"2026-01-{number + 1:02}T00-00-00"
        (folder / "champion").mkdir(parents=True)
        (folder / "champion/checkpoint.pt").touch()
        done = {} if number == 0 else {"report": {}}
        (folder / "steps.json").write_text(json.dumps({"options": {}, "done": done}))
        (folder / "report.md").touch()
    tidy("report")
    left = sorted(path.parent.name for path in FOLDER.glob("*/report.md"))
    assert len(left) == KEPT + 1  # one is not finished
    assert left[0] == "2026-01-01T00-00-00"
    assert [path.parent.name for path in FOLDER.glob("*/champion")] == left[:1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--version", "1.1"], "version is '1.1', expected a semantic version such as 1.0.0"),
        (["--version", ""], "version is '', expected a semantic version"),
        (["--alpha", "0,05"], "ALPHA is '0,05', expected a probability between 0 and 1 such as 0.05"),
        (["--alpha", "5"], "ALPHA is '5', expected a probability"),
        (["--alpha", "nan"], "ALPHA is 'nan', expected a probability"),
        (["--from", "nowhere.csv"], "FROM is nowhere.csv, which does not exist"),
        (["--version", "1.3.0"], "model_store/food-1.3.0.mar exists, and a version is never overwritten: choose another VERSION"),
    ],
)
def test_what_no_step_could_use_is_refused_before_the_first(here, monkeypatch, capsys, arguments, message):
    packed(here)
    monkeypatch.setattr(sys, "argv", ["retrain", *arguments])
    assert run_command(command.main) == 1
    said = capsys.readouterr()
    assert message in said.err
    assert "---" not in said.out
    # and the right values go on, or begin
    assert find_run({"from": None, "version": "1.4.0", "alpha": None}, "", 0, "report").done == {}


def packed(folder):
    """A dvc.yaml of version 1.0.0, and archives of two versions after it."""
    (folder / "dvc.yaml").write_text("vars:\n  - name: food\n  - data: data/food\n  - version: 1.0.0\n")
    (folder / "model_store").mkdir()
    for version in ("1.1.0", "1.3.0"):
        (folder / f"model_store/food-{version}.mar").touch()


def test_the_next_version_is_one_that_is_not_packed(here):
    packed(here)
    assert pipeline.free_version("1.0.0") == "1.2.0"
    assert pipeline.free_version("1.2.0") == "1.4.0"


def test_changed_labels_are_counted_and_a_class_that_is_gone_is_an_error():
    before = split({"a": "pie", "b": "soup"}, {"c": "pie"})
    after = split({"a": "soup", "b": "soup"}, {"c": "pie", "d": "soup"})
    assert corrected(before, after) == [{"from": "pie", "to": "soup", "photos": 1}]
    assert corrected(None, after) == []
    check_classes(None, after)
    check_classes(before, split(after.train, after.held_out, ("pie", "soup", "tea")))
    with pytest.raises(ValueError, match=r"the champion has classes of which there is no photo any more \(pie\): give some again"):
        check_classes(before, split({}, {}, ("soup", "tea")))


def test_a_command_that_fails_is_named_with_its_status(here):
    with locked() as lock:
        run = Run(FOLDER / "x", {}, "make retrain", lock)
        with pytest.raises(RetrainError, match=r"`json.tool nowhere.json` ended with [12], see its output above"):
            run.command("json.tool", "nowhere.json")


def test_a_step_that_a_kill_left_running_is_waited_for(here):
    """The lock is the step's, too."""
    source = (
        "from scripts.retrain.run import *\n"
        "with locked() as lock:\n    print('locked', flush=True)\n    Run(FOLDER / 'x', {}, '', lock).command('left')\n"
    )
    (here / "left.py").write_text("import pathlib, time\nwhile not pathlib.Path('end').exists(): time.sleep(0.05)\n")
    environment = os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{ROOT}"}
    start = [sys.executable, "-c", source]
    first = subprocess.Popen(start, env=environment, stdout=subprocess.PIPE, text=True)
    assert first.stdout
    assert first.stdout.readline() == "locked\n"
    assert first.stdout.readline() == "$ left\n"
    children = until(lambda: subprocess.run(["pgrep", "-P", str(first.pid)], capture_output=True, check=False).stdout)
    first.send_signal(signal.SIGKILL)
    first.wait(LIMIT_S)
    second = subprocess.Popen(start, env=environment, stdout=subprocess.PIPE, text=True)
    assert second.stdout
    assert second.stdout.readline() == "waiting for another make retrain, or for a step that one left running\n"
    (here / "end").touch()
    assert second.communicate(timeout=LIMIT_S)[0].startswith("locked")
    assert children
    first.stdout.close()
