"""Lists of photos and labels, as spreadsheets save them and data sets publish them."""

import codecs
import re
import shutil
from collections import Counter

import pytest

from scripts.folders import files_below
from tests.training.test_ingest import give, ingest, project, refused  # noqa: F401 # project: each test has an empty one
from tests.training.test_sets import read
from training.data import photo_names
from training.data.label_lists import read_label_list
from training.data.photo_names import PhotoNames


@pytest.fixture
def listed(tmp_path):
    """A function that writes a list beside two photos, and gives [(file's name, label)] and the problems that are read from it."""
    for name in ("a.jpg", "b b.jpg", "sub/Crème.JPG"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")

    def written(content):
        path = tmp_path / "list.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        found = read_label_list(path, PhotoNames(p for p in files_below(tmp_path, Counter()) if p != path))
        assert all(row.path.is_file() for row in found.rows), found.rows
        return [(row.path.name, row.label) for row in found.rows], found.problems

    return written


TEXT = "path,label\na.jpg,crème\nb b.jpg,pie\n"


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        codecs.BOM_UTF8 + TEXT.encode(),
        TEXT.encode("utf-16"),
        TEXT.encode("utf-16-be"),
        TEXT.encode("utf-16-le"),
        TEXT.encode("cp1252"),
        TEXT.replace("\n", "\r\n").encode("latin-1"),
        TEXT.replace("\n", "\r").encode(),
        TEXT.replace(",", ";"),
        TEXT.replace(",", "\t").encode("utf-16"),
        TEXT.replace(",", "|"),
        "sep=;\n" + TEXT.replace(",", ";"),
        "\n\n" + TEXT,
        TEXT.replace("\n", ",,\n").replace(",,", "", 1).replace(",,", ",", 1),
        TEXT.replace("path", '"Path"').replace("label", '" Label "'),
        TEXT.replace("a.jpg,crème", '"a.jpg", "crème"'),
        TEXT.replace("a.jpg", ".\\a.jpg"),
        TEXT.replace("crème", "cre\u0300me"),
        TEXT.replace("b b.jpg", "B B.JPG"),
        TEXT.replace("a.jpg", "a").replace("b b.jpg", "b b"),
        TEXT + "a.jpg,crème\n",
    ],
)
def test_list_is_read_in_any_usual_encoding_separator_and_spelling(listed, content):
    assert listed(content) == ([("a.jpg", "crème"), ("b b.jpg", "pie")], [])


@pytest.mark.parametrize(
    "header",
    [
        "filename,class",
        "File,Category",
        "IMAGE,Title",
        "photo;Label",
        "file_name\tclass_name",
        "filepaths,labels",
        "Image Path,Species",
    ],
)
def test_columns_are_found_under_usual_names(listed, header):
    separator = re.search(r"[,;\t]", header)[0]
    assert listed(f"{header}\na.jpg{separator}pie\n") == ([("a.jpg", "pie")], [])
    assert listed(f"no,x,{header}\n1,2,a.jpg,pie\n".replace(",", separator)) == ([("a.jpg", "pie")], [])


def test_file_is_found_in_a_folder_below_whatever_its_case_and_unicode(listed):
    for name in ("sub\\Crème.JPG", "SUB/crème.jpg", "Cre\u0300me.jpg", "crème"):
        assert listed(f"path,label\n{name},pie\n") == ([("Crème.JPG", "pie")], [])


def test_bad_rows_are_named_with_their_lines_and_good_ones_count(listed):
    rows = ["path,label", "a.jpg,pie", "b b.jpg,", ",pie", "b b.jpg,pie,soup", "b b.jpg", "", '"sub/Crème.JPG",soup']
    found, problems = listed("\n".join(rows))
    assert found == [("a.jpg", "pie"), ("Crème.JPG", "soup")]
    for problem, expected in zip(
        problems,
        ["line 3: no label", "line 4: no path", "line 5: 3 columns, expected 2.* needs quotes", "line 6: 1 column, expected 2"],
        strict=True,
    ):
        assert re.match(expected, problem), problem


NOT_CLOSED = r'line 2: a quote \(".*\) that is not closed'
QUOTES = {
    '"a.jpg,pie': NOT_CLOSED,
    'a.jpg,"pie': NOT_CLOSED,
    'a.jpg,"pie\nsub/Crème.JPG,"cake': NOT_CLOSED,
    'a.jpg,"pie" or tart': NOT_CLOSED,
    'a.jpg,pie"': "line 2: a stray quote in 'pie\"'",
    'a.jpg,"pie\nof apples"': "line 2: a line break in 'pie\\\\nof apples': remove it",
    'a.jpg,5" pie': ("a.jpg", '5" pie'),
    'a.jpg,"5"" pie"': ("a.jpg", '5" pie'),
    'a.jpg,"5\\" pie"': ("a.jpg", '5" pie'),
    "'a.jpg','pie'": ("a.jpg", "pie"),
    "“a.jpg”,“pie”": ("a.jpg", "pie"),
    "a.jpg,shepherd's pie": ("a.jpg", "shepherd's pie"),
    'a.jpg,"pie, apple"': ("a.jpg", "pie, apple"),
}


@pytest.mark.parametrize("row", QUOTES)
def test_quotes_spoil_their_own_row_at_most(listed, row):
    found, problems = listed(f"path,label\n{row}\nb b.jpg,soup\n")
    assert found[-1] == ("b b.jpg", "soup")
    if isinstance(QUOTES[row], tuple):
        assert (found[:-1], problems) == ([QUOTES[row]], [])
    else:
        assert found[:-1] == []
        assert re.match(QUOTES[row], problems[0]), problems


def test_line_breaks_in_columns_of_other_things_are_read(listed):
    text = 'id,path,note,label\r\n1,a.jpg,"made by Bob,\r\nin 2020 (""old"")\r\n",pie\r\n2,b b.jpg,,soup\r\n'
    assert listed(text) == ([("a.jpg", "pie"), ("b b.jpg", "soup")], [])
    assert listed('note,path,label\n"see\n1,x,y",a.jpg,pie\nx,b b.jpg,soup\n') == ([("a.jpg", "pie"), ("b b.jpg", "soup")], [])


@pytest.mark.parametrize(
    ("encoding", "label"),
    [
        ("mac_roman", "crème"),
        ("mac_roman", "jalapeño"),
        ("cp1251", "борщ"),
        ("cp1251", "щи"),
        ("shift_jis", "ラーメン"),
        ("gb18030", "饺子"),
        ("big5", "飯"),
        ("euc-kr", "김치"),
        ("cp1253", "γύρος"),
        ("cp437", "pâté"),
    ],
)
def test_list_in_an_unknown_encoding_is_refused_with_the_remedy(listed, encoding, label):
    with pytest.raises(ValueError, match=r"list.csv, line 3: the text is not in UTF-8.*save the list as UTF-8 .*iconv -f CP1251"):
        listed(f"path,label\na.jpg,pie\nb b.jpg,{label}\n".encode(encoding))


def test_guessed_encoding_is_said_with_an_example(listed, tmp_path):
    for label in ("crème brûlée", "süß", "porções", "bœuf", "shepherd\u2019s pie"):
        assert listed(f"path,label\na.jpg,{label}\n".encode("cp1252")) == ([("a.jpg", label)], [])
        found = read_label_list(tmp_path / "list.csv", PhotoNames([tmp_path / "a.jpg"]))
        assert f"not in UTF-8, read as Windows' Western European (cp1252), such as {label!r}" in found.said()[0]


def test_letters_that_are_lost_already_are_said(listed, tmp_path):
    found, problems = listed("path,label\na.jpg,cr\ufffdme\nb b.jpg,pi\x07e\nsub/Crème.JPG,crÃ¨me\n")
    assert found == [("Crème.JPG", "crÃ¨me")]
    assert "line 2: 'cr\ufffdme' has lost a letter" in problems[0]
    assert "line 3: the label 'pi\\x07e' has a character that is no text: write the label anew" in problems[1]
    remarks = read_label_list(tmp_path / "list.csv", PhotoNames([tmp_path / "a.jpg"])).said()
    assert "'crÃ¨me' was 'crème' once" in remarks[0]


def test_list_without_its_columns_is_refused_with_what_is_expected(listed):
    for text in ("a.jpg,pie\n", "file,cuisine\na.jpg,pie\n", ""):
        with pytest.raises(ValueError, match=r"list.csv has the columns .*, expected path,label: name them so in its first line"):
            listed(text)


@pytest.mark.slow
def test_ingest_takes_good_rows_and_says_which_were_bad(monkeypatch, capsys, generated):
    shutil.copytree(generated, "food")
    for number in range(1000, 1003):
        give("any", number, "inbox")
    rows = ["Datei;file;class", "1;any\\1000.jpg;class_1", "2;any\\1001.jpg;", "3;any\\1002.jpg;class_0", "4;any\\1002.jpg;class_2"]
    rows.append("5;any/1001.jpg;a/b")
    with open("inbox/list.csv", "w", encoding="utf-16", newline="\r\n") as file:  # noqa: PTH123 # newline
        file.write("\n".join(rows))
    status, output, errors = ingest(monkeypatch, capsys, "inbox/list.csv", "--data", "food")
    assert status == 0
    assert "1 photo added, 0 present already, 2 refused: 2 label conflict" in output
    assert "list.csv: 3 rows not taken: line 3: no label" in errors
    assert "lines 4 and 5: 1002.jpg is 'class_0' and 'class_2': keep one of the rows" in errors
    assert "line 6: inbox/any/1001.jpg has the label 'a/b', expected the name of a class" in errors
    assert set(refused()) == {"inbox/any/1002.jpg"}


def test_list_labels_a_data_set_without_class_folders(tmp_path, generated, capsys):
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    lines = ["file,label,split"]
    for number, path in enumerate(sorted(generated.rglob("0[01]*.jpg"))):
        name = f"{path.parent.name}-{path.name}"
        shutil.copyfile(path, root / "images" / name)
        lines.append(f"images/{name},{path.parent.name},{('train', 'train', 'valid', 'Testing')[number % 4]}")
    lines += ["images/gone.jpg,class_0,train", lines[1].replace(",class_0", ",class_1"), "images/class_0-000.jpg,class_3,other"]
    (root / "labels.csv").write_text("\n".join(lines))
    data = read(root)
    assert data.labels == ("class_0", "class_1", "class_2", "class_3")
    assert (len(data.train), len(data.held_out), len(data.test)) == (39, 20, 20)
    errors = capsys.readouterr().err
    assert "labels.csv: 3 rows not taken" in errors
    assert "line 84: the split is 'other', expected train, val or test" in errors
    assert "lines 2 and 83: class_0-000.jpg is 'class_0 in train' and 'class_1 in train'" in errors
    assert re.search(r"line 82: no photo .*images/gone.jpg", errors)
    (root / "labels.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines[:81]))
    data = read(root)
    assert (len(data.train) + len(data.held_out), len(data.test)) == (80, 0)


def test_name_that_is_in_many_folders_is_looked_up_in_its_own_alone(tmp_path, monkeypatch):
    photos = [tmp_path / f"class{number}/{name}.jpg" for name in range(3) for number in range(100)]
    compared = []
    monkeypatch.setattr(photo_names, "_tail", lambda one, other: compared.append(one) or 1)
    found = PhotoNames(photos).find([f"/elsewhere/{photo.parent.name}/{photo.name}" for photo in photos], tmp_path / "l.csv")
    assert found == photos
    assert len(compared) == len(photos)
