"""Which addresses a server may send us to: a redirect of a hostile one must not reach services that only this machine
or its network can."""

import ipaddress
import re
import socket
from urllib.parse import urlsplit

_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # whose last 32 bits are an IPv4 address (RFC 6052)
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Refused(ValueError):
    """A redirect that is not followed."""


def without_logins(text: str) -> str:
    """``text`` with the addresses in it, but without their user names and passwords."""
    return re.sub(r"(?<=://)[^/?#\s]*@", "", text)


def check_redirect(source: str, target: str) -> None:
    """Raises Refused unless ``target`` is on the host of ``source``, or https on a public address; one of this machine
    may also send to this machine. A name that cannot be looked up passes: a proxy may know it."""
    ours, theirs = urlsplit(source), urlsplit(target)
    if ours.hostname == theirs.hostname and theirs.scheme in (ours.scheme, "https"):
        return
    found = _addresses(theirs.hostname or "")
    if _is_loopback(found) and _is_loopback(_addresses(ours.hostname or "")):
        return
    if theirs.scheme != "https" or not all(address.is_global for address in found):
        raise Refused(f"{source} redirects to {target}; expected https and a public address")


def _is_loopback(addresses: list[_Address]) -> bool:
    return bool(addresses) and all(address.is_loopback for address in addresses)


def _addresses(host: str) -> list[_Address]:
    """The addresses of a host; none if it is not known."""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return []
    return [_inner(ipaddress.ip_address(str(address).partition("%")[0])) for address in found]


def _inner(address: _Address) -> _Address:
    """The IPv4 address that an IPv6 address stands for, if it does."""
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return getattr(address, "ipv4_mapped", None) or address
