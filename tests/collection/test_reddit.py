"""Photos of a subreddit, from a stand-in for Reddit's API."""

import base64
import json
import time

from scripts.collection.batch import finished, read_batch
from tests.conftest import picture_bytes

JPEG = {"content-type": "image/jpeg"}


def listing(children, after=None):
    return json.dumps(
        {"kind": "Listing", "data": {"after": after, "children": [{"kind": "t3", "data": post} for post in children]}}
    )


def test_a_subreddits_new_photos_come_page_by_page(collect, web, tmp_path, monkeypatch):
    for name, value in {"CLIENT_ID": "me", "CLIENT_SECRET": "secret", "API_URL": web.url, "TOKEN_URL": f"{web.url}/token"}.items():
        monkeypatch.setenv(f"REDDIT_{name}", value)
    tokens, forms, times = [], [], []

    def token(request):
        forms.append(
            (request.command, request.headers["authorization"], request.rfile.read(int(request.headers["content-length"])))
        )
        tokens.append(f"token-{len(tokens)}")
        return 200, {}, json.dumps({"access_token": tokens[-1], "expires_in": 3600}).encode()

    def photo(name, **more):
        return {
            "name": name,
            "title": f"Ramen {name}",
            "created_utc": 1764201600,
            "post_hint": "image",
            "url": f"{web.url}/{name}",
        } | more

    items = [{"media_id": "m2"}, {"media_id": "m1"}, {"media_id": "m3"}]
    media = {f"m{n}": {"e": "Image", "s": {"u": f"{web.url}/g{n}"}} for n in (1, 2)} | {"m3": {"e": "AnimatedImage", "s": {}}}
    gallery = {"name": "g", "title": "Two", "is_gallery": True, "media_metadata": media, "gallery_data": {"items": items}}
    first = [
        photo("p1"),
        {"name": "v", "is_video": True},
        {"name": "l"},
        {"name": "s", "is_self": True},
        photo("x", over_18=True),
        gallery,
        5,
    ]

    def page(request):
        times.append(time.monotonic())
        if request.headers["authorization"] == "Bearer token-0" and "after" in request.path:
            return 401, {}, b""  # the token's time is over
        content = (
            listing([photo("p2"), photo("d", removed_by_category="moderator")])
            if "after" in request.path
            else listing(first, "t3_a")
        )
        return 200, {"x-ratelimit-remaining": "0.0" if len(times) == 1 else "50", "x-ratelimit-reset": "1"}, content.encode()

    web.pages |= {"/token": token, "/r/food/new.json?limit=100&raw_json=1": page}
    web.pages["/r/food/new.json?limit=100&raw_json=1&after=t3_a"] = page
    for number, name in enumerate(("p1", "g1", "g2", "p2")):
        web.pages[f"/{name}"] = (200, JPEG, picture_bytes(number, (64, 48)))
    done = collect("reddit:food")
    assert done.returncode == 0, done.stderr
    taken = read_batch(finished(tmp_path / "collected")[0])
    assert [photo.origin.removeprefix(web.url) for photo in taken] == ["/p1", "/g2", "/g1", "/p2"]
    assert (taken[0].title, taken[0].at, taken[0].id) == ("Ramen p1", "2025-11-27T00:00:00+00:00", "p1")
    assert forms[0] == ("POST", f"Basic {base64.b64encode(b'me:secret').decode()}", b"grant_type=client_credentials")
    assert len(forms) == 2
    assert times[1] - times[0] >= 0.9  # the first window was used up
    for kind in (
        "post with a video",
        "post with a link",
        "post of text",
        "post for adults",
        "removed post",
        "post that cannot be read",
    ):
        assert f"1 {kind}" in done.stderr
    assert collect("reddit:food").stdout == "nothing new (4 looked at before)\n"
    web.pages["/token"] = (401, {}, b"")
    refused = collect("reddit:food")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "check REDDIT_CLIENT_ID and REDDIT_CLIENT_SECRET" in refused.stderr
