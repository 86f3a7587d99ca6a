"""What a list says of a photo beside its class: text, weight and group, from the list to training."""

import json

import pytest

from tests.training.test_layouts import JPEG, lay  # noqa: F401 # a fixture
from tests.training.test_list_layouts import GOOD, TWO, rows
from tests.training.test_manifest import manifest  # noqa: F401 # a fixture
from training.data.sets import find_photos, read_data, write_prepared

DEFAULT = ("", 1.0, "")


def said(photos):
    return [(photo.text, photo.weight, photo.group) for photo in sorted(photos, key=lambda photo: photo.path.name)]


def extras(root):
    remarks = []
    return said(find_photos(root, remarks)[1]), " ".join(remarks)


@pytest.mark.parametrize(
    ("header", "cells", "expected"),
    [
        ("path,label,text,weight,group", ["a slice,2,x", "b,0.5,", ",,x", "c,1e-3,y"], [("a slice", 2.0, "x"), ("b", 0.5, "")]),
        ("path,label,Caption,Weights,Groups", ['"hot, with ice",2,x', "b,1,y", "c,1,y", "d,1,y"], [("hot, with ice", 2.0, "x")]),
        ("path,label,title,sample_weight", ["A,2", "B,3", "C,4", "D,5"], [("A", 2.0, ""), ("B", 3.0, "")]),
        ("path,label,title,text", ["t,words", "t,words", "t,b", "t,c"], [("words", 1.0, "")]),
        ("path,label,weight_kg,context,group_id", ["2,a,b"] * 4, [DEFAULT]),  # no such names
        ("path,label,weight,text", ["nan,nan", "1,NaN", "1,a", "1,a"], None),  # an error: nan is no weight
    ],
)
def test_columns_are_taken_by_their_names_alone(lay, header, cells, expected):  # noqa: F811
    root = lay({"": 4, "l.csv": rows(header, *(f"{label},{cell}" for label, cell in zip(TWO, cells, strict=True)))}, JPEG)
    if expected is None:
        with pytest.raises(ValueError, match=r"l\.csv: line 2: the weight is 'nan', expected a finite number over 0"):
            find_photos(root)
        return
    found, remarks = extras(root)
    assert found[: len(expected)] == expected
    assert ("taken beside a photo's class" in remarks) == (expected[0] != DEFAULT)


@pytest.mark.parametrize("weight", ["0", "-1", "inf", "-inf", "heavy", "1,2,3", "0x2", "1e999", "-0.0"])
@pytest.mark.parametrize(("name", "separator"), [("l.csv", ","), ("l.tsv", "\t")])
def test_wrong_weight_is_refused_with_list_line_and_value(lay, weight, name, separator):  # noqa: F811
    cells = [("path", "label", "weight"), *((f"{n}.jpg", label, f'"{weight if n == 2 else 1}"') for n, label in enumerate(TWO))]
    root = lay({"": 4, name: "\n".join(map(separator.join, cells))}, JPEG)
    for given in (root, root / name):
        with pytest.raises(ValueError, match=f"{name}: line 4: the weight is '{weight}', expected a finite number over 0"):
            find_photos(given)


def test_wrong_weights_of_rows_and_lists_that_do_not_count_hold_nothing_up(lay):  # noqa: F811
    root = lay({"": 4, "l.csv": f"{GOOD}\ngone.jpg,pie", "deep/l.csv": rows("path,label,weight", "pie,-1", "soup,-2")}, JPEG)
    assert extras(root)[0] == [DEFAULT] * 4


def test_decimal_comma_is_read(lay):  # noqa: F811
    root = lay({"": 4, "l.csv": "id;label;weight\n0;pie;1,5\n1;pie;,5\n2;soup;3\n3;soup;\n"}, JPEG)
    assert [weight for _, weight, _ in extras(root)[0]] == [1.5, 0.5, 3.0, 1.0]


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        # a title is the class where there is no other, and so is a text that alone repeats
        ("path,title\n0.jpg,pie\n1.jpg,pie\n2.jpg,soup\n3.jpg,soup", ("pie", "soup"), DEFAULT),
        ("path,text\n0.jpg,pie\n1.jpg,pie\n2.jpg,soup\n3.jpg,soup", ("pie", "soup"), DEFAULT),
        ("path,kind,group\n0.jpg,pie,a\n1.jpg,pie,a\n2.jpg,soup,b\n3.jpg,soup,b", ("pie", "soup"), ("", 1.0, "a")),
        # one-hot: a column that alone marks a row is a class, whatever its name
        ("image,pie,soup,weight\n0,1,0,1\n1,1,0,1\n2,0,1,1\n3,0,1,1", ("pie", "soup"), DEFAULT),
        ("image,pie,soup,group\n0,1,0,1\n1,1,0,0\n2,0,1,1\n3,0,1,0", ("pie", "soup"), ("", 1.0, "1")),
        ("image,text,figure\n0,1,0\n1,1,0\n2,0,1\n3,0,1", ("figure", "text"), DEFAULT),
        # a column of splits is none of groups
        ("path,label,group\n0.jpg,pie,train\n1.jpg,pie,test\n2.jpg,soup,train\n3.jpg,soup,test", ("pie", "soup"), DEFAULT),
    ],
)
def test_column_of_labels_or_splits_is_no_extra(lay, text, labels, expected):  # noqa: F811
    root = lay({"": 4, "l.csv": text}, JPEG)
    assert find_photos(root)[0] == labels
    assert extras(root)[0][0] == expected


def test_list_beside_class_folders_tells_of_their_photos(lay):  # noqa: F811
    content = {"pie": 2, "soup": 2, "l.csv": "path,label,weight\npie/0.jpg,pie,2\nsoup/1.jpg,soup,3\n"}
    photos = find_photos(lay(content, JPEG))[1]
    assert {(photo.path.parent.name, photo.path.name): photo.weight for photo in photos} == {
        ("pie", "0.jpg"): 2.0,
        ("pie", "1.jpg"): 1.0,
        ("soup", "0.jpg"): 1.0,
        ("soup", "1.jpg"): 3.0,
    }
    with pytest.raises(ValueError, match="line 2: the weight is '-2'"):
        find_photos(lay({**content, "l.csv": content["l.csv"].replace("pie,2", "pie,-2")}, JPEG))


def test_first_of_several_rows_and_lists_that_says_something_counts(lay):  # noqa: F811
    root = lay({"": 4, "a.csv": GOOD, "b.csv": rows("path,label,weight", *("pie,2", "pie,3", "soup,4", "soup,5", "soup,6"))}, JPEG)
    assert [weight for _, weight, _ in extras(root)[0]] == [2.0, 3.0, 4.0, 5.0]


def test_rows_of_a_photo_that_differ_are_said_and_the_first_counts(lay):  # noqa: F811
    text = rows("path,label,text", *(f"{label},first" for label in TWO)) + "\n0.jpg,pie,second"
    found, remarks = extras(lay({"": 4, "l.csv": text}, JPEG))
    assert found == [("first", 1.0, "")] * 4
    assert "several rows of a photo differ, the first counts: lines 2 and 6: 0.jpg" in remarks


def test_extras_reach_training_by_way_of_a_prepared_file_and_the_fingerprint(manifest, tmp_path, generated):  # noqa: F811
    def read(root):
        return read_data(root, 0.2, 0, near_duplicates=0, cache=None)

    numbers = range(len(list(generated.rglob("*.jpg"))))
    columns = {"text": [f"Nº {n}" for n in numbers], "weight": [1 + n % 3 for n in numbers]}
    columns |= {"group": ["a" if n % 2 else "" for n in numbers]}
    without, data = read(manifest("plain.csv")), read(manifest("full.parquet", **columns))
    assert said(without.train) == [DEFAULT] * len(without.train)
    assert {photo.weight for photo in data.train} == {1.0, 2.0, 3.0}
    assert [photo.sha256 for photo in data.train] == [photo.sha256 for photo in without.train]
    others = [read(manifest(f"{name}.csv", **{name: column})) for name, column in columns.items()]
    assert len({one.fingerprint for one in (without, data, *others)}) == 5
    assert read(manifest("same.csv", weight=[1.0 for _ in numbers])).fingerprint == without.fingerprint
    for one in (without, data):
        write_prepared(one, 0.2, 0, tmp_path / "split.json", near_duplicates=0)
        again = read_data(tmp_path / "split.json", 0.2, 0, near_duplicates=0)
        assert said(again.train + again.held_out) == said(one.train + one.held_out)
        listed = json.loads((tmp_path / "split.json").read_text())["train"]
        assert {len(row) for row in listed} == ({4} if one is without else {5})
