"""Counts and lists in sentences: one photo, two photos, and the first few of many names; and that all counts are printed so."""

import ast
import re

import pytest

from scripts.phrases import counted, some
from tests.project.imports import read_sources

# an archive's handler imports nothing of scripts/
COUNTING = {module: source for module, source in read_sources().items() if not module.startswith("handler")}
# "s * (n != 1)" and `'s' if n != 1`: a plural by hand
BY_HAND = re.compile(r"""['"]e?s['"] (\*|if)""")


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        *((0, "photo", "0 photos"), (1, "photo", "1 photo"), (2, "photo", "2 photos")),
        *((1, "class", "1 class"), (3, "class", "3 classes"), (1, "golden photo", "1 golden photo"), (2, "crash", "2 crashes")),
    ],
)
def test_noun_follows_its_number(number, noun, text):
    assert counted(number, noun) == text


def test_list_of_names_is_cut_with_how_many_follow():
    assert some("abc") == "a, b, c"
    assert some(iter("abcdefgh")) == "a, b, c, d, e and 3 more"
    assert some([]) == ""


def test_no_plural_is_made_by_hand():
    assert [module for module, source in COUNTING.items() if BY_HAND.search(source) and module != "scripts.phrases"] == []


def _is_length(value):
    call = value.value if isinstance(value, ast.FormattedValue) and value.format_spec is None else None
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "len"


def test_number_of_photos_classes_files_or_epochs_is_counted():
    """{len(photos)} photos prints "1 photos"; a number out of others, as "2 of 7 photos", is left alone."""
    nouns = re.compile(r"^ ([a-z-]+ )?(photos|classes|files|epochs|trials|tasks|instances|rows|records)\b")
    found = []
    for module, source in COUNTING.items():
        for text in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.JoinedStr)):
            for before, value, after in zip([None, *text.values], text.values, text.values[1:], strict=False):
                plural = isinstance(after, ast.Constant) and nouns.match(str(after.value))
                of = isinstance(before, ast.Constant) and str(before.value).endswith((" of ", " of the ", " all "))
                if plural and not of and _is_length(value):
                    found.append(f"{module}:{text.lineno}: {ast.unparse(text)[:150]}")
    assert found == [], "\n".join(found)
