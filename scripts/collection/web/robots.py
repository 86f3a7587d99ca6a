"""What a robots.txt allows, as RFC 9309 has it: the longest path that fits decides, and groups of one agent are one.

Lines of other kinds, such as Sitemap, do not end a group. Crawl-delay, which is not in the RFC, is taken for a rule; of several the
longest counts.
"""

import re
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

TOKEN = re.compile(r"\*|[A-Za-z_-]+")  # of an agent's name: what stands before a version
UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")  # RFC 3986, 2.3
ESCAPED = re.compile(r"%([0-9A-Fa-f]{2})")


@dataclass
class Group:
    """What one agent, or "*", may ask for: (path, whether it is allowed); seconds between two requests."""

    rules: list[tuple[str, bool]] = field(default_factory=list)
    delay_s: float = 0.0


class Robots:
    """A robots.txt. What is no line of one is passed over."""

    def __init__(self, content: bytes) -> None:
        self._groups: dict[str, Group] = {}
        agents, is_header = list[str](), False  # of the group that is read, and whether its agents are still being named
        for line in re.split(r"\r\n|\r|\n", content.decode("utf-8-sig", "replace")):
            name, colon, value = line.partition("#")[0].partition(":")
            name, value = name.strip().lower(), value.strip()
            if not colon or name not in ("user-agent", "allow", "disallow", "crawl-delay"):
                continue
            if name == "user-agent":
                token = TOKEN.match(value)
                agents = [*(agents if is_header else ()), *([token[0].lower()] if token else ())]
                is_header = True
                for agent in agents:
                    self._groups.setdefault(agent, Group())
                continue
            is_header = False
            for agent in agents:
                _add(self._groups[agent], name, value)

    def _group(self, agent: str) -> Group:
        return self._groups.get(agent.lower()) or self._groups.get("*") or Group()

    def allows(self, agent: str, address: str) -> bool:
        """Whether the agent, a name without a version, may ask for an address."""
        parts = urlsplit(address)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if path == "/robots.txt":
            return True
        # in an address both are only characters, in a rule they are more
        path = _normal(path).replace("*", "%2A").replace("$", "%24")
        fitting = [(len(rule), allowed) for rule, allowed in self._group(agent).rules if _fits(rule, path)]
        return max(fitting, default=(0, True))[1]  # of two as long, the one that allows

    def delay_s(self, agent: str) -> float:
        """Seconds that the agent has to leave between two requests; 0 if nothing is said."""
        return self._group(agent).delay_s


def _add(group: Group, name: str, value: str) -> None:
    if name != "crawl-delay":
        if value:  # an empty Disallow forbids nothing
            group.rules.append((_normal(value), name == "allow"))
    elif re.fullmatch(r"\d{1,9}(\.\d{0,9})?", value, re.ASCII):
        group.delay_s = max(group.delay_s, float(value))


def _normal(path: str) -> str:
    """A path with all of it escaped that has to be, and nothing of it that need not be."""
    escaped = "".join(one if one.isascii() else quote(one) for one in path)
    return ESCAPED.sub(lambda code: one if UNRESERVED.match(one := chr(int(code[1], 16))) else code[0].upper(), escaped)


def _fits(rule: str, path: str) -> bool:
    """Whether a path begins as a rule says: `*` is anything, `$` at the end is the path's end."""
    # not as a regular expression: with many stars that takes for ever
    first, *others = rule.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    at = len(first)
    last = others.pop() if others and rule.endswith("$") else None
    for part in others:
        found = path.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    if last is not None:
        return len(path) - len(last) >= at and path.endswith(last)
    return at == len(path) or not rule.endswith("$")
