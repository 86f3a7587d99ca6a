"""Known vulnerabilities of what uv.lock pins and SBOMs list: `python -m scripts.audit.vulnerabilities uv.lock sbom.cdx.json`.

Asks OSV (https://osv.dev), which knows PyPI, Maven and Debian; names and versions are sent, nothing else. Ends with 1 if there
is one that accepted.json does not name. Not audited, but counted: C libraries, which OSV does not know, and what has no version.
"""

import json
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from scripts.command import parser, run
from scripts.errors import SeeFoodError
from scripts.phrases import counted

OSV = "https://api.osv.dev"
BATCH = 500  # queries in a request; OSV takes 1000
TIMEOUT_S = 60.0
KNOWN = ("pkg:pypi/", "pkg:maven/", "pkg:deb/")
ACCEPTED = Path(__file__).with_name("accepted.json")


class AuditError(SeeFoodError):
    """OSV did not answer, or something is vulnerable; the message says what."""


class Accepted(NamedTuple):
    """A vulnerability that is lived with: `purl` is where a component's begins, `id` is OSV's or an alias, "*" for all of them."""

    purl: str
    id: str
    why: str


def read_accepted(path: Path) -> list[Accepted]:
    """ValueError for an entry that lacks a key, or its reason."""
    try:
        entries = [Accepted(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except TypeError as error:
        raise ValueError(f'{path}: each entry needs "purl", "id" and "why": {error}') from error
    if unexplained := [entry for entry in entries if not entry.why.strip()]:
        raise ValueError(f"{path}: {unexplained[0].purl} {unexplained[0].id} has no reason")
    return entries


def purls(path: Path) -> set[str]:
    """The package URLs in a uv.lock or in a CycloneDX SBOM. ValueError for any other file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".lock":
        packages = tomllib.loads(text)["package"]
        return {f"pkg:pypi/{one['name']}@{one['version']}" for one in packages if "registry" in one.get("source", {})}
    content = json.loads(text)
    if not isinstance(content, dict) or content.get("bomFormat") != "CycloneDX":
        raise ValueError(f"{path} is neither a uv.lock nor a CycloneDX SBOM")
    return {one["purl"] for one in content["components"] if "purl" in one}


def audited(found: Iterable[str]) -> list[str]:
    """Those of which OSV can know something: of a kind that it lists, and with a version."""
    return sorted(purl for purl in found if purl.startswith(KNOWN) and "@" in purl)


def vulnerabilities(client: httpx.Client, found: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(purl, OSV's description) of each known vulnerability. AuditError if OSV does not answer as it should."""
    try:
        for at in range(0, len(found), BATCH):
            queries: list[dict[str, Any]] = [{"package": {"purl": purl}} for purl in found[at : at + BATCH]]
            while queries:
                results = client.post("/v1/querybatch", json={"queries": queries}).raise_for_status().json()["results"]
                further = []
                for query, result in zip(queries, results, strict=True):
                    for one in result.get("vulns", []):
                        yield query["package"]["purl"], client.get(f"/v1/vulns/{one['id']}").raise_for_status().json()
                    if token := result.get("next_page_token"):
                        further.append({**query, "page_token": token})
                queries = further
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise AuditError(f"OSV does not answer, so nothing is known: {error!r}; try again later") from error


def accepted_for(purl: str, described: dict[str, Any], accepted: list[Accepted]) -> Accepted | None:
    """The entry that accepts this vulnerability, if there is one."""
    names = {described["id"], *described.get("aliases", []), "*"}
    return next((entry for entry in accepted if purl.startswith(entry.purl) and entry.id in names), None)


def main() -> int:
    """Command line; see the module's docstring."""
    arguments = parser(__doc__)
    arguments.add_argument("files", nargs="+", type=Path, help="uv.lock, and SBOMs that make sbom wrote")
    arguments.add_argument("--url", default=OSV, help="where OSV, or a mirror of it, answers")
    args = arguments.parse_args()
    accepted, listed = read_accepted(ACCEPTED), {purl for path in args.files for purl in purls(path)}
    known = audited(listed)
    open_ones, accepted_ones = [], []
    with httpx.Client(base_url=args.url, timeout=TIMEOUT_S) as client:
        for purl, described in vulnerabilities(client, known):
            line = f"{purl}: {' '.join([described['id'], *described.get('aliases', [])])}: {described.get('summary', '')}"
            if entry := accepted_for(purl, described, accepted):
                accepted_ones.append(f"{line} (accepted: {entry.why})")
            else:
                open_ones.append(line)
    for line in sorted(accepted_ones) + sorted(open_ones):
        print(line)
    unknown = len(listed) - len(known)
    print(
        f"{counted(len(known), 'component')} audited, {unknown} not (no version, or unknown to OSV), {len(accepted_ones)} accepted"
    )
    if open_ones:
        raise AuditError(
            f"{len(open_ones)} known vulnerabilities: take a newer version, or add each to {ACCEPTED.name} with its reason"
        )
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
