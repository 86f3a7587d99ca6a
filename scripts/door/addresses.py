"""Whom a network address belongs to: what counts as one client, for connections and for rates."""

import ipaddress
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
IPV6_PREFIX = 64  # what one customer has: RFC 6177
LOCAL = "local"  # whoever has no address: a Unix socket


def address_in(text: str) -> Address | None:
    """The address of 192.0.2.1, 192.0.2.1:80, 2001:db8::1, [2001:db8::1]:80; an IPv4 address in IPv6 is IPv4."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def owner_of(address: Address | None) -> str:
    """Who has this address: of IPv6 the network of a customer, who has 2^64 of them; without an address, LOCAL."""
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((int(address), IPV6_PREFIX), strict=False))
    return LOCAL if address is None else str(address)


def networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Networks of texts such as 10.0.0.0/8, ::1. ValueError that names a bad one."""
    found = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text))
        except ValueError as error:
            raise ValueError(f"the trusted proxy {text!r} is not an address or a network such as 10.0.0.0/8: {error}") from error
    return tuple(found)


def is_in(address: Address | None, among: Sequence[Network]) -> bool:
    """Whether one of the networks holds the address."""
    return address is not None and any(address.version == network.version and address in network for network in among)
