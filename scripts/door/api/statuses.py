"""Each status that the door answers with, and when: for /openapi.json and for the README."""

from collections.abc import Mapping

# what a client meets on any path; 401, 403 and 429 only where keys, origins or rates are set
STATUSES: Mapping[int, str] = {
    200: "answered",
    400: "the request is malformed, holds no photo or several, has a top_k that cannot be, or is no feedback",
    401: "an API key is needed, or the one that was sent is not valid",
    403: "a page of this origin may not ask, or heat maps are switched off",
    404: "there is no such path, model or version, or no kept photo for the feedback",
    405: "the path does not take this method; Allow names those that it takes",
    408: "the request did not arrive in time",
    411: "the body has neither a length nor chunks",
    413: "the body, the photo or what a form holds is over a limit",
    414: "the address is too long",
    415: "the photo's format, the form's encoding or the body's compression is not one that is read",
    417: "the request expects what is not offered",
    421: "the request is meant for another host",
    422: "the photo is broken, or has too many pixels; or the feedback names no class of the version that answered",
    429: "over the key's or the address's rate; Retry-After says when to ask again",
    431: "the headers are too long, or too many",
    500: "the model or the server failed; the log says why, by the request's id",
    501: "the request's transfer coding or method is not one that is known",
    503: "too much waits, or no worker is ready; Retry-After says when to ask again",
    505: "the request's version of HTTP is neither 1.0 nor 1.1",
    507: "the disk has no room for feedback, or cannot be written",
}
BEGIN, END = "<!-- statuses -->\n", "<!-- end of statuses -->\n"


def statuses_markdown() -> str:
    """The statuses as a table of a README, between its marks."""
    rows = "".join(f"| {status} | {when} |\n" for status, when in STATUSES.items())
    return f"{BEGIN}| status | when |\n|---|---|\n{rows}{END}"
