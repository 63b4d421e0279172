"""Clients of the v2 API: HTTP requests, answered by the production handlers behind their router."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from sim.checkers import Operation, Violation, check_keys, check_poll
from sim.member import Process
from sim.v2_model import ROOT
from sim.workload import Client

from pyetcd.server.wire.exchange import HttpRequest, header_pairs

FILES = ("a", "b", "d/x", "d/y", "d/e/z", "d/_s", "_h", "a/under")
DIRS = ("", "d", "d/e", "q")
KINDS = {
    "set": 12, "create": 4, "update": 5, "swap": 6, "take": 4, "delete": 4, "delete_dir": 3,
    "make_dir": 3, "post": 4, "refresh": 4, "get": 8, "quorum_get": 6,
}  # fmt: skip


@dataclass
class Asked:
    method: str
    place: str
    fields: dict[str, str]

    @property
    def path(self) -> str:
        return f"{ROOT}/{self.place}".rstrip("/")

    @property
    def is_local(self) -> bool:
        return self.method == "GET" and "quorum" not in self.fields

    @property
    def recursive(self) -> bool:
        return "recursive" in self.fields

    @property
    def is_sorted(self) -> bool:
        return "sorted" in self.fields


class Responder:
    """The client's end of an HTTP answer, as HttpResponder is the server's."""

    buffered_bytes = 0

    def __init__(self, client: "V2Client", op: Operation, process: Process) -> None:
        self.on_close: Any = None
        self.on_drain: Any = None
        self._client, self._op, self._process = client, op, process
        self._is_answered = False
        self._started: tuple[int, Any] | None = None
        self._body = b""

    def start(self, status: int, headers: Any = ()) -> None:
        self._started = (status, headers)
        world = self._client.world
        world.clock.after(world.shape.client_timeout_s, self._leave)

    def write(self, chunk: bytes) -> None:
        if self._body and not self._is_answered:
            raise Violation("v2", f"{self._op} is told more than it asked for: {chunk!r}")
        self._body += chunk

    def end(self) -> None:
        assert self._started is not None
        if not self._is_answered:
            self.send(*self._started, self._body)

    def _leave(self) -> None:
        """The client has waited for long enough."""
        if self._is_answered or not self._process.loop.is_alive:
            return
        self._is_answered = True
        self._process.loop.call_soon(self.on_close)

    def send(self, status: int, headers: Any = (), body: bytes = b"") -> None:
        if self._is_answered:
            raise Violation("v2", f"{self._op} was answered twice")
        self._is_answered = True
        client, op, process = self._client, self._op, self._process
        client.note(op, process)
        answer = (status, dict(header_pairs(headers)), body)
        if process.loop.is_alive:
            client.world.clock.after(client.delay_s(), lambda: client.answered(op, answer, None))


class V2Client(Client):
    def __init__(self, world: Any, number: int) -> None:
        super().__init__(world, 0)
        self.name = f"v{number}"
        self.rng = world.rng_for(self.name)
        self.login = None
        self._kinds, self._weights = list(KINDS), list(KINDS.values())
        self._values: dict[str, tuple[str, int]] = {}  # by path: the value and index last seen

    def _serve(self, op: Operation, process: Process, response: Any) -> None:
        asked: Asked = op.request
        op.served_index = process.machine.applied_index
        target = "/v2/keys" + ("/" + quote(asked.place) if asked.place else "")
        form = urlencode(asked.fields)
        in_body = asked.method in ("PUT", "POST") and self.rng.random() < 0.5
        headers = {"content-type": "application/x-www-form-urlencoded"} if in_body else {}
        request = HttpRequest(
            asked.method, target if in_body or not form else f"{target}?{form}", headers, "sim"
        )
        request.body = form.encode() if in_body else b""

        def told(id: int) -> None:
            op.request_id = id

        process.tap.told = told
        try:
            process.http(request, Responder(self, op, process))  # type: ignore[arg-type]
        finally:
            process.tap.told = lambda id: None

    def answered(self, op: Operation, answer: Any, response: Any) -> None:
        world = self.world
        if op.began_s <= world.rebased_s:
            self._refused(op)
            return
        op.ended_s, op.answer = world.clock.now_s, answer
        found = check_keys(world.history, op)
        text = "v2" if found is not None else "v2: failed"
        self.answers[text] = self.answers.get(text, 0) + 1
        if found is not None and found[0] == "v2":
            self._learn_node(found[2])
        if op is self._current:
            self._current = None
            if found is None:
                self._at = self.rng.choice(list(world.members.values()))
            world.clock.after(self.think_s(), self.next)

    def _learn_node(self, shown: Any) -> None:
        key, value, _, _, modified, _, children = shown
        if value is not None:
            self._values[key.removeprefix("/")] = (value, modified)
        for child in children:
            self._learn_node(child)

    # Requests

    def _ask(self, method: str, place: str, **fields: str) -> tuple[str, Any, Any]:
        return "v2", Asked(method, place, fields), None

    def _text(self) -> str:
        self._sequence += 1
        return f"{self.name}-{self._sequence}"

    def _file(self) -> str:
        return self.rng.choice(FILES)

    def _ttl(self, chance: float) -> dict[str, str]:
        if self.rng.random() >= chance:
            return {}
        return {"ttl": self.rng.choice(("0", "1", "2", "5", "30"))}

    def _set(self) -> tuple[str, Any, Any]:
        return self._ask("PUT", self._file(), value=self._text(), **self._ttl(0.3))

    def _create(self) -> tuple[str, Any, Any]:
        fields = {"value": self._text(), "prevExist": "false", **self._ttl(0.2)}
        return self._ask("PUT", self._file(), **fields)

    def _update(self) -> tuple[str, Any, Any]:
        place = self.rng.choice((*FILES, "d"))
        fields = {"prevExist": "true", **self._ttl(0.3)}
        if self.rng.random() < 0.9:
            fields["value"] = self._text()
        return self._ask("PUT", place, **fields)

    def _seen_one(self) -> tuple[str, dict[str, str]]:
        place = self.rng.choice(sorted(self._values)) if self._values else self._file()
        value, index = self._values.get(place, ("none", 7))
        fields = {}
        if self.rng.random() < 0.6:
            fields["prevValue"] = value or "none"
        if not fields or self.rng.random() < 0.4:
            fields["prevIndex"] = str(index)
        return place, fields

    def _swap(self) -> tuple[str, Any, Any]:
        place, fields = self._seen_one()
        return self._ask("PUT", place, value=self._text(), **fields, **self._ttl(0.2))

    def _take(self) -> tuple[str, Any, Any]:
        place, fields = self._seen_one()
        return self._ask("DELETE", place, **fields)

    def _delete(self) -> tuple[str, Any, Any]:
        return self._ask("DELETE", self.rng.choice((*FILES, *DIRS)))

    def _delete_dir(self) -> tuple[str, Any, Any]:
        fields = {self.rng.choice(("dir", "recursive")): "true"}
        return self._ask("DELETE", self.rng.choice(DIRS), **fields)

    def _make_dir(self) -> tuple[str, Any, Any]:
        place = self.rng.choice((*DIRS, "a"))
        return self._ask("PUT", place, dir="true", **self._ttl(0.4))

    def _post(self) -> tuple[str, Any, Any]:
        place = self.rng.choice(("q", "q", "q", "a", ""))
        return self._ask("POST", place, value=self._text(), **self._ttl(0.5))

    def _refresh(self) -> tuple[str, Any, Any]:
        fields = {"refresh": "true", **self._ttl(1.0)}
        if self.rng.random() < 0.7:
            fields["prevExist"] = "true"
        return self._ask("PUT", self._file(), **fields)

    def _get(self) -> tuple[str, Any, Any]:
        fields = {}
        if self.rng.random() < 0.5:
            fields["recursive"] = "true"
        if self.rng.random() < 0.3:
            fields["sorted"] = "true"
        return self._ask("GET", self.rng.choice((*FILES, *DIRS)), **fields)

    def _quorum_get(self) -> tuple[str, Any, Any]:
        name, asked, response = self._get()
        asked.fields["quorum"] = "true"
        return name, asked, response


class V2Watcher(V2Client):
    """Waits for one event after the other, at whichever member."""

    def __init__(self, world: Any, number: int) -> None:
        super().__init__(world, number)
        self.name = f"p{number}"
        self.rng = world.rng_for(self.name)
        self._kinds, self._weights = ["wait"], [1]
        self._place = self.rng.choice(("a", "b", "d/x", "d", "d/e", "q", ""))
        self._fields = {"wait": "true"}
        if self.rng.random() < 0.6:
            self._fields["recursive"] = "true"
        self._next_index = 0

    def think_s(self) -> float:
        return self.rng.random() * 0.1

    def _wait(self) -> tuple[str, Any, Any]:
        fields = dict(self._fields)
        if self._next_index and self.rng.random() < 0.9:
            fields["waitIndex"] = str(self._next_index)
        return self._ask("GET", self._place, **fields)

    def answered(self, op: Operation, answer: Any, response: Any) -> None:
        world = self.world
        if op.began_s > world.rebased_s:
            op.answer = answer
            found = check_poll(world.history, op)
            self._next_index = found + 1 if found else 0
            self.answers["v2 wait"] = self.answers.get("v2 wait", 0) + 1
            if op is self._current:
                self._current = None
                world.clock.after(self.think_s(), self.next)
        else:
            self._refused(op)
