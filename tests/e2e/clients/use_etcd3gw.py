"""What an etcd3gw user does, all by the JSON gateway: keys, a lock, leases, watches, members."""

import sys
import threading

import etcd3gw


def main(host: str, port: int) -> None:
    client = etcd3gw.client(host=host, port=port, timeout=20)
    assert client.status()["version"] and len(client.members()) == 1

    assert client.create("gw/a", "1") and not client.create("gw/a", "2")
    assert client.put("gw/b", b"\x00\xff")
    assert client.get("gw/b") == [b"\x00\xff"] and client.get("gw/none") == []
    assert client.replace("gw/a", "1", "2") and not client.replace("gw/a", "1", "3")
    found = [(pair["key"], value) for value, pair in client.get_prefix("gw/")]
    assert found == [(b"gw/a", b"2"), (b"gw/b", b"\x00\xff")], found
    newest = client.get_all(sort_order="descend", sort_target="mod")
    assert newest[0][1]["key"] == b"gw/a", newest

    answer = client.transaction(
        {
            "compare": [],
            "success": [{"request_put": {"key": "Z3cvdA==", "value": "eQ=="}}],
            "failure": [],
        }
    )
    assert answer["succeeded"] and client.get("gw/t") == [b"y"]

    lease = client.lease(60)
    client.put("gw/l", "leased", lease=lease)
    assert lease.keys() == [b"gw/l"] and 0 < lease.ttl() <= 60 and lease.refresh() == 60
    assert lease.revoke() and client.get("gw/l") == []

    with client.lock("work", ttl=60) as lock:
        assert lock.is_acquired()
        assert not client.lock("work", ttl=60).acquire()
    assert not lock.is_acquired()

    timer = threading.Timer(0.3, lambda: client.put("gw/w", "seen"))
    timer.start()
    event = client.watch_once("gw/w", timeout=20)
    timer.join()
    assert (event["kv"]["key"], event["kv"]["value"]) == (b"gw/w", b"seen"), event
    events, cancel = client.watch_prefix("gw/many/")
    threads = [
        threading.Thread(target=client.put, args=(f"gw/many/{n}", str(n))) for n in range(20)
    ]
    for thread in threads:
        thread.start()
    keys = {next(events)["kv"]["key"] for _ in threads}
    cancel()
    for thread in threads:
        thread.join()
    assert keys == {b"gw/many/%d" % n for n in range(20)}
    assert client.delete("gw/a") and not client.delete("gw/a")
    assert client.delete_prefix("gw/")


main(sys.argv[1], int(sys.argv[2]))
print("ok")
