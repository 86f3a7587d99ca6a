"""The review: choices that outlive a kill, a page that nobody else drives, an order, and what Label Studio gives back."""

import csv
import http.client
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from scripts.collection.batch import Collected
from scripts.review.answers import ReviewError
from scripts.review.decisions import LABEL, NONE, OPEN, SKIP, Decision, Decisions, alone
from scripts.review.items import labels_of, read_items, sort
from scripts.review.label_studio import NONE_CHOICE, export_tasks, import_annotations
from scripts.review.order import in_order
from scripts.review.server import ReviewServer
from tests.conftest import ROOT, picture_bytes

LABELS = ["pho", "ramen", "spring_rolls"]


def answer(*probabilities, **more):
    predictions = [{"label": label, "probability": p} for label, p in zip(LABELS, probabilities, strict=False)]
    predictions.sort(key=lambda one: -one["probability"])
    return {"predictions": predictions, "sure": True, "version": "1.0.0", "labels": LABELS, **more}


def write_batch(folder, answers):
    (folder / "photos").mkdir(parents=True)
    lines = []
    for number, given in enumerate(answers):
        name = f"photos/{number}.jpg"
        (folder / name).write_bytes(picture_bytes(number, (160, 120)))
        lines.append(Collected(name, "captured", "a server", "2026-11-27T00:00:00Z", **given).line() + "\n")
    (folder / "batch.jsonl").write_text("".join(lines))
    return folder


@pytest.fixture
def batch(tmp_path):
    """A sure photo, one without an answer, an unsure one, and one that a person corrected."""
    answers = [{"answer": answer(0.99, 0.01)}, {}, {"answer": answer(0.5, 0.45)}, {"answer": answer(0.9, 0.1)}]
    answers[3] |= {"feedback": "spring_rolls", "given": True}
    return write_batch(tmp_path / "batch", answers)


@pytest.fixture
def decisions(tmp_path):
    return Decisions(tmp_path / "review" / "labels.csv")


def table(decisions):
    with decisions.table.open(newline="") as file:
        return {(decisions.table.parent / row["path"]).resolve().name: row["label"] for row in csv.DictReader(file)}


def test_what_is_worth_most_comes_first_and_a_persons_word_counts_as_another_versions(batch):
    items = sort(read_items(batch), [])
    assert [item.path.name for item in items] == ["3.jpg", "1.jpg", "2.jpg", "0.jpg"]
    assert labels_of(items, []) == LABELS


def test_photos_of_one_confusion_do_not_come_in_a_row():
    features = np.concatenate([np.tile([[1.0, 0, 0]], (20, 1)), [[0, 1.0, 0], [0, 0, 1.0]]])
    order = in_order(np.array([0.9] * 20 + [0.6, 0.5]), np.zeros(22), features)
    assert set(order[:3]) > {20, 21}
    assert sorted(order) == list(range(22))


def test_choices_and_undone_ones_are_in_the_table_and_the_journal_goes_on(batch, decisions):
    zero, one, two, three = (item.path for item in read_items(batch))
    decisions.decide(zero, Decision(LABEL, "pho"))
    decisions.decide(one, Decision(LABEL, "a new, one"))
    decisions.decide(two, Decision(NONE))
    decisions.decide(three, Decision(SKIP))
    decisions.decide(zero, Decision(LABEL, "ramen"))
    assert table(decisions) == {"0.jpg": "ramen", "1.jpg": "a new, one"}
    decisions.decide(one, Decision(OPEN))
    again = Decisions(decisions.table)
    assert table(again) == {"0.jpg": "ramen"}
    assert [again.of(path).kind for path in (zero, one, two, three)] == [LABEL, OPEN, NONE, SKIP]


def test_half_a_line_of_a_kill_is_cut_off_and_a_file_of_others_is_refused(batch, decisions):
    zero, one, *_ = (item.path for item in read_items(batch))
    decisions.decide(zero, Decision(LABEL, "pho"))
    with decisions.journal.open("a") as file:
        file.write('{"path": "x", "ki')
    again = Decisions(decisions.table)
    again.decide(one, Decision(LABEL, "ramen"))
    assert table(Decisions(decisions.table)) == {"0.jpg": "pho", "1.jpg": "ramen"}
    decisions.journal.write_text("{}\n")
    with pytest.raises(ValueError, match="line 1 is no decision.*: move the file away"):
        Decisions(decisions.table)


@pytest.mark.parametrize("label", ["", " pho", "a/b", "..", "a\nb", "x" * 201, None, 7])
def test_label_that_cannot_be_a_folder_is_refused(batch, decisions, label):
    with pytest.raises(ValueError, match="expected a class's name"):
        decisions.decide(read_items(batch)[0].path, Decision(LABEL, label))
    assert not decisions.made


@pytest.fixture
def server(batch, decisions):
    items = sort(read_items(batch), [])
    with ReviewServer(0, items, LABELS, decisions) as server:
        yield server


def ask(server, method, path, body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    headers = {name.replace("_", "-"): value for name, value in headers.items() if value is not None}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def own(server):
    host = f"127.0.0.1:{server.port}"
    return {"host": host, "origin": f"http://{host}", "content_type": "application/json", "x_token": server.token}


CHOICE = {"item": 0, "kind": LABEL, "label": "pho"}


def test_choice_of_the_page_is_kept_and_photos_are_small_jpegs(server, decisions):
    assert ask(server, "POST", "/choices", CHOICE, **own(server)) == (200, b"{}")
    assert table(decisions) == {"3.jpg": "pho"}
    status, photo = ask(server, "GET", "/photos/0", host=own(server)["host"])
    assert status == 200
    assert photo.startswith(b"\xff\xd8")
    first = json.loads(ask(server, "GET", "/review.json")[1])["items"][0]
    assert (first["kind"], first["label"]) == (LABEL, "pho")


@pytest.mark.parametrize(
    "foreign",
    [
        *({"origin": value} for value in (None, "null", "http://evil.example", "http://127.0.0.1:1")),
        *({"content_type": value} for value in (None, "text/plain", "application/x-www-form-urlencoded")),
        *({"x_token": value} for value in (None, "", "guess")),
        {"host": "evil.example"},
    ],
)
def test_page_elsewhere_cannot_choose(server, decisions, foreign):
    status, _ = ask(server, "POST", "/choices", CHOICE, **own(server) | foreign)
    assert status in (403, 421)
    assert not decisions.made


@pytest.mark.parametrize("path", ["/", "/review.json", "/photos/0"])
def test_page_elsewhere_sees_nothing(server, path):
    assert ask(server, "GET", path, host="evil.example")[0] == 421
    assert ask(server, "GET", path, sec_fetch_site="cross-site")[0] == 403


@pytest.mark.parametrize("path", ["/photos/4", "/photos/-1", "/photos/../batch.jsonl", "/../review.py", "/photos/²"])
def test_there_is_nothing_else_to_see(server, path):
    assert ask(server, "GET", path.replace("²", "%C2%B2"))[0] == 404


@pytest.mark.parametrize(
    "choice", [{}, [], CHOICE | {"item": 9}, CHOICE | {"kind": "?"}, CHOICE | {"label": "a/b"}, CHOICE | {"item": {}}]
)
def test_choice_that_is_none_is_refused(server, decisions, choice):
    assert ask(server, "POST", "/choices", choice, **own(server))[0] in (404, 422)
    assert not decisions.made


def test_kill_loses_nothing_that_was_chosen_and_the_command_goes_on(batch, tmp_path):
    out = tmp_path / "out" / "labels.csv"
    command = [sys.executable, "-m", "scripts.review.review", str(batch), "--out", str(out), "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        assert line.startswith("4 photos of 4 to review")
        port = int(line.split("127.0.0.1:")[1].split("/")[0])
        page = type("Page", (), {"port": port, "token": ""})
        page.token = json.loads(ask(page, "GET", "/review.json")[1])["token"]
        assert ask(page, "POST", "/choices", CHOICE, **own(page))[0] == 200
        os.kill(process.pid, signal.SIGKILL)
    assert table(Decisions(out)) == {"3.jpg": "pho"}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("3 photos of 4 to review")
        process.send_signal(signal.SIGINT)


def test_second_review_of_one_table_is_refused(tmp_path):
    with alone(tmp_path / "labels.csv"), pytest.raises(ReviewError, match="another make review"), alone(tmp_path / "labels.csv"):
        pass
    with alone(tmp_path / "labels.csv"):
        pass


def annotation(label, **more):
    choices = [] if label is None else [label]
    return {"result": [{"from_name": "label", "to_name": "photo", "type": "choices", "value": {"choices": choices}}], **more}


def test_label_studio_gives_back_what_it_got(batch, decisions, tmp_path):
    items = sort(read_items(batch), [])
    chosen = [Decision(LABEL, "pho"), Decision(NONE), Decision(SKIP), Decision(OPEN)]
    for item, decision in zip(items, chosen, strict=True):
        decisions.decide(item.path, decision)
    export_tasks(items, LABELS, decisions, tmp_path / "tasks.json")
    assert (tmp_path / "tasks.xml").read_text().count("<Choice ") == 4
    other = Decisions(tmp_path / "other" / "labels.csv")
    import_annotations(tmp_path / "tasks.json", items, LABELS, other)
    assert [other.of(item.path).kind for item in items] == [LABEL, NONE, OPEN, OPEN]
    assert table(other) == table(decisions)


def test_annotations_count_where_annotators_agree(batch, decisions, tmp_path):
    items = read_items(batch)
    given = [
        [annotation("pho"), annotation("pho"), annotation("ramen", was_cancelled=True)],
        [annotation("pho"), annotation("ramen")],
        [annotation(NONE_CHOICE)],
        [annotation(None), annotation("pho", was_cancelled=True)],
    ]
    tasks = [{"data": {"path": str(item.path)}, "annotations": one} for item, one in zip(items, given, strict=True)]
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps([*tasks, {"data": {"path": "/elsewhere.jpg"}, "annotations": [annotation("pho")]}]))
    said = import_annotations(path, items, LABELS, decisions)
    assert said == "2 labels taken, 1 left open where annotators disagree, 1 without a choice, 1 not of this batch"
    assert [decisions.of(item.path) for item in items] == [Decision(LABEL, "pho"), Decision(OPEN), Decision(NONE), Decision(OPEN)]


def test_unknown_choices_stop_the_import_unless_new_classes_are_allowed(batch, decisions, tmp_path):
    items, path = read_items(batch), tmp_path / "annotations.json"
    path.write_text(json.dumps([{"data": {"path": str(items[0].path)}, "annotations": [annotation("sushi")]}]))
    with pytest.raises(ReviewError, match="1 unknown class: 'sushi': NEW_CLASSES=1"):
        import_annotations(path, items, LABELS, decisions)
    assert not decisions.made
    import_annotations(path, items, LABELS, decisions, new_classes=True)
    assert table(decisions) == {"0.jpg": "sushi"}


@pytest.mark.parametrize("text", ["{", "{}", "[1]", '[{"image": 1}]'])
def test_file_that_is_no_export_of_label_studio_is_refused(batch, decisions, tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ReviewError, match="export"):
        import_annotations(tmp_path / "a.json", read_items(batch), LABELS, decisions)
