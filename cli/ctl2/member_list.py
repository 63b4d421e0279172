"""The members of a cluster as /v2/members lists them."""

from dataclasses import dataclass
from typing import Any, Final

from pyetcd.cli.ctl2 import gojson
from pyetcd.cli.ctl2.action import Action
from pyetcd.cli.ctl2.failure import Failure
from pyetcd.cli.ctl2.gojson import BadJSON
from pyetcd.cli.ctl2.http1 import OK, Answer

LIST: Final = Action("GET", "/v2/members")


@dataclass(frozen=True, slots=True)
class Member:
    """One member. `id` is hexadecimal."""

    id: str
    name: str
    peer_urls: list[str]
    client_urls: list[str]


def expect(answer: Answer, *statuses: int) -> None:
    """Raises Failure for any other status."""
    if answer.status not in statuses:
        raise Failure(f"unexpected status code {answer.status}")


def read_members(answer: Answer) -> list[Member]:
    """The members of an answer to LIST; raises Failure."""
    expect(answer, OK)
    try:
        rows = gojson.fields(answer.body).get("members") or []
        return [_member(row) for row in rows]
    except (BadJSON, TypeError, AttributeError) as failure:
        raise Failure(str(failure)) from None


def read_member(answer: Answer) -> Member:
    """The member of an answer; raises Failure."""
    try:
        return _member(gojson.fields(answer.body))
    except (BadJSON, TypeError) as failure:
        raise Failure(str(failure)) from None


def _member(row: dict[str, Any]) -> Member:
    urls = [list(map(str, row.get(name) or [])) for name in ("peerURLs", "clientURLs")]
    return Member(str(row.get("id", "")), str(row.get("name", "")), *urls)
