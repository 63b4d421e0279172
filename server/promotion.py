"""Promoting a learner through a member that does not lead: only the leader knows how far it is.

The leader is asked over its peer port, POST /members/promote/<id>, as etcd's members ask each other
(etcdserver/cluster_util.go: promoteMemberHTTP), again and again until the request timeout: only
what it says about the learner is an answer. That it leads no more, for one, is none.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from pyetcd.proto.errors import (
    EtcdError,
    LearnerNotReady,
    MemberNotFound,
    MemberNotLearner,
    NoLeader,
    Timeout,
)
from pyetcd.server.peer.client import HttpClient, Response, Unreachable
from pyetcd.server.peer.survey import parse_member_list
from pyetcd.store.members import Member

PATH: Final = "/members/promote/"
PAUSE_S: Final = 0.1
# etcd's own words of what the three status codes mean; a client of it looks for them.
ID_NOT_FOUND: Final = "membership: ID not found"
NOT_LEARNER: Final = "membership: can only promote a learner member"

Done = Callable[[Sequence[Member] | EtcdError], None]


class Promotion:
    """Asks the leader. Bound: one task per call under way, which the listener bounds."""

    def __init__(
        self,
        client: HttpClient,
        leader_peer_urls: Callable[[], Sequence[str]],
        *,
        loop: asyncio.AbstractEventLoop,
        timeout_s: float,
    ) -> None:
        self._client = client
        self._leader_peer_urls = leader_peer_urls
        self._loop = loop
        self._timeout_s = timeout_s
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(self, id: int, done: Done) -> None:
        task = self._loop.create_task(self._answer(id, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, id: int, done: Done) -> None:
        try:
            found = await self._ask(id)
        except EtcdError as error:
            done(error)
        else:
            done(found)

    async def _ask(self, id: int) -> Sequence[Member]:
        deadline_s = self._loop.time() + self._timeout_s
        while (left_s := deadline_s - self._loop.time()) > 0:
            for url in self._leader_peer_urls():
                try:
                    answer = await self._client.request(
                        "POST", url, f"{PATH}{id}", headers={}, timeout_s=left_s
                    )
                except (Unreachable, OSError):
                    continue
                found = _read(answer)
                if found is not None:
                    return found
            await asyncio.sleep(PAUSE_S)
        raise Timeout if self._leader_peer_urls() else NoLeader


def _read(answer: Response) -> Sequence[Member] | None:
    """None for anything that is no answer to the question."""
    text = answer.body.decode("utf-8", "replace").strip()
    if answer.status == 200:
        try:
            return parse_member_list(answer.body)
        except ValueError:
            return None
    if answer.status == 404:
        raise MemberNotFound
    if answer.status == 412 and LearnerNotReady.text in text:
        raise LearnerNotReady
    if answer.status == 412 and NOT_LEARNER in text:
        raise MemberNotLearner
    return None
