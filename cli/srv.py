"""--discovery-srv: the endpoints that DNS names for a domain.

One question over UDP to each name server of the machine in turn, as RFC 1035 and 2782 have it.
Limits: an answer that does not fit into a datagram is taken as far as it came; records are tried in
the order of their priority, and their weights are not looked at, since requests go to all of them.
"""

import os
import socket
import struct
from dataclasses import dataclass
from typing import Final

RESOLV_CONF: Final = "/etc/resolv.conf"
PORT: Final = 53
TRIES, TRY_S = 2, 2.0  # for each name server
ANSWER_BYTES_MAX: Final = 4096
_SRV, _IN = 33, 1
_POINTER, _JUMPS_MAX = 0xC0, 32


class LookupFailure(Exception):
    """A name that has no records, or nobody who says so; the text is Go's."""


@dataclass(frozen=True, slots=True)
class Record:
    """One SRV record."""

    priority: int
    weight: int
    port: int
    target: str


def endpoints(domain: str, service_name: str, servers: list[tuple[str, int]]) -> list[str]:
    """https:// for the records of the service with TLS, then http:// for those without; raises
    LookupFailure when there are neither."""
    suffix = f"-{service_name}" if service_name else ""
    found: list[str] = []
    failures = []
    for scheme, service in (("https", "etcd-client-ssl"), ("http", "etcd-client")):
        try:
            records = lookup(f"_{service}{suffix}._tcp.{domain}", servers)
        except LookupFailure as failure:
            failures.append(str(failure))
            continue
        found += [f"{scheme}://{record.target}:{record.port}" for record in records]
    if len(failures) == 2:
        raise LookupFailure(f"dns lookup errors: {failures[0]} and {failures[1]}")
    return found


def name_servers(path: str = RESOLV_CONF) -> list[tuple[str, int]]:
    """Those of the machine."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            words = [line.split() for line in file]
    except OSError:
        words = []
    found = [(row[1], PORT) for row in words if len(row) > 1 and row[0] == "nameserver"]
    return found or [("127.0.0.1", PORT)]


def lookup(name: str, servers: list[tuple[str, int]]) -> list[Record]:
    """The SRV records of a name; raises LookupFailure."""
    reason = "no such host"
    host, port = servers[0]
    for _ in range(TRIES):
        for host, port in servers:
            try:
                records = _ask(name, host, port)
            except TimeoutError:
                reason = "i/o timeout"
                continue
            except (OSError, ValueError, IndexError, struct.error) as failure:
                reason = _reason(failure)
                continue
            if records:
                return sorted(records, key=lambda record: record.priority)
            raise LookupFailure(f"lookup {name} on {host}:{port}: no such host")
    raise LookupFailure(f"lookup {name} on {host}:{port}: {reason}")


def _reason(failure: Exception) -> str:
    if isinstance(failure, OSError) and failure.errno:
        return os.strerror(failure.errno).lower()
    return "cannot unmarshal DNS message"


def _ask(name: str, host: str, port: int) -> list[Record]:
    labels = [label.encode("idna") for label in name.rstrip(".").split(".")]
    if not all(0 < len(label) < 64 for label in labels):
        return []
    number = int.from_bytes(os.urandom(2), "big")
    question = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    question += struct.pack(">HH", _SRV, _IN)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as channel:
        channel.settimeout(TRY_S)
        channel.connect((host, port))
        channel.send(struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 0) + question)
        while True:
            answer = channel.recv(ANSWER_BYTES_MAX)
            if answer[:2] == number.to_bytes(2, "big"):
                return _records(answer)


def _records(answer: bytes) -> list[Record]:
    _, _, questions, count, _, _ = struct.unpack_from(">HHHHHH", answer)
    at = 12
    for _ in range(questions):
        at = _name(answer, at)[1] + 4
    found = []
    for _ in range(count):
        at = _name(answer, at)[1]
        kind, _, _, length = struct.unpack_from(">HHIH", answer, at)
        at += 10
        if kind == _SRV:
            priority, weight, port = struct.unpack_from(">HHH", answer, at)
            found.append(Record(priority, weight, port, _name(answer, at + 6)[0]))
        at += length
    return found


def _name(answer: bytes, at: int) -> tuple[str, int]:
    """A name, which may go on elsewhere, and where what follows it begins."""
    labels: list[str] = []
    end = 0
    for _ in range(_JUMPS_MAX * 8):
        length = answer[at]
        if length >= _POINTER:
            end = end or at + 2
            at = (length & ~_POINTER) << 8 | answer[at + 1]
        elif length == 0:
            return ".".join(labels), end or at + 1
        else:
            labels.append(answer[at + 1 : at + 1 + length].decode("ascii"))
            at += 1 + length
    raise ValueError("a name without an end")
