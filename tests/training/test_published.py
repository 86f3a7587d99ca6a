"""Data sets as they are published and exported: each is read right, or a sentence says what to do."""

import re
from collections import Counter

import pytest

from tests.training.test_layouts import JPEG, lay  # noqa: F401 # a fixture
from training.data.sets import find_photos

# what lies there (a number: so many photos); photos by split and label that are found, None: refused; a part of what is said
SETS = {
    # formats that are not read
    "Excel": ({"": 4, "labels.xlsx": b"PK\x03\x04"}, None, r"a spreadsheet is not read .labels.xlsx.: save it as CSV"),
    "Excel, renamed": (
        {"": 4, "labels.csv": b"PK\x03\x04\0\0"},
        None,
        "labels.csv is an Excel workbook or another zip archive, no CSV: save it as CSV",
    ),
    "COCO": (
        {"images": 4, "annotations/i.json": '{"images": [], "annotations": [], "categories": []}'},
        None,
        "a file of COCO annotations is not read .*i.json.: write its photos",
    ),
    "VIA": ({"": 4, "via.json": '{"_via_settings": {}}'}, None, "a file of VIA annotations"),
    "YOLO": ({"images": 4, "labels/0.txt": "0 0.5 0.5 0.1 0.1\n"}, None, "a file of YOLO boxes"),
    "Pascal VOC": ({"JPEGImages": 4, "Annotations/0.xml": "<annotation>"}, None, "a file of Pascal VOC boxes"),
    "Hugging Face": (
        {"train": 4, "train/metadata.jsonl": '{"file_name": "0.jpg", "label": "pie"}\n'},
        None,
        "a list in JSON is not read .train/metadata.jsonl.: write",
    ),
    "Oxford pets": (
        {
            "images/Abyssinian_1.jpg": JPEG,
            "images/Abyssinian_2.jpg": JPEG,
            "images/pug_1.jpg": JPEG,
            "images/pug_2.jpg": JPEG,
            "annotations/list.txt": "#Image CLASS-ID SPECIES BREED ID\nAbyssinian_1 1 1 1\nAbyssinian_2 1 1 1\npug_1 2 2 1\n",
        },
        None,
        r"begin with the class \(Abyssinian, pug ...\), move each.*a list in plain text is not read .annotations/list.txt",
    ),
    "cats and dogs": (
        {"train/cat.0.jpg": JPEG, "train/cat.1.jpg": JPEG, "train/dog.0.jpg": JPEG, "train/dog.1.jpg": JPEG},
        None,
        r"begin with the class \(cat, dog ...\)",
    ),
    "CUB": (
        {
            "CUB/images/001.A": 2,
            "CUB/images/002.B": 2,
            "CUB/classes.txt": "1 001.A\n",
            "CUB/train_test_split.txt": "1 0\n2 1\n",
            "attributes.txt": "x",
        },
        {"": {"001.A": 2, "002.B": 2}},
        "named like lists of splits: CUB/train_test_split.txt",
    ),
    "Caltech: lists of splits in text": (
        {"a": 2, "b": 2, "train.txt": "a/0.jpg 0\n", "test.txt": "b/1.jpg 1\n"},
        {"": {"a": 2, "b": 2}},
        "named like lists of splits: test.txt and 1 more",
    ),
    "Stanford cars": (
        {"cars_train": 4, "cars_test": 4, "devkit/cars_train_annos.mat": b"MATLAB"},
        None,
        "a MATLAB file is not read .devkit/cars_train_annos.mat",
    ),
    "Flowers-102": (
        {"jpg": 4, "imagelabels.mat": b"MATLAB", "setid.mat": b"MATLAB"},
        None,
        "a MATLAB file is not read .imagelabels.mat and 1 more",
    ),
    "Tiny-ImageNet": (
        {
            "train/n1/images": 2,
            "train/n2/images": 2,
            "val/images": 4,
            "val/val_annotations.txt": "val_0.JPEG\tn1\t0\t0\t6\t6\n",
            "test/images": 4,
        },
        {"": {"n1": 2, "n2": 2}},
        r"val is not used: no class of its 4 photos is trained on \(labels in 1 .txt",
    ),
    "ImageNet with a flat val": (
        {"train/n1": 2, "train/n2": 2, "val": 4, "val_ground_truth.txt": "1\n2\n"},
        {"": {"n1": 2, "n2": 2}},
        "val is not used: no class of its 4 photos",
    ),
    "CIFAR": (
        {"cifar/data_batch_1": b"\x80\x02x", "cifar/test_batch": b"\x80\x02x"},
        None,
        "a pickle .CIFAR's batches are such., .*save its photos as files",
    ),
    "MNIST": (
        {"train-images-idx3-ubyte": b"\0\0\x08\x03", "train-labels-idx1-ubyte": b"\0\0\x08\x01"},
        None,
        "an IDX file .MNIST's are such. is not read",
    ),
    "Parquet": ({"data/train-0.parquet": b"PAR1"}, None, "a table in Parquet or Arrow is not read .data/train-0.parquet"),
    "TFRecord": ({"train.tfrecord": b"x"}, None, "a file of packed photos"),
    "arrays": ({"x.npz": b"PK\x03\x04"}, None, "a file of arrays is not read .x.npz.: save its photos as files"),
    "an archive that is still packed": ({"photos.zip": b"PK\x03\x04"}, None, "an archive is not read .photos.zip.: unpack it"),
    "plain text": (
        {"": 4, "list.txt": "0.jpg 0\n1.jpg 0\n2.jpg 1\n"},
        None,
        "a list of photos in plain text is not read .list.txt.: write",
    ),
    "Teachable Machine": ({"Class 1": 2, "Class 2": 2, "metadata.json": "{}"}, {"": {"Class 1": 2, "Class 2": 2}}, ""),
    "a pointer of Git LFS": ({"": 4, "train.csv": "version https://git-lfs.github.com/spec/v1\n"}, None, "a pointer of Git LFS"),
}


def check(root, case, capsys):
    """Read a data set, compare what is found and said, and print it."""
    name, (content, expected, said) = case
    remarks = []
    if expected is None:
        with pytest.raises(ValueError, match=said) as refused:
            find_photos(root)
        text = str(refused.value)
    else:
        labels, photos, layout = find_photos(root, remarks)
        text = f"{layout}\n" + "\n".join(remarks)
        found = {split: {} for split in {photo.split for photo in photos}}
        for (split, index), count in Counter((photo.split, photo.index) for photo in photos).items():
            found[split][labels[index]] = count
        assert found == expected, text
        assert len({photo.path for photo in photos}) == len(photos)
        assert re.search(said, text, re.DOTALL) if said else not remarks[:-1], text
    with capsys.disabled():
        print(f"\n{name}: {' '.join(content)}\n    {text.replace(str(root), 'data')}", end="")


@pytest.mark.parametrize("case", SETS.items(), ids=SETS)
def test_published_data_set_is_read_or_refused_with_what_to_do(lay, case, capsys):  # noqa: F811
    check(lay(case[1][0], JPEG), case, capsys)
