"""A text as tokens of a Hugging Face encoder's tokenizer, in training as in the worker."""

import json
import sys
import unicodedata

import pytest

from handler.preprocess import Spec
from handler.text import MAX_CHARACTERS, text_ids
from handler.tokens import TOKENIZER, TokenSpec
from tests.training.encoders import write_tokenizer

pytest.importorskip("tokenizers", reason="the extra encoder is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, spec):
    """A model's folder, as far as its spec goes."""
    folder = tmp_path_factory.mktemp("model")
    write_tokenizer(folder / TOKENIZER)
    (folder / "spec.json").write_text(json.dumps(spec.to_dict() | {"text": {"kind": "tokenizer", "length": 12}}))
    return folder


@pytest.fixture(scope="module")
def tokens(folder):
    return Spec.from_folder(folder).text


def test_ids_are_the_tokenizers_and_one_with_its_marks_at_either_end(folder, tokens):
    content = json.loads((folder / TOKENIZER).read_text())["model"]["vocab"]
    assert tokens.ids("Ramen soup") == [content[name] + 1 for name in ("[CLS]", "ramen", "soup", "[SEP]")]
    # neither the padding nor the length that the file was saved with
    assert text_ids("Ramen soup", tokens) == [*tokens.ids("Ramen soup"), *[0] * 8]


@pytest.mark.parametrize("text", ["", " ?! ", "…"])
def test_text_without_a_word_has_no_ids(tokens, text):
    assert text_ids(text, tokens) == [0] * 12


def test_long_text_is_cut_and_keeps_its_end_mark(tokens):
    ids = text_ids("ramen " * 80, tokens)
    assert (len(ids), ids[-1]) == (12, tokens.ids("soup")[-1])
    assert 0 not in ids
    for letter in ("é", "🍜", "拉", "\u0301", "\0"):
        assert len(text_ids(letter * MAX_CHARACTERS, tokens)) == 12


@pytest.mark.parametrize("text", ["Crème brûlée", "\uff32amen"])
def test_ids_are_the_same_however_a_text_was_composed(tokens, text):
    assert len({tuple(tokens.ids(unicodedata.normalize(form, text))) for form in ("NFC", "NFD", "NFKC", "NFKD")}) == 1


def test_spec_says_which_kind_of_text_it_reads_and_comes_back(folder, tokens, spec):
    read = Spec.from_folder(folder)
    assert read.to_dict()["text"] == {"kind": "tokenizer", "length": 12}
    assert Spec.from_dict(read.to_dict(), tokens.tokenizer) == read
    # a process that decodes photos has the spec alone
    assert Spec.from_dict(read.to_dict()).text == TokenSpec(12)


@pytest.mark.parametrize("text", [{"kind": "tokenizer"}, {"kind": "words", "length": 8}, {"kind": "tokenizer", "length": 2.5}])
def test_spec_with_a_wrong_value_is_refused(spec, text):
    with pytest.raises(ValueError, match="expected kind 'tokenizer', and a whole number"):
        Spec.from_dict(spec.to_dict() | {"text": text})


@pytest.mark.parametrize(("content", "message"), [("", "tokenizer.json is missing"), ("{}", "holds no tokenizer")])
def test_missing_or_broken_tokenizer_is_named(content, message):
    with pytest.raises(ValueError, match=message):
        TokenSpec(12, content).ids("soup")


def test_missing_library_is_named_with_its_remedy(tokens, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match="is not installed: pip install tokenizers"):
        TokenSpec(12, tokens.tokenizer).ids("soup")
