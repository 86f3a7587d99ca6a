"""Lists of photos and labels as people have them, in a data set: several, of any columns, with names of any other machine."""

import pytest

from tests.training.test_layouts import JPEG, lay  # noqa: F401 # a fixture
from tests.training.test_published import check


def rows(header, *values, first=0):
    """A CSV with a row for each value, of the photos 0.jpg, 1.jpg ..."""
    return "\n".join([header, *(f"{first + number}.jpg,{value}" for number, value in enumerate(values))])


TWO = ("pie", "pie", "soup", "soup")
GOOD = rows("path,label", *TWO)
PIE, SAME = {"pie": 2, "soup": 2}, {"": {"pie": 2, "soup": 2}}

# as in test_published.py
SETS = {
    # several lists
    "Kaggle with a sample": (
        {
            "train": 4,
            "test": 4,
            "train.csv": "id,label\n0,pie\n1,pie\n2,soup\n3,soup\n",
            "test.csv": "id\n0\n1\n",
            "sample_submission.csv": "id,label\n0,pie\n1,pie\n",
        },
        SAME,
        "sample_submission.csv is not used: by its name.*test.csv has the columns",
    ),
    "whole list and lists of splits": (
        {
            "": 6,
            "all.csv": rows("path,label", *TWO, "pie", "soup"),
            "train.csv": GOOD,
            "val.csv": rows("path,label", "pie", "soup", first=4),
        },
        {"train": PIE, "val": {"pie": 1, "soup": 1}},
        "",
    ),
    "backup": ({"": 4, "labels.csv": GOOD, "labels (1).csv": GOOD}, SAME, ""),
    "old copy with another label": (
        {"": 5, "labels.csv": rows("path,label", *TWO, "pie"), "labels_old.csv": rows("path,label", *TWO, "soup")},
        SAME,
        "1 photo under different labels.*4.jpg is 'pie' in labels.csv, line 6, and 'soup' in labels_old.csv, line 6.*move an old",
    ),
    "one photo in two splits": (
        {"": 6, "train.csv": rows("path,label", *TWO, "pie"), "test.csv": rows("path,label", "pie", "soup", first=4)},
        {"train": PIE, "test": {"pie": 1, "soup": 1}},
        r"4.jpg is in test \(test.csv, line 2\) and train \(train.csv, line 6\)",
    ),
    "one photo in two splits of one list": (
        {"": 5, "l.csv": rows("path,label,split", *(f"{label},train" for label in TWO), "pie,test") + "\n4.jpg,pie,train\n"},
        {"train": PIE, "test": {"pie": 1}},
        "4.jpg is in test",
    ),
    "whole list and a test list": (
        {"": 6, "labels.csv": rows("path,label", *TWO, "pie", "soup"), "test.csv": rows("path,label", "pie", "soup", first=4)},
        {"train": PIE, "test": {"pie": 1, "soup": 1}},
        "trained on without a split: 4 photos of ",
    ),
    # columns
    "Kaggle dog-breed": (
        {"train": 4, "labels.csv": "id,breed\n0,pug\n1,pug\n2,boxer\n3,boxer\n"},
        {"": {"pug": 2, "boxer": 2}},
        "",
    ),
    "a header of another language": (
        {"": 4, "liste.csv": "Datei;Sorte\n0.jpg;pie\n1.jpg;pie\n2.jpg;soup\n3.jpg;soup\n"},
        SAME,
        "the column 'Sorte' is taken for the class",
    ),
    "no header": ({"": 4, "l.csv": rows("", *TWO).strip()}, SAME, ""),
    "no header, ids": ({"": 4, "l.csv": "0,pie\n1,pie\n2,soup\n3,soup\n"}, SAME, ""),
    "no header, numbers": ({"": 4, "l.csv": rows("", 0, 0, 1, 1).strip()}, {"": {"0": 2, "1": 2}}, ""),
    "pandas' index": ({"": 4, "l.csv": ",path,label\n0,3.jpg,pie\n1,2.jpg,pie\n2,1.jpg,soup\n3,0.jpg,soup\n"}, SAME, ""),
    "decimal comma": (
        {"": 4, "l.csv": "id;breed;weight\n0;pie;1,5\n1;pie;2,5\n2;soup;3,5\n3;soup;4,25\n"},
        SAME,
        "taken beside a photo's class: 'weight' for its weight",
    ),
    "cassava: numbers and a map": (
        {
            "train_images": 4,
            "train.csv": rows("image_id,label", 0, 0, 1, 1),
            "label_num_to_disease_map.json": '{"0": "CBB", "1": "CBSD"}',
        },
        {"": {"0": 2, "1": 2}},
        "its classes are the numbers in 'label'",
    ),
    "number and name of the class": (
        {"": 4, "l.csv": rows("path,label,class_name", "0,pie", "0,pie", "1,soup", "1,soup")},
        SAME,
        "",
    ),
    "species and breed": (
        {"": 4, "l.csv": rows("path,species,breed", "dog,pug", "dog,pug", "dog,boxer", "dog,boxer")},
        {"": {"pug": 2, "boxer": 2}},
        "of the columns 'breed' and 'species', 'breed' is taken",
    ),
    "HAM10000: two folders, metadata": (
        {
            "HAM_part_1/a": b"",
            "HAM_part_1/0.jpg": JPEG,
            "HAM_part_1/1.jpg": JPEG,
            "HAM_part_2/2.jpg": JPEG,
            "HAM_part_2/3.jpg": JPEG,
            "HAM10000_metadata.csv": "lesion_id,image_id,dx,age\nx,0,nv,80.0\nx,1,nv,80.0\ny,2,bcc,75\nz,3,bcc,30",
        },
        {"": {"nv": 2, "bcc": 2}},
        "not the folders 'HAM_part_1'",
    ),
    "one-hot: ISIC": (
        {
            "in": 4,
            "truth.csv": "image,MEL,NV\n0,1.0,0.0\n1,1.0,0.0\n2,0.0,1.0\n3,0.0,1.0\n",
            "meta.csv": "image,age,sex\n0,5,male\n1,6,male\n2,7,female\n3,8,female\n",
        },
        {"": {"MEL": 2, "NV": 2}},
        "meta.csv is not used: labels are taken from .*truth.csv",
    ),
    "one-hot: Roboflow": (
        {
            f"{split}/{name}": what
            for split in ("train", "valid", "test")
            for name, what in (
                ("0.jpg", JPEG),
                ("1.jpg", JPEG),
                ("_classes.csv", "filename, pie, soup\n0.jpg, 1, 0\n1.jpg, 0, 1\n"),
            )
        },
        {split: {"pie": 1, "soup": 1} for split in ("train", "val", "test")},
        "",
    ),
    "one-hot with a bad row": (
        {"": 24, "l.csv": rows("image,a,b", *["1,0", "0,1"] * 11, "0,0", "1,1")},
        {"": {"a": 11, "b": 11}},
        "line 24: no class is marked; line 25: several classes: a, b",
    ),
    "several labels a photo": (
        {"": 4, "l.csv": rows("image,a,b", "1,1", "0,1", "1,0", "1,1")},
        None,
        r"marks several classes a photo \(line 2: a, b; 2 of 4 rows\)",
    ),
    "captions": (
        {"": 4, "captions.txt": "x", "l.csv": rows("image,caption", "a dog", "a cat", "a hat", "a rat")},
        None,
        r"\['image', 'caption'\], expected path,label: name .*; found no column of labels",
    ),
    "FER2013: pixels": (
        {"": 4, "l.csv": "emotion,pixels,Usage\n7,1 2 3,Training\n8,2 3 4,PublicTest\n"},
        None,
        "no column with names of photos that are here",
    ),
    "two columns that may be the label": (
        {"": 4, "l.csv": rows("image,shop,cuisine", *["x,thai", "x,thai", "y,mex", "y,mex"])},
        None,
        "several columns that may be the label's",
    ),
    "several labels in a cell": (
        {"": 6, "l.csv": rows("image,labels", "rust", "rust", "scab", "scab", "rust scab", "rust scab")},
        {"": {"rust": 2, "scab": 2, "rust scab": 2}},
        "'rust scab' looks like several labels, and is a class of its own",
    ),
    # names of photos
    "CIFAR-10 of Kaggle: the same numbers in train and test": (
        {"train": 4, "test": 4, "trainLabels.csv": "id,label\n0,pie\n1,pie\n2,soup\n3,soup\n"},
        SAME,
        "4 photos without a class",
    ),
    "numbers that are in train and test": (
        {"train": 4, "test": 4, "labels.csv": "id,label\n0,pie\n1,pie\n2,soup\n3,soup\n"},
        None,
        "line 2: 2 photos are called 0.jpg: write their folders, too",
    ),
    "absolute paths": (
        {
            "imgs": 4,
            "l.csv": GOOD.replace("\n", "\n/home/bob/imgs/"),
        },
        SAME,
        "",
    ),
    "Windows": (
        {
            "imgs": 4,
            "l.csv": GOOD.replace("\n", "\nC:\\Bob\\photos\\").replace("jpg", "JPG"),
        },
        SAME,
        "",
    ),
    "Google AutoML": (
        {
            "": 6,
            "l.csv": "".join(
                f"{split},gs://bucket/dir/{n}.jpg,{label}\n"
                for n, (split, label) in enumerate([*(("TRAIN", label) for label in TWO), ("VALIDATION", "pie"), ("TEST", "soup")])
            ),
        },
        {"train": PIE, "val": {"pie": 1}, "test": {"soup": 1}},
        "",
    ),
    "addresses": ({"": 4, "l.csv": rows("url,label", *TWO).replace("\n", "\nhttps://host/a%20b/")}, SAME, ""),
    "list beside the photos' folder": (
        {"images": 4, "annotations/l.csv": rows("path,label", *TWO).replace("\n", "\n./images/")},
        SAME,
        "",
    ),
    "another split's photo of that name": (
        {
            "train/0.jpg": JPEG,
            "train/1.jpg": JPEG,
            "train/2.jpg": JPEG,
            "test": 5,
            "train.csv": "id,label\n0,pie\n1,soup\n2,soup\n3,pie\n",
        },
        {"": {"pie": 1, "soup": 2}},
        "line 5: no photo .*/3:",
    ),
    "another class's photo of that name": (
        {"a/0.jpg": JPEG, "a/1.jpg": JPEG, "b/2.jpg": JPEG, "l.csv": "path,label\na/0.jpg,pie\na/1.jpg,soup\na/2.jpg,pie\n"},
        {"": {"pie": 1, "soup": 1}},
        "line 4: no photo .*a/2.jpg",
    ),
    "a name of two photos": (
        {
            "x/0.jpg": JPEG,
            "y/0.jpg": JPEG,
            "x/1.jpg": JPEG,
            "x/2.jpg": JPEG,
            "l.csv": "path,label\n0.jpg,pie\n1.jpg,pie\n2.jpg,soup\n",
        },
        {"": {"pie": 1, "soup": 1}},
        "line 2: 2 photos are called 0.jpg: write their folders",
    ),
    # splits
    "folds": (
        {"": 4, "l.csv": rows("path,label,fold", "pie,0", "pie,1", "soup,2", "soup,3")},
        SAME,
        "the column 'fold' holds '0', '1', '2', '3', no names of splits: it is not used",
    ),
    "a split by number": (
        {"": 4, "l.csv": rows("path,label,split", "pie,1", "pie,2", "soup,3", "soup,1")},
        SAME,
        "the column 'split' holds '1', '2', '3', no names of splits",
    ),
    "some splits are not known": (
        {"": 4, "l.csv": rows("path,label,split", "pie,train", "soup,train", "soup,extra", "soup,val")},
        {"train": {"pie": 1, "soup": 1}, "val": {"soup": 1}},
        "line 4: the split is 'extra'",
    ),
    "fastai: is_valid": (
        {"": 6, "l.csv": rows("fname,label,is_valid", *(f"{label},False" for label in TWO), "pie,True", "soup,True")},
        {"train": PIE, "val": {"pie": 1, "soup": 1}},
        "",
    ),
    "class folders and lists of splits": (
        {
            "pie": 3,
            "soup": 3,
            "train.csv": "path,label\npie/0.jpg,pie\nsoup/0.jpg,soup\n",
            "test.csv": "path,label\npie/1.jpg,pie\nsoup/1.jpg,soup\n",
        },
        {"train": {"pie": 1, "soup": 1}, "test": {"pie": 1, "soup": 1}},
        "splits are those of test.csv and train.csv, not the folders",
    ),
    "class folders and a list that differs": (
        {"pie": 2, "soup": 2, "l.csv": "path,label\npie/0.jpg,pie\nsoup/0.jpg,soup\npie/1.jpg,soup\n"},
        SAME,
        "l.csv has other classes for 1 photo than their folders, such as .*pie/1.jpg: the folders count",
    ),
}


@pytest.mark.parametrize("case", SETS.items(), ids=SETS)
def test_lists_give_each_photo_one_class_and_split_or_say_why_not(lay, case, capsys):  # noqa: F811
    check(lay(case[1][0], JPEG), case, capsys)
