"""The members of the cluster and whether they are well."""

import json
import posixpath
import time
from typing import Final

from pyetcd.cli import gourl
from pyetcd.cli.ctl2 import gojson
from pyetcd.cli.ctl2.action import JSON, Action
from pyetcd.cli.ctl2.cluster import Cluster, connect, connect_unsynced, exchanger_of, failed
from pyetcd.cli.ctl2.context import NOT_HEALTHY, SERVER_ERROR, Context
from pyetcd.cli.ctl2.exchange import Exchanger
from pyetcd.cli.ctl2.failure import NEVER, Deadline, Failure
from pyetcd.cli.ctl2.gojson import BadJSON
from pyetcd.cli.ctl2.http1 import (
    CONFLICT,
    CREATED,
    GONE,
    NO_CONTENT,
    NOT_FOUND,
    OK,
    Answer,
    Request,
)
from pyetcd.cli.ctl2.member_list import LIST, Member, expect, read_member, read_members
from pyetcd.cli.gotext import quote
from pyetcd.cli.gourl import BadURL
from pyetcd.cli.terminal import ERROR, Exit

CHECK_EVERY_S: Final = 10
_MEMBERS: Final = "/v2/members"
_REMOVE_PAGE: Final = (
    "https://github.com/etcd-io/etcd/blob/main/Documentation/"
    "runtime-configuration.md#remove-a-member"
)


def list_members(context: Context) -> None:
    """`member list`"""
    if context.args:
        raise context.fatal("No arguments accepted")
    cluster = connect(context)
    deadline = cluster.deadline()
    members = _list(context, cluster, deadline)
    try:
        answer = cluster.do(Action("GET", f"{_MEMBERS}/leader"), deadline)
        expect(answer, OK)
        leader = read_member(answer)
    except Failure as failure:
        raise context.fatal(f"Failed to get leader:  {failure}") from None
    for member in members:
        peers, clients = ",".join(member.peer_urls), ",".join(member.client_urls)
        if not member.name:
            context.print(f"{member.id}[unstarted]: peerURLs={peers}")
            continue
        leads = "true" if member.id == leader.id else "false"
        context.print(
            f"{member.id}: name={member.name} peerURLs={peers} clientURLs={clients}"
            f" isLeader={leads}"
        )


def add(context: Context) -> None:
    """`member add <name> <peerURL>`"""
    if len(context.args) != 2:
        raise context.fatal("Provide a name and a single member peerURL")
    cluster = connect(context)
    name, url = context.args
    deadline = cluster.deadline()
    try:
        action = Action("POST", _MEMBERS, headers=JSON, body=_peer_urls([url]))
        answer = cluster.do(action, deadline)
        expect(answer, CREATED, CONFLICT)
        if answer.status == CONFLICT:
            raise Failure(_message(answer))
        added = read_member(answer)
    except (BadURL, Failure) as failure:
        raise context.fatal(str(failure)) from None
    context.print(f"Added member named {name} with ID {added.id} to cluster")
    members = _list(context, cluster, deadline)
    together = ",".join(
        f"{name if member.id == added.id else member.name}={peer}"
        for member in members
        for peer in member.peer_urls
    )
    context.print(f"\nETCD_NAME={_quoted(name)}")
    context.print(f"ETCD_INITIAL_CLUSTER={_quoted(together)}")
    context.print('ETCD_INITIAL_CLUSTER_STATE="existing"')


def remove(context: Context) -> None:
    """`member remove <memberID>`"""
    if len(context.args) != 1:
        raise context.fatal("Provide a single member ID")
    cluster = connect(context)
    wanted = context.args[0]
    deadline = cluster.deadline()
    verifying = "Error while verifying ID against known members: "
    members = _list(context, cluster, deadline, front=verifying)
    for member in members:
        if member.name == wanted:
            context.warn(
                f"Found a member named {member.name}; if this is correct, please use its ID, eg:\n"
                f"\tetcdctl member remove {member.id}\n"
                f"For more details, read the documentation at {_REMOVE_PAGE}\n"
            )
    if all(member.id != wanted for member in members):
        raise context.fatal(f"Couldn't find a member in the cluster with an ID of {wanted}.")
    try:
        answer = cluster.do(Action("DELETE", _path(wanted)), deadline)
        expect(answer, NO_CONTENT, GONE)
    except Failure as failure:
        context.say(f"Received an error trying to remove member {wanted}: {failure}")
        raise Exit(ERROR) from None
    context.print(f"Removed member {wanted} from cluster")


def update(context: Context) -> None:
    """`member update <memberID> <peerURLs>`"""
    if len(context.args) != 2:
        raise context.fatal(
            "Provide an ID and a list of comma separated peerURL"
            " (0xabcd http://example.com,http://example1.com)"
        )
    cluster = connect(context)
    wanted, urls = context.args
    try:
        body = _peer_urls(urls.split(","))
        answer = cluster.do(
            Action("PUT", _path(wanted), headers=JSON, body=body), cluster.deadline()
        )
        expect(answer, NO_CONTENT, NOT_FOUND, CONFLICT)
        if answer.status != NO_CONTENT:
            raise Failure(_message(answer))
    except (BadURL, Failure) as failure:
        raise context.fatal(str(failure)) from None
    context.print(f"Updated member with ID {wanted} in cluster")


def _list(
    context: Context, cluster: Cluster, deadline: Deadline, *, front: str = ""
) -> list[Member]:
    try:
        return read_members(cluster.do(LIST, deadline))
    except Failure as failure:
        raise context.fatal(f"{front}{failure}") from None


def _path(member: str) -> str:
    return posixpath.normpath(f"{_MEMBERS}/{member}") if member else _MEMBERS


def _peer_urls(texts: list[str]) -> bytes:
    """Raises BadURL."""
    urls = ",".join(gojson.dumps(url) for url in gourl.member_urls(texts))
    return f'{{"peerURLs":[{urls}]}}'.encode("utf-8", "surrogateescape")


def _message(answer: Answer) -> str:
    """Raises Failure."""
    try:
        return str(gojson.fields(answer.body).get("message", ""))
    except BadJSON as failure:
        raise Failure(str(failure)) from None


def _quoted(text: str) -> str:
    return quote(text.encode("utf-8", "surrogateescape"))


def cluster_health(context: Context) -> None:
    """`cluster-health`"""
    if not context.flags.boolean("forever"):
        return _check(context)
    with context.ended_by_interrupt():
        return _check(context)


def _check(context: Context) -> None:
    try:
        exchanger = exchanger_of(context)
    except Failure as failure:
        raise failed(context, failure) from None
    cluster = connect_unsynced(context)
    try:
        members = read_members(cluster.do(LIST, NEVER))
    except Failure as failure:
        context.print("cluster may be unhealthy: failed to list members")
        raise failed(context, failure, SERVER_ERROR) from None
    while True:
        healthy = sum(_is_healthy(context, exchanger, member) for member in members)
        if healthy == len(members):
            context.print("cluster is healthy")
        else:
            context.print(f"cluster is {'degraded' if healthy else 'unavailable'}")
        if not context.flags.boolean("forever"):
            if healthy != len(members):
                raise Exit(NOT_HEALTHY)
            return
        context.print(f"\nnext check after {CHECK_EVERY_S} second...\n")
        context.flush()
        time.sleep(CHECK_EVERY_S)


def _is_healthy(context: Context, exchanger: Exchanger, member: Member) -> bool:
    if not member.client_urls:
        context.print(f"member {member.id} is unreachable: no available published client urls")
        return False
    for url in member.client_urls:
        try:
            healthy = _ask_health(exchanger, f"{url}/health")
        except (BadURL, BadJSON, Failure) as failure:
            context.print(f"failed to check the health of member {member.id} on {url}: {failure}")
            continue
        state = "healthy" if healthy else "unhealthy"
        context.print(f"member {member.id} is {state}: got {state} result from {url}")
        return healthy
    urls = " ".join(member.client_urls)
    context.print(f"member {member.id} is unreachable: [{urls}] are all unreachable")
    return False


def _ask_health(exchanger: Exchanger, text: str) -> bool:
    """Raises BadURL, BadJSON and Failure."""
    try:
        answer = exchanger.send(Request("GET", gourl.parse(text), {}), NEVER, waits=True)
    except Failure as failure:
        raise Failure(f"Get {json.dumps(text)}: {failure}") from None
    found = gojson.fields(answer.body)
    health = next((value for name, value in found.items() if name.lower() == "health"), "")
    return health in ("true", True)
