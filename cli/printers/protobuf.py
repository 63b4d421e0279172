"""The answer as it came: the marshalled message, with no newline."""

from google.protobuf.message import Message

from pyetcd.cli.printers.base import About, Display, Named, TimeToLive
from pyetcd.proto import rpc_pb2 as rpc


def _message(display: Display, message: Message) -> None:
    display.terminal.write(message.SerializeToString())


def _about(display: Display, about: About[Message] | Named[Message]) -> None:
    _message(display, about.message)


def _header(
    display: Display,
    answer: rpc.LeaseGrantResponse | rpc.LeaseKeepAliveResponse | rpc.LeaseLeasesResponse,
) -> None:
    """clientv3's lease structs marshal as the header that they embed."""
    _message(display, answer.header)


def _time_to_live(display: Display, result: TimeToLive) -> None:
    _message(display, result.message.header)


def _revoke(display: Display, about: About[rpc.LeaseRevokeResponse]) -> None:
    header = about.message.header
    named = ("cluster_id", "member_id", "revision", "raft_term")
    text = "".join(f"{name}:{getattr(header, name)} " for name in named)
    raise display.terminal.fail(
        4, f"marshal unsupported for type clientv3.LeaseRevokeResponse ({{{text} {{}} [] 0}})"
    )


PRINTERS = {
    "put": _message,
    "get": _message,
    "delete": _message,
    "txn": _message,
    "watch": _message,
    "grant": _header,
    "revoke": _revoke,
    "keep_alive": _header,
    "time_to_live": _time_to_live,
    "leases": _header,
    "member_add": _about,
    "member_remove": _about,
    "member_update": _about,
    "member_list": _message,
    "alarm": _message,
    "move_leader": _about,
    "user_add": _about,
    "user_delete": _about,
    "user_get": _about,
    "user_passwd": _about,
    "user_grant_role": _about,
    "user_revoke_role": _about,
    "role_add": _about,
    "role_delete": _about,
    "role_get": _about,
    "role_grant_permission": _about,
    "role_revoke_permission": _about,
    "auth_status": _message,
    "downgrade": _about,
    "user_list": _message,
    "role_list": _message,
}
