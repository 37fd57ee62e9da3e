"""Which IP addresses are public. The list is ours, since Python's own differs between its versions."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_PUBLIC_6 = ipaddress.IPv6Network("2000::/3")  # everything else is local, reserved, multicast or a translation
_REFUSED = {
    "this network": ("0.0.0.0/8",),
    "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"),
    "loopback": ("127.0.0.0/8",),
    "link-local": ("169.254.0.0/16",),
    "multicast": ("224.0.0.0/4",),
    "reserved": (
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "240.0.0.0/4",
        "2001::/23",  # Teredo and other protocols
        "2001:db8::/32",
        "2002::/16",  # 6to4: carries an IPv4 address
        "3fff::/20",
    ),
    "a cloud's own service": ("168.63.129.16/32",),
}
_NETWORKS = [(name, ipaddress.ip_network(net)) for name, nets in _REFUSED.items() for net in nets]


def parse_networks(given: Iterable[str | Network]) -> tuple[Network, ...]:
    """Networks by their text, like `10.1.0.0/16`. Raises ValueError."""
    return tuple(ipaddress.ip_network(network) for network in given)


def why_not_public(address: str, allowed: Iterable[Network] = ()) -> str | None:
    """Why an address is not to be talked to, or None. address: numeric, as the resolver gives it.

    An IPv6 address that carries an IPv4 one counts as that one, for `allowed` too.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "which is no address"
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if any(ip in network for network in allowed if network.version == ip.version):
        return None
    for name, network in _NETWORKS:
        if ip.version == network.version and ip in network:
            return f"which is not public ({name})"
    if isinstance(ip, ipaddress.IPv6Address) and ip not in _PUBLIC_6:
        kind = "loopback" if ip.is_loopback else "link-local" if ip.is_link_local else "local or reserved"
        return f"which is not public ({kind})"
    return None
