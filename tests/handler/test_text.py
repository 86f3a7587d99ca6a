"""What somebody wrote beside a photo: one spelling, hashed ids, limits."""

import base64
import unicodedata
from collections import Counter

import pytest

from handler.request import Request, RequestError, read_text
from handler.text import (
    MAX_BYTES,
    MAX_CHARACTERS,
    TEXT_HEADER,
    TextError,
    TextSpec,
    check_text,
    decode_header,
    decode_text,
    encode_text,
    text_ids,
    words,
)

SPEC = TextSpec(64, 1024, 3, 5)
LONG = "the best ramen in town with egg and noodles, " * 11


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Ramen, with EGG!", ["ramen", "with", "egg"]),
        ("\uff32\uff21\uff2d\uff25\uff2e", ["ramen"]),  # full width
        ("STRASSE straße", ["strasse", "strasse"]),
        ("cre\u0300me br\u00fble\u0301e", ["cr\u00e8me", "br\u00fbl\u00e9e"]),
        ("पनीर टिक्का", ["पनीर", "टिक्का"]),  # its vowels are marks, which part no word
        ("拉麺と餃子", ["拉麺と餃子"]),
        ("pizza🍕 + beer", ["pizza🍕", "beer"]),
        ("a\tb\nc\u00a0d\u200be", ["a", "b", "c", "d", "e"]),
        ("", []),
        (" !?… ", []),
    ],
)
def test_words_have_one_spelling_in_any_script(text, found):
    assert words(text) == found


@pytest.mark.parametrize("text", ["Crème brûlée", "STRASSE", "\u0390 \u1fd3", "ﷺ ﬁsh", "İstanbul", "Å Å", "\uab70 \u13a0"])
def test_spelling_is_the_same_however_a_text_was_composed_and_when_it_is_taken_again(text):
    ways = {tuple(words(unicodedata.normalize(form, text))) for form in ("NFC", "NFD", "NFKC", "NFKD")}
    assert len(ways) == 1
    assert words(" ".join(words(text))) == words(text)


def test_ids_are_the_same_wherever_they_are_computed():
    # a changed hash would be another model's text
    assert text_ids("Ramen", TextSpec(8, 65_536, 3, 5)) == [19794, 34026, 2562, 21529, 24747, 5791, 58978, 56078]


def test_no_text_is_all_zeros_and_no_word_is_a_zero():
    assert text_ids("", SPEC) == text_ids("?!", SPEC) == [0] * 64
    ids = text_ids(LONG, TextSpec(512, 2, 3, 5))  # one bucket for all that is said
    assert Counter(ids) == {1: 1, 0: 511}


def test_long_text_keeps_its_words_and_loses_n_grams():
    spec = TextSpec(20, 65_536, 3, 5)
    ids = text_ids(LONG, spec)
    assert len(ids) == 20
    assert 0 not in ids
    assert ids[:9] == text_ids(" ".join(dict.fromkeys(words(LONG))), spec)[:9]
    assert set(text_ids("noodles", TextSpec(1, 65_536, 3, 5))) <= set(ids)


def test_words_with_parts_in_common_share_ids():
    ramen, other = set(text_ids("ramen", SPEC)) - {0}, set(text_ids("ramens", SPEC)) - {0}
    assert len(ramen & other) >= 5
    assert len(ramen & (set(text_ids("pizza", SPEC)) - {0})) <= 1


@pytest.mark.parametrize("text", ["é" * MAX_CHARACTERS, "🍜" * MAX_CHARACTERS, "x"])
def test_text_up_to_the_limit_comes_through_a_header_as_it_is(text):
    assert decode_header(encode_text(text)) == decode_text(text.encode()) == check_text(text) == text
    assert len(encode_text(text)) < 2700  # TorchServe's heads have 8 kB at most


@pytest.mark.parametrize(
    ("content", "message", "status"),
    [
        (b"x" * (MAX_CHARACTERS + 1), "the text has 501 characters, the limit is 500", 413),
        ("🍜".encode() * (MAX_CHARACTERS + 1), "the text has 2,004 bytes, the limit is 2,000", 413),
        (b"x" * 1_000_000, "the text has 1,000,000 bytes, the limit is 2,000", 413),
        (b"cr\xe8me", "the text is not UTF-8: invalid continuation byte at byte 2", 400),
        (b"\xff\xfer\0", "the text is not UTF-8: invalid start byte at byte 0", 400),
        (b"\xed\xa0\x80", "the text is not UTF-8", 400),
    ],
)
def test_text_over_a_limit_or_in_another_encoding_is_refused_with_value_and_limit(content, message, status):
    with pytest.raises(TextError, match=message) as refused:
        decode_text(content)
    assert refused.value.status == status
    assert MAX_BYTES == 4 * MAX_CHARACTERS


def test_half_a_character_is_refused():
    with pytest.raises(TextError, match=r"half a character, U\+D83C"):
        check_text("\ud83c")


def test_text_without_a_word_is_none():
    assert check_text(" !? ") == check_text("") == decode_text(b"...") == ""


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"length": 8, "buckets": 9, "shortest": 3}, "longest"),
        ({"length": 8, "buckets": 9, "shortest": 3, "longest": 5, "more": 1}, "more"),
        ({"length": 0, "buckets": 9, "shortest": 3, "longest": 5}, "length from 1"),
        ({"length": 8, "buckets": 1, "shortest": 3, "longest": 5}, "buckets from 2"),
        ({"length": 8, "buckets": 9, "shortest": 5, "longest": 3}, "shortest <= longest"),
        ({"length": 8.0, "buckets": 9, "shortest": 3, "longest": 5}, "whole numbers"),
    ],
)
def test_spec_with_a_wrong_value_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        TextSpec.from_dict(values)


def test_worker_reads_the_text_of_a_request_and_refuses_one_that_it_would_leave_out():
    request = Request({"body": b""}, {"X-Text": base64.b64encode("Crème".encode()).decode()})
    assert read_text(request, reads_text=True) == "Crème"
    assert read_text(Request({"body": b""}, {}), reads_text=False) == ""
    with pytest.raises(RequestError, match="this model reads no text: send the photo alone") as refused:
        read_text(request, reads_text=False)
    assert refused.value.status == 400
    with pytest.raises(RequestError, match=f"the header {TEXT_HEADER} is not base64"):
        read_text(Request({}, {"x-text": "crème"}), reads_text=True)
    with pytest.raises(RequestError, match="501 characters") as refused:
        read_text(Request({}, {"x-text": encode_text("x" * 501)}), reads_text=True)
    assert refused.value.status == 413
