"""make tune: goals, candidates, the search, and the file that it writes."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml

from handler.parts import checksums
from scripts.archive.pack import pack
from scripts.archive.read import unpack
from scripts.atomic import write_json
from scripts.bench.server import BenchError
from scripts.bench.tune import Goal, Outcome, Tuner, candidate_archive, main, read_settings, rewrite, searches, tune
from scripts.command import run
from tests.conftest import ROOT


def test_goal_is_parsed():
    assert Goal.parse("p99_ms=50") == Goal(99, 50.0)
    assert str(Goal.parse("p50_ms=7.5")) == "p50_ms=7.5"


@pytest.mark.parametrize("text", ["", "p99=50", "p95_ms=50", "p99_ms=0", "p99_ms=-1", "p99_ms=fast", "p99_ms=50 ", "throughput=9"])
def test_goal_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=r"GOAL is .*, expected p50_ms, p90_ms or p99_ms and a number of ms above 0"):
        Goal.parse(text)


def test_rewriting_replaces_values_and_keeps_every_comment_in_its_column():
    text = (ROOT / "handler" / "model-config.yaml").read_text()
    present = read_settings(text)
    changed = rewrite(text, {"maxWorkers": 2, "batchSize": 32, "num_threads": 1})
    before, after_it = yaml.safe_load(text), yaml.safe_load(changed)
    assert (after_it["maxWorkers"], after_it["batchSize"], after_it["handler"]["num_threads"]) == (2, 32, 1)
    after_it |= {name: before[name] for name in ("maxWorkers", "batchSize")}
    assert {**after_it, "handler": {**after_it["handler"], "num_threads": present["num_threads"]}} == before
    for old, new in zip(text.splitlines(), changed.splitlines(), strict=True):
        assert old.partition("#")[2] == new.partition("#")[2]
        assert old.find("#") == new.find("#")
    assert rewrite(text, present) == text


def test_setting_that_the_file_lacks_or_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match=r"model-config\.yaml has no line for decoders"):
        rewrite("batchSize: 8\n", {"batchSize": 4, "decoders": 2})
    with pytest.raises(ValueError, match=r"expected whole numbers for .*it has \{'batchSize': 'many'\}"):
        read_settings("batchSize: many\nhandler: {}\n")


@pytest.mark.parametrize("cores", [1, 2, 4, 16])
def test_candidates_are_few_and_fit_the_cores_and_the_concurrency(cores):
    present = {"minWorkers": 1, "maxWorkers": 1, "batchSize": 8, "num_threads": 0, "decoders": 0}
    steps = searches(cores, 16, present)
    assert 8 <= sum(map(len, steps)) <= 16
    assert max(change["batchSize"] for change in steps[1]) <= 16
    assert all(change["minWorkers"] == change["maxWorkers"] for change in steps[0])
    assert {"minWorkers": 1, "maxWorkers": 1, "num_threads": 0} in steps[0]
    assert searches(cores, 16, {"batchSize": 8})[2] == []


def tuner_of(monkeypatch, outcome):
    """A Tuner whose measurements are `outcome(settings)`, as (photos/s, p99 in ms)."""
    tuner = Tuner.__new__(Tuner)
    tuner.goal, tuner.outcomes, tuner.measured = Goal(99, 50.0), {}, []
    tuner.args = type("Args", (), {"concurrency": 16})

    def measured(settings):
        tuner.measured.append(settings)
        return Outcome(settings, *outcome(settings))

    monkeypatch.setattr(tuner, "measure", measured)
    return tuner


PRESENT = {"minWorkers": 1, "maxWorkers": 1, "batchSize": 8, "num_threads": 0}


def test_search_finds_the_fastest_that_meets_the_goal_and_measures_it_twice(monkeypatch):
    # larger batches are faster, but from 16 on too late; workers slow it down
    tuner = tuner_of(monkeypatch, lambda s: (100 + s["batchSize"] - 10 * s["maxWorkers"], 5 * s["batchSize"]))
    small = {**PRESENT, "batchSize": 2}
    chosen = tuner.choose(small)
    assert chosen.settings == {**PRESENT, "batchSize": 8}
    assert tuner.measured.count(chosen.settings) == 2
    assert tuner.measured.count(small) == 2
    assert len(tuner.measured) <= 22


def test_present_settings_stay_where_nothing_is_clearly_better_and_none_is_chosen_where_all_miss(monkeypatch):
    tuner = tuner_of(monkeypatch, lambda s: (100 + (s["batchSize"] != 8), 40.0))
    assert tuner.choose(PRESENT).settings == PRESENT
    tuner = tuner_of(monkeypatch, lambda s: (500.0, 51.0 + s["maxWorkers"]))
    assert tuner.choose(PRESENT) is None


def test_settings_that_were_lucky_once_are_not_chosen_nor_called_the_closest(monkeypatch):
    seen = []

    def outcome(settings):
        seen.append(settings)
        lucky = settings["batchSize"] == 4 and seen.count(settings) == 1
        return 100.0, 30.0 if lucky else 60.0 + settings["batchSize"]

    tuner = tuner_of(monkeypatch, outcome)
    assert tuner.choose({**PRESENT, "batchSize": 1}) is None
    ranked = sorted(tuner.outcomes.values(), key=lambda o: o.rank(tuner.goal), reverse=True)
    assert (ranked[0].settings["batchSize"], ranked[0].latency_ms) == (1, 61.0)


def test_server_that_does_not_run_as_it_is_ends_the_search(monkeypatch):
    tuner = tuner_of(monkeypatch, lambda s: (0.0, float("inf"), "OSError: no such file"))
    with pytest.raises(ValueError, match="the server gives no answer with the present settings: OSError: no such file"):
        tuner.choose(PRESENT)
    assert len(tuner.measured) == 1


def test_candidate_archive_differs_in_its_settings_alone_and_has_right_checksums(tmp_path):
    parts, source, folder = tmp_path / "parts", tmp_path / "seefood-1.0.0.mar", tmp_path / "candidate"
    manifest = json.dumps({"model": {"configFile": "model-config.yaml"}})
    contents = {"MAR-INF/MANIFEST.json": manifest, "model-config.yaml": "batchSize: 8\n", "handler/a.py": "x = 1\n"}
    for name, content in contents.items():
        (parts / name).parent.mkdir(parents=True, exist_ok=True)
        (parts / name).write_text(content)
    write_json(parts / "provenance.json", {"version": "1.0.0", "parts": checksums(parts)})
    pack(parts, source)
    folder.mkdir()
    candidate_archive(source, "batchSize: 4\n", folder)
    assert [path.name for path in folder.iterdir()] == [source.name]
    provenance = unpack(folder / source.name, tmp_path / "unpacked")
    assert provenance == {"version": "1.0.0", "parts": checksums(tmp_path / "unpacked")}
    changed = contents | {"model-config.yaml": "batchSize: 4\n"}
    assert {name: (tmp_path / "unpacked" / name).read_text() for name in provenance["parts"]} == changed


def test_bad_goal_or_concurrency_ends_tuning_at_once(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tune.py", "p95_ms=9"])
    assert run(main) == 1
    assert "error: GOAL is 'p95_ms=9', expected p50_ms, p90_ms or p99_ms" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["tune.py", "p99_ms=9", "--concurrency", "501"])
    assert run(main) == 1
    assert "error: CONCURRENCY is a number from 1 to 500" in capsys.readouterr().err


def test_make_tune_without_a_goal_says_which():
    done = subprocess.run(["make", "tune"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "which goal? make tune GOAL=p99_ms=50" in done.stderr


@pytest.fixture
def scripted_measurements(monkeypatch, tmp_path):
    """Arguments of tune() with an archive and a file of settings; batches of 4 are the fastest, p99 is 10 ms a photo in them."""
    (tmp_path / "seefood-1.0.0.mar").touch()
    text = (ROOT / "handler" / "model-config.yaml").read_text()
    (tmp_path / "model-config.yaml").write_text(rewrite(text, {"batchSize": 1}))

    def measure(tuner, settings):
        size = settings["batchSize"]
        return Outcome(settings, 100.0 - abs(4 - size), 10.0 * size)

    monkeypatch.setattr(Tuner, "measure", measure)
    values = {"photos": None, "concurrency": 16, "seconds": 1.0, "version": None, "model": None}
    return SimpleNamespace(model_store=tmp_path, config=tmp_path / "model-config.yaml", **values)


def test_better_settings_are_written_and_printed(scripted_measurements, capsys):
    before = scripted_measurements.config.read_text()
    tune(Goal.parse("p99_ms=50"), scripted_measurements)
    assert scripted_measurements.config.read_text() == rewrite(before, {"batchSize": 4})
    printed = capsys.readouterr().out
    assert "batchSize 1 -> 4 (100.0 photos/s, p99 40.0 ms in two measurements). make archive packs it" in printed
    assert not list(scripted_measurements.model_store.glob("*.part"))


def test_goal_that_no_settings_meet_writes_nothing_and_names_the_closest(scripted_measurements):
    before = scripted_measurements.config.read_text()
    message = r"no settings meet p99_ms=9; closest: workers 1.* batch 1,.* p99 10.0 ms .* Nothing was written"
    with pytest.raises(BenchError, match=message):
        tune(Goal.parse("p99_ms=9"), scripted_measurements)
    assert scripted_measurements.config.read_text() == before
