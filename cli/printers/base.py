"""Printers: one module per format, in each a table `PRINTERS` from kind of result to function.

A command shows a result; it never prints. In the place of the simple format a person on a terminal
gets pretty.py's. A format that has no function for a kind answers as
etcd's does: the request has been executed, then `Error: table not supported as output format`.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from google.protobuf.message import Message

from pyetcd.cli.terminal import Terminal
from pyetcd.proto import rpc_pb2 as rpc

M = TypeVar("M", bound=Message)


class About(NamedTuple, Generic[M]):
    """An answer about something that only the request named: a lease, a member, a leader."""

    id: int
    message: M
    target: int = 0


class Named(NamedTuple, Generic[M]):
    """An answer about users and roles that only the request named."""

    names: tuple[str, ...]
    message: M


class Revoked(NamedTuple):
    """A permission that a role lost; `key` as it was typed."""

    role: str
    key: bytes
    range_end: bytes
    message: rpc.AuthRoleRevokePermissionResponse


class TimeToLive(NamedTuple):
    """`keys`: whether the keys were asked for."""

    message: rpc.LeaseTimeToLiveResponse
    keys: bool


class At(NamedTuple, Generic[M]):
    """What one endpoint answered."""

    endpoint: str
    message: M


class Health(NamedTuple):
    """Whether one endpoint is well."""

    endpoint: str
    healthy: bool
    took: str
    error: str


class SnapshotStatus(NamedTuple):
    """What a snapshot holds."""

    hash: int
    revision: int
    keys: int
    size_bytes: int


class SnapshotHash(NamedTuple):
    """HashKV of a file."""

    hash: int
    revision: int
    compact_revision: int


class Display:
    """Shows results in one format."""

    def __init__(self, format: str, terminal: Terminal, *, hexadecimal: bool) -> None:
        self.format = format
        self.terminal = terminal
        self.hexadecimal = hexadecimal
        self.value_only = False
        self.decodes = False  # json and yaml: bytes as text, JSON values as JSON
        self.keys_only = False  # the values that are empty have not been asked for
        # The environment of the person who looks; None when a program does.
        self.person: Mapping[str, str] | None = None

    def show(self, kind: str, result: Any) -> None:
        """Prints a result; exits when the format cannot."""
        if self.person is not None and self.format == "simple" and not self.value_only:
            pretty = importlib.import_module("pyetcd.cli.printers.pretty").PRINTERS
            if kind in pretty:
                pretty[kind](self, result)
                return
        module = importlib.import_module(f"pyetcd.cli.printers.{self.format}")
        table: dict[str, Callable[[Display, Any], None]] = module.PRINTERS
        if kind not in table:
            raise self.terminal.fail(4, f"{self.format} not supported as output format")
        table[kind](self, result)


def member_rows(message: rpc.MemberListResponse) -> list[list[str]]:
    """The cells of `member list`."""
    return [
        [
            f"{member.ID:x}",
            "started" if member.name else "unstarted",
            member.name,
            ",".join(member.peerURLs),
            ",".join(member.clientURLs),
            "true" if member.isLearner else "false",
        ]
        for member in message.members
    ]


def status_rows(answers: list[At[rpc.StatusResponse]]) -> list[list[str]]:
    """The cells of `endpoint status`."""
    from pyetcd.cli.gotext import human_bytes

    rows = []
    for answer in answers:
        status = answer.message
        leads = status.leader == status.header.member_id
        rows.append(
            [
                answer.endpoint,
                f"{status.header.member_id:x}",
                status.version,
                human_bytes(status.dbSize),
                "true" if leads else "false",
                "true" if status.isLearner else "false",
                str(status.raftTerm),
                str(status.raftIndex),
                str(status.raftAppliedIndex),
                ", ".join(status.errors),
            ]
        )
    return rows


def hash_rows(answers: list[At[rpc.HashKVResponse]]) -> list[list[str]]:
    """The cells of `endpoint hashkv`."""
    return [[answer.endpoint, str(answer.message.hash)] for answer in answers]


def snapshot_cells(status: SnapshotStatus) -> list[str]:
    """The cells of `snapshot status`."""
    from pyetcd.cli.gotext import human_bytes

    size = human_bytes(status.size_bytes)
    return [f"{status.hash:x}", str(status.revision), str(status.keys), size]


def snapshot_hash_cells(found: SnapshotHash) -> list[str]:
    """The cells of `hashkv`."""
    return [str(found.hash), str(found.revision), str(found.compact_revision)]
