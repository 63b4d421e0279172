"""Deliberate differences that were met by the long run, and that it draws around."""

from typing import Any

from differential.draw_auth import AUTH, KV, NOBODY
from differential.servers import start

from pyetcd.proto import rpc_pb2 as rpc


def test_a_refused_watch_does_nothing_to_the_watcher_of_that_id(machine: Any) -> None:
    """etcd 3.5.1 forgets the watcher whose id the refused one asked for, 3.5.6 does not."""
    heard = []
    for side in start(machine, "plain"):
        side.open(1, NOBODY)
        stream = side.watches[1]
        create = rpc.WatchRequest(create_request={"key": b"a"})
        stream.send(create)
        assert stream.reply().created
        for path, request in (
            ("UserAdd", rpc.AuthUserAddRequest(name="root", password="one")),
            ("UserGrantRole", rpc.AuthUserGrantRoleRequest(user="root", role="root")),
            ("AuthEnable", rpc.AuthEnableRequest()),
            ("Authenticate", rpc.AuthenticateRequest(name="root", password="one")),
        ):
            assert side.call(AUTH + path, request, NOBODY)[0] == "OK"
        stream.send(create)  # of any id: 0, as the first one has
        assert stream.reply().cancel_reason == "refused"
        side.open(2, "root")
        witness = side.watches[2]
        witness.send(create)
        assert witness.reply().created
        assert side.call(KV + "Put", rpc.PutRequest(key=b"a"), "root")[0] == "OK"
        assert witness.wait_events(lambda witness=witness: len(witness.events[0]) == 1)
        # The next answer on the stream comes after the event, or there is none.
        stream.send(create)
        stream.reply()
        heard.append(len(stream.take_events(0)))
        side.close()
    assert heard == [0, 1]
