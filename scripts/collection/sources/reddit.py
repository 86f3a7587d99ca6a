"""The new photos of a subreddit, by Reddit's listing API: an example of a source that an account is for.

REDDIT_CLIENT_ID and REDDIT_CLIENT_SECRET in the environment are those of an app at reddit.com/prefs/apps; REDDIT_API_URL and
REDDIT_TOKEN_URL name other servers than Reddit's, as the tests do. All pages of /r/NAME/new are read; posts that are no photos, are
removed or for adults are passed over. Tested against a local stand-in, never against Reddit.
"""

import base64
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from scripts.collection.source import Fetched, Found, clean_title
from scripts.collection.web.client import Web
from scripts.collection.web.connection import OK, Answer
from scripts.predict.photo import PredictError, UnreadError

TOKEN_URL = "https://www.reddit.com/api/v1/access_token"
API_URL = "https://oauth.reddit.com"
NAME = re.compile(r"[A-Za-z0-9_]{2,21}")
PAGE = 100  # posts, the most that the API gives
MOST_PAGES = 50  # the listing ends at about 1,000 posts
MAX_BYTES = 16 * 1024 * 1024  # of a page
MOST_PAUSE_S = 600.0  # the API counts requests in windows of ten minutes
UNAUTHORIZED = 401


class Reddit:
    """See the module."""

    kind = "reddit"

    def __init__(self, name: str, web: Web) -> None:
        """ValueError if it is no subreddit's name, or if the environment has no app's id and secret."""
        self._name, self._web = name.removeprefix("r/"), web
        if not NAME.fullmatch(self._name):
            raise ValueError(f"SOURCE names the subreddit {name!r}, expected letters, digits and _: SOURCE=reddit:food")
        self._app = [os.environ.get(variable, "") for variable in ("REDDIT_CLIENT_ID", "REDDIT_CLIENT_SECRET")]
        if not all(self._app):
            raise ValueError(
                "Reddit needs REDDIT_CLIENT_ID and REDDIT_CLIENT_SECRET in the environment: make an app at reddit.com/prefs/apps"
            )
        self.address, self._token = f"r/{self._name}", ""

    def found(self, passed: Counter[str]) -> Iterator[Found]:
        """See Source."""
        after: str | None = ""
        for _ in range(MOST_PAGES):
            page = self._page(after or "")
            for post in page.get("children", []):
                try:
                    photos = list(self._photos(post["data"], passed))
                except (AttributeError, KeyError, TypeError, ValueError, OverflowError, OSError):  # of another form than documented
                    passed["post that cannot be read"] += 1
                    continue
                yield from photos
            if not (after := page.get("after")):
                return

    def _page(self, after: str) -> dict[str, Any]:
        api = os.environ.get("REDDIT_API_URL", API_URL)
        address = f"{api}/r/{self._name}/new.json?limit={PAGE}&raw_json=1" + (f"&after={quote(after)}" if after else "")
        answer = self._asked(address)
        if answer.status == UNAUTHORIZED:  # a token lasts an hour, or a day
            self._token = ""
            answer = self._asked(address)
        if answer.status != OK:
            raise PredictError(
                f"Reddit's answer for {self.address} has the HTTP status {answer.status}: is there such a subreddit?"
            )
        self._pause(address, answer)
        data = _object(answer).get("data")
        if not isinstance(data, dict):
            raise PredictError(f"Reddit's answer for {self.address} is no listing")
        return data

    def _asked(self, address: str) -> Answer:
        try:
            self._token = self._token or self._new_token()
            return self._web.api(address, {"Authorization": f"Bearer {self._token}"}, MAX_BYTES)
        except UnreadError as error:  # of the listing: no photo is to be had
            raise PredictError(f"Reddit's listing cannot be read: {error}; the same command goes on") from error

    def _new_token(self) -> str:
        basic = base64.b64encode(":".join(self._app).encode()).decode()
        headers = {"Authorization": f"Basic {basic}", "Content-Type": "application/x-www-form-urlencoded"}
        form = "grant_type=client_credentials"
        answer = self._web.api(os.environ.get("REDDIT_TOKEN_URL", TOKEN_URL), headers, MAX_BYTES, form)
        token = _object(answer).get("access_token") if answer.status == OK else None
        if not isinstance(token, str):
            status = f"HTTP status {answer.status}"
            raise PredictError(f"Reddit gave no token ({status}): check REDDIT_CLIENT_ID and REDDIT_CLIENT_SECRET")
        return token

    def _pause(self, address: str, answer: Answer) -> None:
        """Wait for the next window where none of this one's requests is left."""
        try:
            left = float(answer.headers.get("x-ratelimit-remaining", "1"))
            reset_s = float(answer.headers.get("x-ratelimit-reset", "0"))
        except ValueError:
            return
        if left < 1:
            self._web.pause(address, min(max(0.0, reset_s), MOST_PAUSE_S))

    def _photos(self, post: Mapping[str, Any], passed: Counter[str]) -> Iterator[Found]:
        addresses = [] if _why_not(post) else list(_addresses(post))
        if not addresses:
            passed[_why_not(post) or _kind(post)] += 1
        title = clean_title(post.get("title"))
        at = datetime.fromtimestamp(float(post.get("created_utc") or 0), UTC).isoformat() if post.get("created_utc") else None
        for address in addresses:
            yield Found(
                address,
                "",
                lambda address=address: Fetched(self._web.photo(address), at=at, title=title, id=post.get("name")),  # type: ignore[misc]
            )


def _object(answer: Answer) -> dict[str, Any]:
    try:
        content = json.loads(answer.body)
    except (ValueError, RecursionError) as error:
        raise PredictError("Reddit's answer is not JSON") from error
    if not isinstance(content, dict):
        raise PredictError("Reddit's answer is no object of JSON")
    return content


def _why_not(post: Mapping[str, Any]) -> str:
    if post.get("removed_by_category"):
        return "removed post"
    return "post for adults" if post.get("over_18") else ""


def _kind(post: Mapping[str, Any]) -> str:
    if post.get("is_video"):
        return "post with a video"
    return "post of text" if post.get("is_self") else "post with a link"


def _addresses(post: Mapping[str, Any]) -> Iterator[str]:
    """A gallery's photos in its order; a photo itself; a preview of what is linked is none of the post's photos."""
    if post.get("is_gallery"):
        media = post.get("media_metadata") or {}
        for item in (post.get("gallery_data") or {}).get("items", []):
            found = media.get(item.get("media_id")) or {}
            if found.get("e") == "Image" and isinstance(address := (found.get("s") or {}).get("u"), str):
                yield address
    elif post.get("post_hint") == "image":
        address = post.get("url_overridden_by_dest") or post.get("url")
        if isinstance(address, str):
            yield address
    elif post.get("is_self") and (images := (post.get("preview") or {}).get("images")):
        address = (images[0].get("source") or {}).get("url")
        if isinstance(address, str):
            yield address
