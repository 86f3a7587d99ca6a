"""Which URLs may be asked: http or https, of a host on the public internet.

A host's name is looked up once, and the connection goes to the addresses that were checked (connection.py): a name that stands for
another address a moment later (DNS rebinding) leads nowhere else.
"""

import ipaddress
import socket
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from scripts.predict.photo import UnreadError

MAX_URL = 4096  # characters
PORTS = {"http": 80, "https": 443}
KEPT = "%/:@!$&'()*+,;=~?-._"  # RFC 3986: of a path and a query, what is not escaped
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address in its last 32 bits
GLOBAL_V6 = ipaddress.ip_network("2000::/3")
RELAYS_V4 = ipaddress.ip_network("192.88.99.0/24")
# credentials of the machine itself, never asked, private addresses allowed or not: AWS (IPv6), Alibaba; the others are link-local
METADATA = {ipaddress.ip_address(address) for address in ("fd00:ec2::254", "100.100.100.200")}

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Url(NamedTuple):
    """A URL that may be asked: `host` in ASCII, `target` is path and query."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == PORTS[self.scheme] else f":{self.port}")

    def __str__(self) -> str:
        return self.origin + self.target


def parse(text: str, private: bool = False) -> Url:
    """The URL of a text; `private`: of any port. UnreadError for one that is not asked."""
    if len(text) > MAX_URL:
        raise UnreadError(f"the address has {len(text):,} characters, the limit is {MAX_URL:,}", 400)
    # urlsplit leaves line breaks out, and browsers take a backslash for a slash: others would see another host
    if not text.isprintable() or any(letter in text for letter in " \\"):
        raise UnreadError("the address has spaces, backslashes or control characters", 400)
    try:
        parts = urlsplit(text)
        name, port = (parts.hostname or "").rstrip("."), parts.port
        host = name.encode("ascii" if ":" in name else "idna")  # an IPv6 address is no name
    except ValueError as error:  # UnicodeError among them
        raise UnreadError(f"the address is none: {error}", 400) from error
    if parts.scheme not in PORTS or not host:
        raise UnreadError("the address is none of http:// or https:// with a host", 400)
    if "@" in parts.netloc:
        raise UnreadError("the address holds a user's name", 400)
    port = PORTS[parts.scheme] if port is None else port
    if not private and port not in PORTS.values():
        raise UnreadError(f"the port is {port}, expected 80 or 443", 403)
    target = quote(parts.path or "/", safe=KEPT) + (f"?{quote(parts.query, safe=KEPT)}" if parts.query else "")
    return Url(parts.scheme, host.decode().lower(), port, target)


def is_public(address: Address) -> bool:
    """Whether it is of the public internet; an IPv4 address within an IPv6 one counts as itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast and address not in RELAYS_V4
    if inner := _inner(address):
        return is_public(inner)
    return address in GLOBAL_V6 and address.is_global and address.sixtofour is None and address.teredo is None


def _inner(address: Address) -> ipaddress.IPv4Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    return address.ipv4_mapped or (ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in NAT64 else None)


def _is_never_asked(address: Address) -> bool:
    if inner := _inner(address):
        return _is_never_asked(inner)
    return address.is_link_local or address.is_multicast or address in METADATA


def resolve(url: Url, private: bool = False) -> list[str]:
    """The IP addresses of a URL's host, each checked. UnreadError if there is none, or if one is not to be asked."""
    try:
        found = socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UnreadError(f"there is no address of the host {url.host!r}", 502) from error
    addresses = list(dict.fromkeys(str(place[0]) for *_, place in found))
    for text in addresses:
        address = ipaddress.ip_address(text.partition("%")[0])
        if _is_never_asked(address) or not (private or is_public(address)):
            raise UnreadError(
                "the host's address is not of the public internet (SEEFOOD_COLLECT_PRIVATE=true allows a private one)", 403
            )
    return addresses
