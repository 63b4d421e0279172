"""A promotion through a member that does not lead: what counts, and what is asked again."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pyetcd.proto import errors
from pyetcd.server import promotion
from pyetcd.server.peer.client import Response, Unreachable

LIST = b'[{"id":5,"peerURLs":["http://a:1"],"name":"a"}]'
NOT_READY = errors.LearnerNotReady.text.encode()


class Peers:
    """Answers in order; the last one again and again. `urls` may change with each."""

    def __init__(self, *answers: tuple[int, bytes] | None) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str]] = []
        self.urls: Sequence[str] = ("http://a:1",)
        self.then: Callable[[], None] = lambda: None

    async def request(self, method: str, url: str, path: str, **more: Any) -> Response:
        self.asked.append((url, path))
        self.then()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            raise Unreachable("refused")
        return Response(answer[0], {}, answer[1])


def ask(peers: Peers, monkeypatch: pytest.MonkeyPatch, timeout_s: float = 0.05) -> Any:
    monkeypatch.setattr(promotion, "PAUSE_S", 0.001)

    async def test() -> Any:
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Any] = loop.create_future()
        asker = promotion.Promotion(
            peers,  # type: ignore[arg-type]
            lambda: peers.urls,
            loop=loop,
            timeout_s=timeout_s,
        )
        asker.ask(5, found.set_result)
        return await found

    return asyncio.run(test())


def test_the_leader_promotes(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = Peers((200, LIST))
    (member,) = ask(peers, monkeypatch)
    assert member.id == 5 and peers.asked == [("http://a:1", "/members/promote/5")]


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (404, b"membership: ID not found", errors.MemberNotFound),
        (412, NOT_READY, errors.LearnerNotReady),
        (412, promotion.NOT_LEARNER.encode(), errors.MemberNotLearner),
    ],
)
def test_the_leader_refuses(
    status: int, body: bytes, error: type[errors.EtcdError], monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = Peers((status, body), (200, LIST))
    assert isinstance(ask(peers, monkeypatch), error)
    assert len(peers.asked) == 1


@pytest.mark.parametrize(
    "answer",
    [
        None,
        (408, b"etcdserver: request timed out"),
        (500, b"etcdserver: not leader"),
        (503, b""),
        (412, b"something else"),
        (200, b"no list"),
        (200, b"{}"),
    ],
    ids=str,
)
def test_anything_else_is_asked_again(
    answer: tuple[int, bytes] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the leader moves while it is asked: a client must not hear of that."""
    peers = Peers(answer, answer, (200, LIST))
    (member,) = ask(peers, monkeypatch, timeout_s=5.0)
    assert member.id == 5 and len(peers.asked) == 3
    assert isinstance(ask(Peers(answer), monkeypatch), errors.Timeout)


def test_without_a_leader_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = Peers(None)
    peers.urls = ()
    assert isinstance(ask(peers, monkeypatch), errors.NoLeader)
    peers.urls = ("http://a:1",)
    peers.then = lambda: setattr(peers, "urls", ())
    assert isinstance(ask(peers, monkeypatch), errors.NoLeader)
