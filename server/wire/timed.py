"""Calls whose handling time is written down: --metrics=extensive.

The time is that between the start of the handler and its answer, as grpc_prometheus takes it. A
call that is reset ends then. The other calls know nothing of this: they are not slowed down.
"""

from pyetcd.server.wire.call import ANSWERED, RUNNING, Call
from pyetcd.server.wire.stream import ServerStream
from pyetcd.server.wire.unary import UnaryCall


class TimedUnaryCall(UnaryCall):
    __slots__ = ("_began_s",)
    _began_s: float

    def run(self, message: bytes) -> None:
        self._began_s = _now_s(self)
        super().run(message)

    def reply(self, payload: bytes) -> None:
        was = self._stage
        super().reply(payload)
        if was == RUNNING:
            self._began_s = _ended(self, self._began_s)

    def fail(self, code: int, text: str) -> None:
        was = self._stage
        super().fail(code, text)
        if was == RUNNING:
            self._began_s = _ended(self, self._began_s)

    def on_reset(self, code: int) -> None:
        was = self._stage
        super().on_reset(code)
        if was == RUNNING:
            self._began_s = _ended(self, self._began_s)


class TimedServerStream(ServerStream):
    __slots__ = ("_began_s",)
    _began_s: float

    def on_begun(self) -> None:
        self._began_s = _now_s(self)
        super().on_begun()

    def finish(self) -> None:
        was = self._stage
        super().finish()
        if was == RUNNING:
            self._began_s = _ended(self, self._began_s)

    def fail(self, code: int, text: str) -> None:
        was = self._stage
        super().fail(code, text)
        if was == RUNNING:
            self._began_s = _ended(self, self._began_s)

    def on_reset(self, code: int) -> None:
        was = self._stage
        super().on_reset(code)
        if was == RUNNING:
            self._began_s = _ended(self, self._began_s)


def _now_s(call: Call) -> float:
    lender = call.head.lender
    assert lender is not None and lender.timer is not None
    return lender.timer()


def _ended(call: Call, began_s: float) -> float:
    """Once: when the call has left the stage in which its handler ran. A reply may fail inside."""
    if call._stage < ANSWERED or began_s < 0:
        return began_s
    call.head.counters.took(_now_s(call) - began_s)
    return -1.0
