"""--namespace: the prefix before every key on the way in, and off it on the way back. Pure.

Worked example: with `ns/`, `range k..\\0` (all keys from k on) becomes `ns/k..ns0`, and the key
`ns/k` of the answer becomes `k`.

Rules. The methods without a prefix change nothing; those with one work on a copy of a request and
on the answer itself. An operation outside of a transaction needs a key, as in etcd's client. Beyond
etcd, the names of Lock and Election are prefixed as well: otherwise a client of one namespace could
hold and free the locks of another.
"""

from typing import TypeVar

from google.protobuf.message import Message

from pyetcd.proto import election_pb2 as election
from pyetcd.proto import kv_pb2 as mvcc
from pyetcd.proto import lock_pb2 as lock
from pyetcd.proto import rpc_pb2 as rpc
from pyetcd.proto.errors import EmptyKey
from pyetcd.proto.keys import FROM_KEY, prefix_end

M = TypeVar("M", bound=Message)
Interval = rpc.RangeRequest | rpc.DeleteRangeRequest | rpc.Compare | rpc.WatchCreateRequest

_KEYED = rpc.RangeRequest | rpc.PutRequest | rpc.DeleteRangeRequest


class Namespace:
    """One prefix; an empty one changes nothing."""

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        self._end = prefix_end(prefix)

    def into(self, request: M) -> M:
        """The request as the cluster gets it. Raises EmptyKey."""
        if not self.prefix:
            return request
        if isinstance(request, _KEYED) and not request.key:
            raise EmptyKey()
        copy = type(request)()
        copy.CopyFrom(request)
        self._add(copy)
        return copy

    def outof(self, response: M) -> M:
        """The answer as the client gets it."""
        if self.prefix:
            self._strip(response)
        return response

    def strip_events(self, response: rpc.WatchResponse) -> None:
        """Takes the prefix off."""
        if self.prefix:
            for event in response.events:
                self._strip_key(event.kv)
                if event.HasField("prev_kv"):
                    self._strip_key(event.prev_kv)

    def _add(self, request: Message) -> None:
        if isinstance(request, rpc.PutRequest):
            request.key = self.prefix + request.key
        elif isinstance(request, Interval):
            self._widen(request)
        elif isinstance(request, rpc.TxnRequest):
            for compare in request.compare:
                self._widen(compare)
            for operation in (*request.success, *request.failure):
                kind = operation.WhichOneof("request")
                if kind is not None:
                    self._add(getattr(operation, kind))
        elif isinstance(
            request, lock.LockRequest | election.CampaignRequest | election.LeaderRequest
        ):
            request.name = self.prefix + request.name
        elif isinstance(request, lock.UnlockRequest):
            request.key = self.prefix + request.key
        elif isinstance(
            request, election.ProclaimRequest | election.ResignRequest
        ) and request.HasField("leader"):
            request.leader.name = self.prefix + request.leader.name
            request.leader.key = self.prefix + request.leader.key

    def _widen(self, request: Interval) -> None:
        request.key = self.prefix + request.key
        if request.range_end == FROM_KEY:
            request.range_end = self._end
        elif request.range_end:
            request.range_end = self.prefix + request.range_end

    def _strip(self, response: Message) -> None:
        if isinstance(response, rpc.RangeResponse):
            for pair in response.kvs:
                self._strip_key(pair)
        elif isinstance(response, rpc.PutResponse):
            if response.HasField("prev_kv"):
                self._strip_key(response.prev_kv)
        elif isinstance(response, rpc.DeleteRangeResponse):
            for pair in response.prev_kvs:
                self._strip_key(pair)
        elif isinstance(response, rpc.TxnResponse):
            for operation in response.responses:
                kind = operation.WhichOneof("response")
                if kind is not None:
                    self._strip(getattr(operation, kind))
        elif isinstance(response, rpc.RangeStreamResponse):
            self._strip(response.range_response)
        elif isinstance(response, rpc.LeaseTimeToLiveResponse):
            keys = [self._bare(key) for key in response.keys if key.startswith(self.prefix)]
            del response.keys[:]
            response.keys.extend(keys)
        elif isinstance(response, lock.LockResponse):
            response.key = self._bare(response.key)
        elif isinstance(response, election.CampaignResponse):
            if response.HasField("leader"):
                response.leader.name = self._bare(response.leader.name)
                response.leader.key = self._bare(response.leader.key)
        elif isinstance(response, election.LeaderResponse) and response.HasField("kv"):
            self._strip_key(response.kv)

    def _strip_key(self, pair: mvcc.KeyValue) -> None:
        pair.key = self._bare(pair.key)

    def _bare(self, key: bytes) -> bytes:
        return key.removeprefix(self.prefix)
