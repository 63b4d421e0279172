"""What a python-etcd user does with the v2 API: keys, directories, TTL, CAS, watches, a lock."""

import sys
import threading
import time

import etcd


def main(host: str, port: int) -> None:
    client = etcd.Client(host=host, port=port, read_timeout=20, allow_reconnect=False)
    assert client.machines == [f"http://{host}:{port}"] and client.leader["name"]

    client.write("/v2/a", "1")
    assert client.read("/v2/a").value == "1" and client.get("/v2/a").createdIndex > 0
    client.write("/v2/dir", None, dir=True)
    for number in range(3):
        client.write(f"/v2/dir/{number}", str(number))
    made = client.write("/v2/dir", "queued", append=True)
    assert made.value == "queued"
    listed = client.read("/v2/dir", recursive=True, sorted=True)
    assert sorted(each.value for each in listed.children) == ["0", "1", "2", "queued"]

    client.write("/v2/a", "2", prevValue="1")
    try:
        client.write("/v2/a", "3", prevValue="1")
        raise AssertionError("a comparison that fails")
    except etcd.EtcdCompareFailed:
        pass
    try:
        client.write("/v2/a", "3", prevExist=False)
        raise AssertionError("a key that is there")
    except etcd.EtcdAlreadyExist:
        pass
    node = client.read("/v2/a")
    node.value = "4"
    client.update(node)
    assert client.test_and_set("/v2/a", "5", "4").value == "5"

    short = client.write("/v2/short", "x", ttl=1)
    assert short.ttl == 1
    gone = client.watch("/v2/short", index=short.modifiedIndex + 1, timeout=20)
    assert gone.action == "expire"
    try:
        client.read("/v2/short")
        raise AssertionError("a key that has expired")
    except etcd.EtcdKeyNotFound:
        pass

    index = client.read("/v2/a").etcd_index
    timer = threading.Timer(0.3, lambda: client.write("/v2/dir/seen", "yes"))
    timer.start()
    event = client.watch("/v2/dir", recursive=True, index=index + 1, timeout=20)
    timer.join()
    assert (event.key, event.value) == ("/v2/dir/seen", "yes")

    lock = etcd.Lock(client, "work")
    assert lock.acquire(blocking=True, lock_ttl=60) and lock.is_acquired
    other = etcd.Lock(client, "work")
    assert not other.acquire(blocking=False)
    lock.release()
    deadline_s = time.monotonic() + 20
    while not other.acquire(blocking=False):
        assert time.monotonic() < deadline_s
    other.release()

    client.delete("/v2/a")
    client.delete("/v2/dir", recursive=True)
    try:
        client.read("/v2/dir")
        raise AssertionError("a directory that was deleted")
    except etcd.EtcdKeyNotFound:
        pass


main(sys.argv[1], int(sys.argv[2]))
print("ok")
