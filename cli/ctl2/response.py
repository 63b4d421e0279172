"""What the keys API answers, and how --output shows it."""

from dataclasses import dataclass
from typing import Any

from pyetcd.cli.ctl2 import gojson
from pyetcd.cli.ctl2.context import Context
from pyetcd.cli.ctl2.failure import Failure
from pyetcd.cli.ctl2.gojson import BadJSON
from pyetcd.cli.ctl2.http1 import CREATED, OK, Answer
from pyetcd.cli.gotext import ParseFailure, parse_int

_NOT_ETCD = (
    "client: response is invalid json. The endpoint is probably not valid etcd cluster endpoint"
)


class EmptyBody(Failure):
    """A server that went away while a watch waited."""

    def __init__(self) -> None:
        super().__init__("client: response body is empty")


@dataclass(frozen=True, slots=True)
class Node:
    """A key or a directory. `nodes` is None where the answer has none."""

    key: str
    is_dir: bool
    value: str
    nodes: "list[Node] | None"
    created_index: int
    modified_index: int
    expiration: str
    ttl: int

    def json(self) -> str:
        """As etcdctl prints it: not all empty fields are left out."""
        below = "null"
        if self.nodes is not None:
            below = "[" + ",".join(node.json() for node in self.nodes) + "]"
        parts = [f'"key":{gojson.dumps(self.key)}']
        if self.is_dir:
            parts.append('"dir":true')
        parts.append(f'"value":{gojson.dumps(self.value)}')
        parts.append(f'"nodes":{below}')
        parts.append(f'"createdIndex":{self.created_index}')
        parts.append(f'"modifiedIndex":{self.modified_index}')
        if self.expiration:
            parts.append(f'"expiration":{gojson.dumps(self.expiration)}')
        if self.ttl:
            parts.append(f'"ttl":{self.ttl}')
        return "{" + ",".join(parts) + "}"


@dataclass(frozen=True, slots=True)
class Response:
    """One event. `index` is the store's when it was answered."""

    action: str
    node: Node
    previous: Node | None
    index: int

    def json(self) -> str:
        """One line."""
        previous = self.previous.json() if self.previous else "null"
        action = gojson.dumps(self.action)
        return f'{{"action":{action},"node":{self.node.json()},"prevNode":{previous}}}'


def read_response(answer: Answer) -> Response:
    """Raises Failure: the server's refusal, or an answer that is no etcd's."""
    if answer.status not in (OK, CREATED):
        raise Failure(_refusal(answer.body))
    if not answer.body:
        raise EmptyBody
    try:
        found = gojson.fields(answer.body)
        previous = found.get("prevNode")
        return Response(
            str(found.get("action", "")),
            _node(found["node"]),
            None if previous is None else _node(previous),
            _index(answer),
        )
    except (BadJSON, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise Failure(_NOT_ETCD) from None


def _index(answer: Answer) -> int:
    text = answer.headers.get("x-etcd-index")
    try:
        return parse_int(text, 10, signed=False) if text else 0
    except ParseFailure as failure:
        raise Failure(str(failure)) from None


def _refusal(body: bytes) -> str:
    try:
        found = gojson.fields(body)
    except BadJSON:
        return _NOT_ETCD
    code, message = found.get("errorCode", 0), found.get("message", "")
    return f"{code}: {message} ({found.get('cause', '')}) [{found.get('index', 0)}]"


def _node(row: dict[str, Any]) -> Node:
    below = row.get("nodes")
    return Node(
        str(row.get("key", "")),
        bool(row.get("dir", False)),
        str(row.get("value", "")),
        None if below is None else [_node(child) for child in below],
        int(row.get("createdIndex", 0)),
        int(row.get("modifiedIndex", 0)),
        str(row.get("expiration") or ""),
        int(row.get("ttl", 0)),
    )


def show(context: Context, response: Response) -> None:
    """Prints a response in the format of --output."""
    output = context.output
    if output == "json":
        context.print(response.json())
    elif output == "extended":
        _show_extended(context, response)
    elif output != "simple":
        context.warn(f"Unsupported output format: {output}")
    elif response.action == "delete":
        context.print(f"PrevNode.Value: {response.previous.value if response.previous else ''}")
    else:
        context.print(response.node.value)


def _show_extended(context: Context, response: Response) -> None:
    node = response.node
    context.print(f"Key: {node.key}")
    context.print(f"Created-Index: {node.created_index}")
    context.print(f"Modified-Index: {node.modified_index}")
    if response.previous is not None:
        context.print(f"PrevNode.Value: {response.previous.value}")
    context.print(f"TTL: {node.ttl}")
    context.print(f"Index: {response.index}")
    if response.action != "delete":
        context.print(f"\n{node.value}")
