"""v2 stores of several servers, made comparable."""

import time
import urllib.request

FIRST_INDEX = 3  # when the members, their attributes and the cluster's version are written


def level(urls: list[str]) -> None:
    """Waits until the cluster's version is written, and brings all stores to the same index: a
    member that is slow to hear of its own name writes it twice."""
    deadline_s = time.monotonic() + 60
    while True:
        decided = all(b"not_decided" not in fetched(f"{url}/version")[0] for url in urls)
        indexes = [int(fetched(f"{url}/v2/keys/")[1]) for url in urls]
        if decided and min(indexes) >= FIRST_INDEX:
            if len(set(indexes)) == 1:
                return
            for url, index in zip(urls, indexes, strict=True):
                if index < max(indexes):
                    fetched(f"{url}/v2/keys/_level", "PUT")
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def fetched(url: str, method: str = "GET") -> tuple[bytes, str]:
    """The body, and the store's index."""
    asked = urllib.request.Request(url, b"value=" if method == "PUT" else None, method=method)
    with urllib.request.urlopen(asked, timeout=30) as answer:
        return answer.read(), answer.headers.get("X-Etcd-Index", "")
