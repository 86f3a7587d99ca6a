import pytest

from handler.handed import takes_files
from handler.request import HandedError, Request, RequestError, is_probe, read_request

PHOTO = b"\xff\xd8 a photo"


def read(request, headers=None):
    return read_request(Request(request, headers or {}), num_classes=10, default_top_k=5)


@pytest.mark.parametrize("name", ["body", "data"])
@pytest.mark.parametrize("photo", [PHOTO, bytearray(PHOTO), b"", b'{"image": "..."}'])
def test_photo_is_the_raw_body_whatever_bytes_it_has(name, photo):
    found, top_k = read({name: photo})
    assert (type(found), found, top_k) == (bytes, bytes(photo), 5)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, "no body"),
        ({"image": PHOTO}, r"'image' \(bytes\)"),
        ({"body": PHOTO, "top_k": b"1"}, r"'body' \(bytes\), 'top_k' \(bytes\)"),
        ({"body": PHOTO, "data": PHOTO}, r"'body' \(bytes\), 'data' \(bytes\)"),
        ({"body": {"image": "..."}}, r"'body' \(dict\)"),
        ({"body": [1]}, r"'body' \(list\)"),
        ({"body": None}, r"'body' \(NoneType\)"),
        ({"data": "text"}, r"'data' \(str\)"),
        ({"\ud800": PHOTO}, r"'\\ud800' \(bytes\)"),
    ],
)
def test_other_form_is_refused_with_what_was_found_and_who_takes_it(fields, found):
    with pytest.raises(
        RequestError, match=f"expected a photo's bytes as the body, found {found}: send other forms .* to the door"
    ) as e:
        read(fields)
    assert e.value.status == 400


def test_photo_comes_as_a_file_of_the_servers_folder_and_no_other_file_is_read(tmp_path, monkeypatch):
    folder, name = tmp_path / "photos", "0123456789abcdef" * 2
    folder.mkdir()
    (folder / name).write_bytes(PHOTO)
    (tmp_path / name).write_bytes(b"a secret")
    assert not takes_files()
    with pytest.raises(RequestError, match="the photo's file cannot be read: x-photo-file is '0123456789abcdef"):
        read({"body": b""}, {"x-photo-file": name})
    monkeypatch.setenv("SEEFOOD_PHOTO_DIR", str(folder))
    assert takes_files()
    photo, top_k = read({"body": b""}, {"X-Photo-File": name, "x-top-k": "2"})
    assert (bytes(photo), len(photo), top_k) == (PHOTO, len(PHOTO), 2)
    photo.close()
    for other in (f"../{name}", str(tmp_path / name), name.upper(), f"{name}\n", "x" * 32):
        with pytest.raises(RequestError, match="the photo's file cannot be read") as refused:
            read({"body": b""}, {"x-photo-file": other})
        assert refused.value.status == 400
    (folder / ("e" * 32)).mkdir()
    for gone in ("f" * 32, "e" * 32):
        with pytest.raises(HandedError, match="the photo's file cannot be read: ") as refused:
            read({"body": b""}, {"x-photo-file": gone})
        assert refused.value.status == 503
        assert str(tmp_path) not in str(refused.value)


def test_refusal_stays_short_however_many_fields_there_are():
    with pytest.raises(RequestError) as refused:
        read({f"{'🍣' * 100}{number}": PHOTO for number in range(100)})
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(("top_k", "answered"), [("1", 1), ("10", 10), ("99", 10), (" 3 ", 3)])
@pytest.mark.parametrize("name", ["x-top-k", "X-Top-K"])
def test_top_k_comes_by_header_and_is_clamped(name, top_k, answered):
    assert read({"body": PHOTO}, {name: top_k}) == (PHOTO, answered)


@pytest.mark.parametrize("top_k", ["0", "-1", "five", "", "1.5", "\ud800", "9" * 5000])
def test_nonsense_top_k_is_refused(top_k):
    with pytest.raises(RequestError, match="top_k is"):
        read({"body": PHOTO}, {"x-top-k": top_k})


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
