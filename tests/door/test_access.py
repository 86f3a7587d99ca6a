"""API keys, rates and CORS, each off by default."""

import hashlib
import os
import random
import subprocess
import sys
import tracemalloc

import pytest

from scripts.door.access.cors import checked_origins
from scripts.door.access.guard import Access, guarded
from scripts.door.access.keys import HEALTH_PATHS, KeyFile, new_key, parse_keys
from scripts.door.access.rates import Buckets, RateLimits, client_address
from scripts.door.addresses import networks
from tests.conftest import ROOT
from tests.door.asking import ask, echo

PATH = "/predictions/seefood"


def silent(sentence):
    raise AssertionError(sentence)


@pytest.fixture
def key_file(tmp_path):
    key, line = new_key("kitchen", "2")
    other, other_line = new_key("bar")
    path = tmp_path / "keys"
    path.write_text(f"# who may ask\n\n{line}\n{other_line}\n")
    return path, key, other


@pytest.fixture
def looks_each_time(monkeypatch):
    monkeypatch.setattr("scripts.door.access.keys.LOOK_S", 0.0)


def test_by_default_nothing_is_asked_for():
    assert guarded(echo, Access(), silent) is echo


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
def test_key_opens_the_door_and_is_named(key_file, header):
    path, key, _ = key_file
    app = guarded(echo, Access(path), silent)
    answer = ask(app, "POST", PATH, headers={header: f"bearer {key}" if header == "authorization" else key})
    assert (answer.status_code, answer.json()) == (200, {"path": PATH, "key": "kitchen", "key_rate": 2.0})


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer"},
        {"authorization": "Basic a2V5"},
        {"authorization": "Bearer sf_guess"},
        {"x-api-key": "kitchen"},
        {"x-api-key": "\xff\xfe"},
    ],
)
def test_without_a_valid_key_401_in_our_form(key_file, headers):
    app = guarded(echo, Access(key_file[0]), silent)
    answer = ask(app, "POST", PATH, headers=[(name, value.encode("latin-1")) for name, value in headers.items()])
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith('Bearer realm="seefood"')
    assert set(answer.json()) == {"code", "type", "message", "request_id"}
    assert "kitchen" not in answer.text


def test_hash_of_a_key_is_no_key(key_file):
    path, key, _ = key_file
    app = guarded(echo, Access(path), silent)
    assert ask(app, "GET", PATH, headers={"x-api-key": hashlib.sha256(key.encode()).hexdigest()}).status_code == 401


@pytest.mark.parametrize("path", sorted(HEALTH_PATHS))
def test_health_needs_no_key_and_counts_for_no_rate(key_file, path):
    app = guarded(echo, Access(key_file[0], rates=RateLimits(per_address=0.001, burst_s=1)), silent)
    assert [ask(app, "GET", path).status_code for _ in range(3)] == [200, 200, 200]
    assert ask(app, "GET", f"{path}/").status_code == 401  # what only looks like one needs a key


def test_file_is_read_again_when_it_changes(key_file, looks_each_time):
    path, key, other = key_file
    app = guarded(echo, Access(path), silent)
    key3, line3 = new_key("new")
    path.write_text(line3)
    statuses = [ask(app, "GET", PATH, headers={"x-api-key": one}).status_code for one in (key, other, key3)]
    assert statuses == [401, 401, 200]


@pytest.mark.parametrize("break_it", [lambda path: path.write_text("kitchen abc"), os.unlink])
def test_broken_file_is_reported_once_and_its_last_keys_stay(key_file, looks_each_time, break_it):
    path, key, _ = key_file
    said = []
    keys = KeyFile(path, said.append)
    text = path.read_text()
    break_it(path)
    assert all(keys.find(key) for _ in range(3))
    assert len(said) == 1
    path.write_text(text.replace("kitchen", "office"))
    assert keys.find(key).name == "office"


@pytest.mark.parametrize(
    "text",
    [
        "kitchen",
        "kitchen abc",
        f"kitchen {'a' * 64} fast",
        f"kitchen {'a' * 64} 0",
        f"kitchen {'a' * 64} nan",
        f"a {'b' * 64}\n" * 2,
    ],
)
def test_bad_line_is_named_without_what_is_in_it(text):
    with pytest.raises(ValueError, match=r"line \d of the keys") as error:
        parse_keys(f"# comment\n{text}")
    assert "abc" not in str(error.value)


def test_command_makes_a_key_that_opens(tmp_path):
    command = [sys.executable, "-m", "scripts.door.access.new_key", "kitchen", "--rate=5"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    key, line = (text.split(": ", 1)[1].strip() for text in shown.splitlines())
    (tmp_path / "keys").write_text(line)
    found = KeyFile(tmp_path / "keys", silent).find(key)
    assert (found.name, found.rate) == ("kitchen", 5.0)
    assert key not in line


def test_rate_of_an_address_is_429_with_retry_after():
    app = guarded(echo, Access(rates=RateLimits(per_address=0.5, burst_s=4)), silent)
    answers = [ask(app, "GET", PATH) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 2
    assert answers[-1].json()["type"] == "RateError"
    assert ask(app, "GET", PATH, peer="192.0.2.2").status_code == 200


def test_guesses_of_keys_count_for_their_address(key_file):
    app = guarded(echo, Access(key_file[0], rates=RateLimits(per_address=0.5, burst_s=4)), silent)
    assert [ask(app, "GET", PATH, headers={"x-api-key": "guess"}).status_code for _ in range(3)] == [401, 401, 429]


def test_keys_have_their_own_rate_or_the_settings(key_file):
    path, key, other = key_file
    app = guarded(echo, Access(path, rates=RateLimits(per_key=0.1, burst_s=1)), silent)

    def statuses(key, number):
        return [ask(app, "GET", PATH, headers={"x-api-key": key}).status_code for _ in range(number)]

    assert statuses(key, 3) == [200, 200, 429]
    assert statuses(other, 2) == [200, 429]


def test_bucket_fills_at_its_rate():
    now = 100.0
    buckets = Buckets(burst_s=2, clients=10, now=lambda: now)
    assert [buckets.take("a", 5) for _ in range(10)] == [0] * 10
    assert buckets.take("a", 5) == pytest.approx(0.2)
    now += 0.2
    assert buckets.take("a", 5) == 0
    assert buckets.take("a", 5) > 0
    now += 2.2
    assert buckets.take("b", 5) == 0
    assert len(buckets) == 1  # a's is full again, and forgotten


def test_millions_of_addresses_take_bounded_memory():
    now = 0.0
    buckets = Buckets(burst_s=10, clients=10_000, now=lambda: now)
    tracemalloc.start()
    for number in range(20_000):
        now += 1e-6
        assert buckets.take(str(number), 1) == 0
    assert len(buckets) == 10_000
    assert tracemalloc.get_traced_memory()[0] < 10_000_000
    tracemalloc.stop()


TRUSTED = networks(["10.0.0.0/8", "127.0.0.1", "fd00::/8"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.1", ["198.51.100.1"], "192.0.2.1"),  # anyone may write the header
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.1"], "198.51.100.1"),  # the first was written by the client
        ("10.0.0.1", ["203.0.113.9", "198.51.100.1, 10.1.1.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("10.0.0.1", ["[2001:db8:1:2:3::4]:4711"], "2001:db8:1:2::/64"),
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1, nonsense"], "10.0.0.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("::ffff:10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("2001:db8:1:2:3::4", [], "2001:db8:1:2::/64"),
        ("fd00::1", ["198.51.100.1"], "198.51.100.1"),
        (None, ["198.51.100.1"], "local"),
    ],
)
def test_address_is_the_last_that_no_trusted_proxy_has(peer, forwarded, address):
    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    scope = {"type": "http", "client": peer and (peer, 1), "headers": headers}
    assert client_address(scope, TRUSTED) == address


def test_address_of_any_header_is_found():
    chance = random.Random(1)
    for _ in range(500):
        value = bytes(chance.choice(b"0123456789.:[]%,fd \xff") for _ in range(chance.randrange(60)))
        scope = {"type": "http", "client": ("10.0.0.1", 1), "headers": [(b"x-forwarded-for", value)]}
        assert client_address(scope, TRUSTED)


def test_proxy_that_is_no_network_is_refused():
    with pytest.raises(ValueError, match=r"the trusted proxy '10.0.0.1/8'"):
        networks(["10.0.0.1/8"])


ORIGIN = "https://app.example"
PREFLIGHT = {"origin": ORIGIN, "access-control-request-method": "POST", "access-control-request-headers": "x-top-k"}


def test_page_of_a_listed_origin_may_ask(key_file):
    path, key, _ = key_file
    app = guarded(echo, Access(path, (ORIGIN,)), silent)
    preflight = ask(app, "OPTIONS", PATH, headers=PREFLIGHT)  # bears no key
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, ORIGIN)
    answer = ask(app, "POST", PATH, headers={"origin": ORIGIN, "x-api-key": key})
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "x-request-id" in answer.headers["access-control-expose-headers"]
    refused = ask(app, "POST", PATH, headers={"origin": ORIGIN})
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, ORIGIN)


@pytest.mark.parametrize(
    "change", [{"origin": "https://evil.example"}, {"origin": "null"}, {"access-control-request-method": "DELETE"}]
)
def test_other_pages_may_not(change):
    app = guarded(echo, Access(origins=(ORIGIN,)), silent)
    preflight = ask(app, "OPTIONS", PATH, headers=PREFLIGHT | change)
    assert preflight.status_code == 403
    assert "access-control-allow-origin" not in preflight.headers
    assert preflight.json()["type"] == "OriginError"
    answer = ask(app, "POST", PATH, headers={"origin": "https://evil.example"})
    assert (answer.status_code, "access-control-allow-origin" in answer.headers) == (200, False)


@pytest.mark.parametrize("origin", ["app.example", "https://app.example/", "https://*.example", "https://App.example", ""])
def test_what_no_browser_sends_as_an_origin_is_refused(origin):
    with pytest.raises(ValueError, match="expected"):
        checked_origins([origin])
