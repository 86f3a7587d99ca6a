import base64
import json

import pytest

from handler.request import MAX_BASE64, Request, RequestError, is_probe, read_request

PHOTO = b"\xff\xd8 a photo"
BASE64 = base64.b64encode(PHOTO).decode()


def read(request, headers=None):
    return read_request(Request(request, headers or {}), num_classes=10, default_top_k=5)


@pytest.mark.parametrize(
    "value",
    [
        bytearray(PHOTO),
        {"image": BASE64},
        {"image": f"data:image/jpeg;base64,{BASE64}"},
        {"image": f"{BASE64[:4]}\n{BASE64[4:]}"},
        {"instances": [{"image": BASE64}]},
        json.dumps({"image": BASE64}).encode(),
        " " + json.dumps({"image": BASE64}),
    ],
)
def test_photo_is_found_wherever_it_may_be(value):
    for field in ("data", "image", "body"):
        assert read({field: value}) == (PHOTO, 5)


@pytest.mark.parametrize(
    ("request_fields", "message"),
    [
        ({}, "no photo"),
        ({"photo": PHOTO}, r"\['photo'\]"),
        ({"body": {}}, "holds no photo"),
        ({"body": None}, "holds no photo"),
        ({"body": [1]}, "holds no photo"),
        ({"body": {"image": 7}}, "holds no photo"),
        ({"body": {"image": "?!"}}, "not base64"),
        ({"body": {"image": "é"}}, "not base64"),
        ({"body": {"instances": [{"image": BASE64}] * 2}}, "instances must be a list of exactly one, found 2"),
        ({"body": {"instances": "x"}}, "instances must be a list of exactly one, found str"),
        ({"body": b'{"image": '}, "not valid JSON"),
        ({"body": b'{"image": "\xff"}'}, "not valid JSON"),
        ({"body": b'{"image": ' + b"[" * 900}, "not valid JSON"),
    ],
)
def test_request_without_a_photo_is_refused_with_what_was_expected(request_fields, message):
    with pytest.raises(RequestError, match=message) as refused:
        read(request_fields)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"image": "A" * (MAX_BASE64 + 4)}, "27,962,032 characters of base64, the limit is 27,962,028"),
        (b'{"image": [' + b"{}," * 2000 + b"{}]}", "the limit is 1,000"),
    ],
)
def test_request_over_a_limit_is_refused_before_it_is_decoded(body, message):
    with pytest.raises(RequestError, match=message) as refused:
        read({"body": body})
    assert refused.value.status == 413


def test_largest_photo_passes_as_base64():
    photo_bytes, _ = read({"body": {"image": "A" * MAX_BASE64}})
    assert len(photo_bytes) == MAX_BASE64 // 4 * 3


def test_half_a_character_is_no_photo_and_no_failure():
    assert read({"body": "\ud800"}) == (b"?", 5)
    with pytest.raises(RequestError, match="not base64"):
        read({"body": {"image": "\ud800"}})
    with pytest.raises(RequestError, match="top_k is"):
        read({"body": {"image": BASE64, "top_k": "\ud800"}})


@pytest.mark.parametrize(("top_k", "answered"), [("1", 1), ("10", 10), ("99", 10), (" 3 ", 3), (b"2", 2), (bytearray(b"4"), 4)])
def test_top_k_comes_by_header_or_field_and_is_clamped(top_k, answered):
    assert read({"body": PHOTO, "top_k": top_k}) == (PHOTO, answered)
    if isinstance(top_k, str):
        assert read({"body": PHOTO}, {"X-Top-K": top_k}) == (PHOTO, answered)


def test_top_k_may_stand_in_the_json():
    assert read({"body": {"image": BASE64, "top_k": 2}}) == (PHOTO, 2)


@pytest.mark.parametrize("top_k", [True, 2.5, [], {}])
def test_nonsense_top_k_in_json_is_refused(top_k):
    with pytest.raises(RequestError, match="top_k is"):
        read({"body": {"image": BASE64, "top_k": top_k}})


@pytest.mark.parametrize("top_k", ["0", "-1", "five", "", "1.5", b"\xff", "9" * 5000])
def test_nonsense_top_k_is_refused(top_k):
    with pytest.raises(RequestError, match="top_k is"):
        read({"body": PHOTO, "top_k": top_k})


@pytest.mark.parametrize("token", ["", "of this start"])
@pytest.mark.parametrize("given", [None, "", "true", "of this star", "of this start ", "OF THIS START", "ö", "\ud800"])
def test_stranger_is_no_probe_whatever_x_probe_holds(monkeypatch, token, given):
    monkeypatch.setenv("SEEFOOD_PROBE_TOKEN", token)
    assert not is_probe(Request({}, {} if given is None else {"X-Probe": given}))


def test_servers_own_token_makes_a_probe_and_without_one_there_is_none(monkeypatch):
    own = Request({}, {"X-Probe": "of this start"})
    monkeypatch.delenv("SEEFOOD_PROBE_TOKEN", raising=False)
    assert not is_probe(own)
    monkeypatch.setenv("SEEFOOD_PROBE_TOKEN", "of this start")
    assert is_probe(own)
