"""Whatever lies among the statuses: a rollout leaves it out, `make status` shows it, nothing ends with a traceback."""

import json
import timeit

import pytest

from scripts.release.document import entry_of, make, write
from scripts.release.folder_store import FolderStore
from scripts.release.status import Fleet, status_table, unreadable
from scripts.settings import Settings
from tests.rollout.rolling import report

FOREIGN = {
    "no instance": '{"state": "reconciled"}',
    "a list": "[1, 2]",
    "a number": "7",
    "null": "null",
    "text": '"instance"',
    "truncated": '{"instance": "b", "state": "reco',
    "empty": "",
    "no UTF-8": b"\xff\xfe{}",
    "nested too deep": "[" * 100_000,
    "of an older version": '{"instance": "b", "state": "reconciled", "release": null}',
}


@pytest.fixture
def store(tmp_path):
    store = FolderStore(tmp_path / "release.json")
    archive = tmp_path / "seefood-1.0.0.mar"
    archive.write_bytes(b"a model")
    store.write(write(make({"1.0.0": entry_of(archive)}, "1.0.0", "released", "a test")), None)
    report(store, "a")
    return store


WRONG = {
    "wrong types": {"outcomes": ["answered"], "seconds": None},
}


@pytest.mark.parametrize("kind", [*FOREIGN, *WRONG, "a folder"])
def test_what_is_no_status_is_left_out_and_the_others_count(store, kind):
    path = store.status_dir / "b.json"
    if kind == "a folder":
        path.mkdir()
    elif kind in WRONG:
        own = json.loads((store.status_dir / "a.json").read_text())
        path.write_text(json.dumps(own | {"instance": "b", "figures": {"1.0.0": {"outcomes": {}, "seconds": {}} | WRONG[kind]}}))
    else:
        content = FOREIGN[kind]
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    fleet = Fleet.of(store, Settings())
    assert (list(fleet.statuses), fleet.stale) == (["a"], [])
    table = status_table(store, Settings())
    assert "\na " in table
    assert ("no status of an instance" in table) == (kind not in ("truncated", "empty", "no UTF-8", "nested too deep", "a folder"))


def test_names_and_reasons_of_strangers_cannot_write_to_the_terminal(store):
    status = json.loads((store.status_dir / "a.json").read_text())
    status |= {"instance": "b\x1b[2J", "state": "failed", "why": "first line\nsecond \x1b]0;title\x07"}
    (store.status_dir / "b.json").write_text(json.dumps(status))
    table = status_table(store, Settings())
    assert "b\\x1b[2J" in table
    assert r"first line second \x1b]0;title\x07" in table
    assert "\x1b" not in table


def test_two_hundred_pairs_are_read_in_a_fraction_of_a_poll(store):
    status = json.loads((store.status_dir / "a.json").read_text())
    pairs = [[[0, 0.8, True], [1, 0.7, True]]] * 200
    status["shadow"] = {"photos": 200, "agreed": 0, "changes": [], "refused": {}, "median_ms": {}, "versions": ["1.0.0", "1.1.0"]}
    status["shadow"] |= {"labels": ["pho", "ramen"], "only": [[], []], "golden": pairs, "captured": pairs}
    assert not unreadable(status)
    best = min(timeit.repeat(lambda: unreadable(status), number=1, repeat=10))
    print(f"{1000 * best:.1f} ms")
    assert best < Settings().poll_s / 4


@pytest.mark.parametrize(("program", "shown"), [("openvino/f32: 1 ms\n a photo", "openvino/f32"), ("a\nb", "a b"), ("", "-")])
def test_program_is_shown_by_its_name_in_its_row(store, program, shown):
    report(store, "a", programs={"1.0.0": program}, default="1.0.0")
    header, row = status_table(store, Settings()).splitlines()[-2:]
    column = header.index("program")
    assert row[column:].split("  ")[0].rstrip() == shown
