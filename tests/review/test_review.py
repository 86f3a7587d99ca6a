"""The review: choices that outlive a kill, a page that nobody else drives, an order, and what Label Studio gives back."""

import contextlib
import csv
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from scripts.collection.batch import Collected
from scripts.review.answers import Answered, ReviewError
from scripts.review.decisions import LABEL, NONE, OPEN, SKIP, Decision, Decisions, alone
from scripts.review.items import Item, labels_of, read_items, sort
from scripts.review.label_studio import NONE_CHOICE, export_tasks, import_annotations
from scripts.review.order import in_order
from scripts.review.review import without_features
from scripts.review.server import ReviewServer
from tests.conftest import LIMIT_S, ROOT, picture_bytes

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


def test_a_batch_that_several_models_answered_is_refused(tmp_path):
    answers = [{"answer": answer(0.9, 0.1, model=model)} for model in ("seefood", "flowers", "seefood")]
    with pytest.raises(ReviewError, match=r"by several models, flowers, seefood, .*: collect .* MODEL=flowers"):
        read_items(write_batch(tmp_path / "mixed", answers))
    assert len(read_items(write_batch(tmp_path / "one", [*answers[::2], {}]))) == 3


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
    again.decide(zero, Decision(NONE))
    assert table(again) == table(Decisions(decisions.table)) == {"0.jpg": ""}
    again.decide(zero, Decision(LABEL, "ramen"))
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


@pytest.mark.parametrize(
    "label", ["", " pho", "a/b", "..", "a\nb", "x" * 201, None, 7, "train", "test_images", "nan", "a  b", "e\u0301", ".ds", 'a"b']
)
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
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT_S)
    headers = {name.replace("_", "-"): value for name, value in headers.items() if value is not None}
    connection.request(method, f"/{server.secret}{path}", None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def own(server):
    host = f"127.0.0.1:{server.port}"
    return {"host": host, "origin": f"http://{host}", "content_type": "application/json"}


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
    "choice",
    [
        {},
        [],
        1,
        "a",
        None,
        CHOICE | {"item": 9},
        CHOICE | {"kind": "?"},
        CHOICE | {"label": "a/b", "new": True},
        CHOICE | {"item": {}},
    ],
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
        page = type("Page", (), {"port": port, "secret": line.split(f":{port}/")[1].split("/")[0]})
        assert ask(page, "POST", "/choices", CHOICE, **own(page))[0] == 200
        os.kill(process.pid, signal.SIGKILL)
    assert table(Decisions(out)) == {"3.jpg": "pho"}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("3 photos of 4 to review")
        process.send_signal(signal.SIGINT)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/", "/review.json", "/photos/0", "/review.css", "/choices", "/anything"])
@pytest.mark.parametrize("secret", ["", "/", "/guess", "/%s/.."])
def test_nothing_is_here_for_whoever_does_not_have_the_printed_address(server, decisions, method, path, secret):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LIMIT_S)
    headers = {name.replace("_", "-"): value for name, value in own(server).items()}
    connection.request(method, (secret % "x" if "%" in secret else secret) + path, json.dumps(CHOICE), headers)
    answer = connection.getresponse()
    assert answer.status == 403
    assert server.secret not in answer.read().decode() + str(answer.getheaders())
    assert not decisions.made
    connection.close()


def test_slip_of_the_keys_is_no_class_until_it_is_called_a_new_one(server, decisions):
    status, content = ask(server, "POST", "/choices", CHOICE | {"label": "ramne"}, **own(server))
    assert status == 422
    assert "'ramne' is no class yet (close: ramen)" in json.loads(content)["message"]
    assert not decisions.made
    assert ask(server, "POST", "/choices", CHOICE | {"label": "sushi", "new": True}, **own(server))[0] == 200
    assert ask(server, "POST", "/choices", CHOICE | {"label": "sushi", "item": 1}, **own(server))[0] == 200
    assert "sushi" in json.loads(ask(server, "GET", "/review.json")[1])["labels"]


def test_page_is_read_while_many_choose(server, decisions, batch):
    photos = [batch / f"photos/{number}.jpg" for number in range(400)]
    choosing = threading.Thread(target=lambda: [decisions.decide(photo, Decision(LABEL, "pho")) for photo in photos])
    choosing.start()
    while choosing.is_alive():
        assert ask(server, "GET", "/review.json")[0] == 200
        assert decisions.labels() <= {"pho"}
    choosing.join()
    assert len(table(decisions)) == 400


def test_journal_and_csv_grow_by_a_line_for_each_choice(decisions, batch):
    """Ten thousand photos do not make the next choice slower: the CSV's file stays, and grows at its end."""
    decisions.decide(batch / "photos/0.jpg", Decision(LABEL, "pho"))
    inode, before = decisions.table.stat().st_ino, decisions.table.read_bytes()
    for number in range(1, 50):
        decisions.decide(batch / f"photos/{number}.jpg", Decision(*((LABEL, "pho") if number % 3 else (NONE, None))))
    assert decisions.table.stat().st_ino == inode
    assert decisions.table.read_bytes().startswith(before)
    assert table(Decisions(decisions.table)) == table(decisions)


def test_newest_choice_of_a_photo_wins_whichever_batch_it_came_in(tmp_path):
    decisions, name = Decisions(tmp_path / "labels.csv"), f"{'ab' * 16}.jpg"
    one, two = tmp_path / "one/photos" / name, tmp_path / "two/photos" / name

    def rows():
        return [tuple(row) for row in csv.reader(decisions.table.read_text().splitlines()[1:])]

    steps = [
        (one, Decision(LABEL, "pho"), [(f"one/photos/{name}", "pho")]),
        (two, Decision(LABEL, "ramen"), [(f"two/photos/{name}", "ramen")]),
        (one, Decision(LABEL, "spring_rolls"), [(f"one/photos/{name}", "spring_rolls")]),
        (two, Decision(SKIP), [(f"one/photos/{name}", "spring_rolls")]),
        (two, Decision(NONE), [(f"two/photos/{name}", "")]),  # its label may have been ingested
        (two, Decision(OPEN), [(f"one/photos/{name}", "spring_rolls")]),
    ]
    for photo, decision, expected in steps:
        decisions.decide(photo, decision)
        assert rows() == expected
        Decisions(decisions.table)
        assert rows() == expected


def test_newest_choice_is_the_last_row(tmp_path):
    decisions = Decisions(tmp_path / "labels.csv")
    first, second = (f"{letters * 16}.jpg" for letters in ("ab", "cd"))
    for batch, name, label in (("one", first, "pho"), ("one", second, "ramen"), ("two", first, "soup")):
        decisions.decide(tmp_path / batch / name, Decision(LABEL, label))
    assert decisions.table.read_text().splitlines()[1:] == [f"one/{second},ramen", f"two/{first},soup"]


@pytest.mark.parametrize("full", ["journal", "table"])
def test_full_disk_decides_nothing_and_the_next_choice_is_whole(tmp_path, batch, mount_disk, full):
    zero, one, *_ = (item.path for item in read_items(batch))
    mount_disk(tmp_path / "disk", "64k")
    decisions = Decisions(tmp_path / "disk" / "labels.csv")
    decisions.decide(zero, Decision(LABEL, "pho"))
    filler = tmp_path / "disk" / "full"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(512)):
            pass
    with contextlib.suppress(OSError):
        while True:  # up to the blocks that the two files have already
            decisions.decide(one, Decision(LABEL, "ramen"))
            decisions.decide(one, Decision(OPEN))
    made = dict(decisions.made)
    with pytest.raises(OSError, match="No space"):
        decisions.decide_all([(batch / f"{number}.jpg", Decision(LABEL, "pho")) for number in range(1000)])
    assert decisions.made == made
    filler.unlink()
    decisions.decide(one, Decision(LABEL, "ramen"))
    assert table(decisions) == {"0.jpg": "pho", "1.jpg": "ramen"}
    assert table(Decisions(decisions.table)) == {"0.jpg": "pho", "1.jpg": "ramen"}


@pytest.mark.parametrize(("probability", "unsure"), [(0.99, 0.02), (0.5, 0.5), (0.8, 0.4)])
def test_answer_of_one_class_alone_is_as_unsure_as_what_is_left_allows(tmp_path, probability, unsure):
    (item,) = read_items(write_batch(tmp_path / "batch", [{"answer": answer(probability)}]))
    assert item.unsure == pytest.approx(1 - (probability - min(probability, 1 - probability)))
    (measured,) = read_items(write_batch(tmp_path / "measured", [{"answer": answer(probability, unsure=unsure)}]))
    assert measured.unsure == unsure


def test_order_keeps_open_photos_away_from_those_that_are_decided(batch):
    features = [np.array(one, np.float32) for one in ([1, 0], [1, 0.01], [0, 1], [0, 1.1])]
    answers = {index: {"predictions": answer(0.6, 0.3)["predictions"], "version": "2"} for index in range(4)}
    items = [Item(path, "folder", None) for path in (batch / "a", batch / "b", batch / "c", batch / "d")]
    order = sort(items, [Answered(LABELS, answers, dict(enumerate(features)))], {items[0].path})
    assert order[-1] is items[0]
    assert order[0] in items[2:]


@pytest.mark.parametrize("given", [[], ["--mar", "old"]])
def test_order_without_features_is_said_with_the_archive_that_would_help(batch, tmp_path, given, monkeypatch):
    (tmp_path / "seefood-1.0.0.mar").touch()
    monkeypatch.setattr("scripts.review.review.MODEL_STORE", tmp_path)
    items = read_items(batch)
    items[0].answers[0]["model"] = "seefood"
    said = without_features(items, [tmp_path / "old-1.0.0.mar"] if given else [])
    assert "alike ones may come in a row" in said
    assert ("MAR=an archive that was exported since then" if given else f"MAR={tmp_path / 'seefood-1.0.0.mar'}") in said


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


@pytest.mark.parametrize("label", ["a/b", "train", "nan", " pho", "x" * 300, ""])
def test_label_that_ingest_would_refuse_stops_the_import_before_anything_is_taken(batch, decisions, tmp_path, label):
    items, path = read_items(batch), tmp_path / "annotations.json"
    tasks = [
        {"data": {"path": str(item.path)}, "annotations": [annotation(one)]}
        for item, one in zip(items, ["pho", label], strict=False)
    ]
    path.write_text(json.dumps(tasks))
    if label:
        with pytest.raises(ReviewError, match="expected a class's name"):
            import_annotations(path, items, LABELS, decisions, new_classes=True)
        assert not decisions.made
    else:  # an empty choice is none
        assert import_annotations(path, items, LABELS, decisions).startswith("1 label taken, 0 left open")


@pytest.mark.parametrize(
    "result",
    [[{"type": "choices"}], [{"type": "choices", "value": {}}], ["x"], [{"type": "choices", "value": {"choices": [7]}}], 7],
)
def test_annotation_that_label_studio_does_not_write_is_named_and_nothing_is_taken(batch, decisions, tmp_path, result):
    items, path = read_items(batch), tmp_path / "annotations.json"
    good = {"data": {"path": str(items[0].path)}, "annotations": [annotation("pho")]}
    bad = {"id": 41, "data": {"path": str(items[1].path)}, "annotations": [{"result": result}]}
    path.write_text(json.dumps([good, bad]))
    with pytest.raises(ReviewError, match="annotations.json, task 41"):
        import_annotations(path, items, LABELS, decisions)
    assert not decisions.made


def test_photo_of_two_tasks_counts_where_both_agree(batch, decisions, tmp_path):
    items, path = read_items(batch), tmp_path / "annotations.json"
    tasks = [{"data": {"path": str(items[0].path)}, "annotations": [annotation(label)]} for label in ("pho", "ramen")]
    path.write_text(json.dumps(tasks))
    assert "1 left open where annotators disagree" in import_annotations(path, items, LABELS, decisions)


def test_paths_in_addresses_are_quoted(tmp_path, decisions):
    items = read_items(write_batch(tmp_path / "a b#c?d%41&é", [{"answer": answer(0.9, 0.1)}]))
    export_tasks(items, LABELS, decisions, tmp_path / "tasks.json")
    (task,) = json.loads((tmp_path / "tasks.json").read_text())
    query = parse_qs(urlsplit(task["data"]["image"]).query)
    assert query == {"d": [str(items[0].path).lstrip("/")]}


@pytest.mark.parametrize("text", ["{", "{}", "[1]", '[{"image": 1}]'])
def test_file_that_is_no_export_of_label_studio_is_refused(batch, decisions, tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ReviewError, match="export"):
        import_annotations(tmp_path / "a.json", read_items(batch), LABELS, decisions)
