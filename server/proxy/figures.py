"""/proxy/metrics: what the proxy counts, under the names of etcd's proxy, and its process."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector

from pyetcd.proto.errors import Code
from pyetcd.proto.services import METHODS
from pyetcd.server.metrics import go_float
from pyetcd.server.proxy.broadcast import Hub
from pyetcd.server.proxy.cache import Cache
from pyetcd.server.wire.grpc import Dispatcher


class Figures:
    """Reads what others count."""

    def __init__(self, hub: Hub, cache: Cache, dispatcher: Callable[[], Dispatcher]) -> None:
        self._hub, self._cache, self._dispatcher = hub, cache, dispatcher
        self._process = ProcessCollector(registry=CollectorRegistry())

    def render(self) -> bytes:
        """The text, sorted by name."""
        lines = sorted(self._families())
        return "".join(text for _, text in lines).encode()

    def _families(self) -> Iterator[tuple[str, str]]:
        coalesced = self._hub.watchers - self._hub.broadcasts
        front = "etcd_grpc_proxy_"
        rows = (
            ("cache_hits_total", "gauge", "Reads answered from the cache.", self._cache.hits),
            ("cache_keys_total", "gauge", "Answers in the cache.", len(self._cache)),
            ("cache_misses_total", "gauge", "Reads not in the cache.", self._cache.misses),
            (
                "events_coalescing_total",
                "counter",
                "Responses that shared watches saved.",
                self._hub.events_coalesced_total,
            ),
            (
                "watchers_coalescing_total",
                "gauge",
                "Watches that ride on another one's.",
                max(0, coalesced),
            ),
        )
        for name, kind, about, value in rows:
            yield _family(front + name, kind, about, [("", float(value))])
        yield from self._calls()
        for family in self._process.collect():
            samples = [("", sample.value) for sample in family.samples]
            name = str(family.samples[0].name) if family.samples else family.name
            yield _family(name, family.type, family.documentation, samples)

    def _calls(self) -> Iterator[tuple[str, str]]:
        started, handled, received, sent = [], [], [], []
        for path, counters in sorted(self._dispatcher().counters.items()):
            service, _, method = path[1:].partition("/")
            kind = METHODS[path].kind.value
            labels = f'grpc_method="{method}",grpc_service="{service}",grpc_type="{kind}"'
            started.append((f"{{{labels}}}", float(counters.started)))
            received.append((f"{{{labels}}}", float(counters.received)))
            sent.append((f"{{{labels}}}", float(counters.sent)))
            for code, count in enumerate(counters.handled):
                if count:
                    name = "OK" if code == 0 else _camel(Code(code).name)
                    handled.append((f'{{grpc_code="{name}",{labels}}}', float(count)))
        front = "grpc_server_"
        yield _family(f"{front}started_total", "counter", "Calls begun.", started)
        yield _family(f"{front}handled_total", "counter", "Calls finished, by code.", handled)
        yield _family(f"{front}msg_received_total", "counter", "Messages received.", received)
        yield _family(f"{front}msg_sent_total", "counter", "Messages sent.", sent)


def _camel(name: str) -> str:
    made = "".join(part.capitalize() for part in name.split("_"))
    return "Canceled" if made == "Cancelled" else made


def _family(name: str, kind: str, about: str, samples: list[tuple[str, float]]) -> tuple[str, str]:
    lines = [f"# HELP {name} {about}\n# TYPE {name} {kind}\n"]
    lines += [f"{name}{labels} {go_float(value)}\n" for labels, value in samples]
    return name, "".join(lines)
