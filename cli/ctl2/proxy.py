"""HTTP_PROXY, HTTPS_PROXY and NO_PROXY, as Go's net/http and golang.org/x/net/http/httpproxy read
them: a server on this host is never asked through a proxy."""

import ipaddress
from collections.abc import Mapping

from pyetcd.cli import gourl
from pyetcd.cli.ctl2.failure import Failure
from pyetcd.cli.gourl import URL, BadURL


def proxy_of(url: URL, env: Mapping[str, str]) -> URL | None:
    """The proxy for a URL; raises Failure when its address cannot be read."""
    if url.scheme not in ("http", "https"):
        return None
    name = f"{url.scheme}_proxy"
    if url.scheme == "http" and env.get("REQUEST_METHOD"):
        return None  # a CGI script: HTTP_PROXY is a header of its client
    given = env.get(name.upper()) or env.get(name) or ""
    if not given or not _is_proxied(url, env.get("NO_PROXY") or env.get("no_proxy") or ""):
        return None
    try:
        proxy = gourl.parse(given)
    except BadURL:
        proxy = URL()
    if proxy.scheme not in ("http", "https", "socks5"):
        try:
            proxy = gourl.parse("http://" + given)
        except BadURL as mistake:
            raise Failure(f'invalid proxy address "{given}": {mistake}') from None
    if proxy.scheme != "http":
        raise Failure(f"a proxy of {proxy.scheme} is not supported by pyetcd")
    return proxy


def _is_proxied(url: URL, exceptions: str) -> bool:
    host = url.hostname.lower().rstrip(".")
    if host == "localhost":
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if address is not None and address.is_loopback:
        return False
    return not any(
        _matches(each.strip().lower(), host, url.port, address) for each in exceptions.split(",")
    )


def _matches(
    rule: str,
    host: str,
    port: int,
    address: ipaddress.IPv4Address | ipaddress.IPv6Address | None,
) -> bool:
    if not rule:
        return False
    if rule == "*":
        return True
    if "/" in rule:
        try:
            return address is not None and address in ipaddress.ip_network(rule, strict=False)
        except ValueError:
            return False
    name, colon, number = rule.rpartition(":")
    if colon and number.isdecimal() and (":" not in name or name.startswith("[")):
        if int(number) != port:
            return False
        rule = name.strip("[]")
    if rule.startswith("*."):
        rule = rule[1:]
    if address is not None:
        return rule == host
    return (
        host.endswith(rule) if rule.startswith(".") else host == rule or host.endswith(f".{rule}")
    )
