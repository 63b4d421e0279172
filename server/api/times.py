"""pyetcdpb.Times: which revision was the last one at a time, by what this member noted down."""

from pyetcd.proto.times_pb2 import RevisionAtRequest, RevisionAtResponse
from pyetcd.server.api.base import Headers
from pyetcd.server.wire.grpc import UnaryCall
from pyetcd.store.times import Times


class TimesApi:
    """A member answers for itself, also without a leader and as a learner."""

    def __init__(self, *, headers: Headers, times: Times) -> None:
        self._headers = headers
        self._times = times

    def revision_at(self, call: UnaryCall, request: RevisionAtRequest) -> None:
        now = self._times.now()
        asked = now - request.seconds if request.is_ago else request.seconds
        answer = RevisionAtResponse(asked=_int64(asked), now=now)
        found = self._times.at(_int64(asked))
        if found is not None:
            answer.revision, answer.written = found.revision, found.second
        first = self._times.first()
        if first is not None:
            answer.first = first.second
        self._headers.fill(answer.header)
        call.reply(answer.SerializeToString())


def _int64(number: int) -> int:
    return min(max(number, -(1 << 63)), (1 << 63) - 1)
