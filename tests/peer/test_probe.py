"""Round trips, clocks, and the small HTTP client below them."""

import asyncio
import time

import pytest
import uvloop

from pyetcd.server.logs import get
from pyetcd.server.peer.activity import RTT_BUCKETS_S, Activity, Durations, PeerCounters, UrlPicker
from pyetcd.server.peer.client import HttpClient, Unreachable
from pyetcd.server.peer.probe import Prober, parse_probe_answer, probe_answer
from pyetcd.server.wire.http1 import HttpService


@pytest.mark.parametrize(
    "now_ns, text",
    [
        (1_700_000_000_000_000_000, "2023-11-14T22:13:20Z"),
        (1_700_000_000_123_456_789, "2023-11-14T22:13:20.123456789Z"),
        (1_700_000_000_100_000_000, "2023-11-14T22:13:20.1Z"),
    ],
)
def test_the_answer_has_the_clock_as_go_writes_it(now_ns, text):
    answer = probe_answer(now_ns)
    assert answer == f'{{"OK":true,"Now":"{text}"}}\n'.encode()
    assert parse_probe_answer(answer) == pytest.approx(now_ns / 1e9, abs=1e-6)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"OK":false}', b'{"OK":true}', b'{"OK":true,"Now":1}']
)
def test_other_answers_are_refused(body):
    with pytest.raises(ValueError):
        parse_probe_answer(body)


def test_a_probe_measures_round_trip_and_drift(bench, tmp_path):
    async def run():
        station = await bench.Station(1, 2, bench.Recorder(), tmp_path).start()
        rtt = Durations(RTT_BUCKETS_S)
        prober = Prober(9, client=client, picker=UrlPicker([station.url]), rtt=rtt, log=get("t"))
        await prober.probe()
        assert prober.is_healthy and 0 < prober.rtt_s < 1 and prober.clock_drift_s < 1
        assert sum(rtt.counts) == 1 and rtt.sum_s == prober.rtt_s

        def an_hour_off(request, responder):
            responder.send(200, {}, probe_answer(time.time_ns() + 3600 * 10**9))

        station.listener.http = HttpService(an_hour_off)
        client.close()
        station.cut()
        other = HttpClient()
        prober = Prober(9, client=other, picker=UrlPicker([station.url]), rtt=rtt, log=get("t"))
        await prober.probe()
        assert prober.clock_drift_s == pytest.approx(3600, abs=5)
        await station.stop()
        await prober.probe()
        assert not prober.is_healthy
        other.close()

    client = HttpClient()
    asyncio.run(run())


def test_the_histogram_has_etcds_buckets():
    rtt = Durations(RTT_BUCKETS_S)
    for seconds in (0.00005, 0.0001, 0.00011, 100.0):
        rtt.observe(seconds)
    assert (rtt.counts[0], rtt.counts[1], rtt.counts[16]) == (2, 1, 1)


def test_activity_counts_losses_once():
    counters = PeerCounters()
    activity = Activity(5, counters, get("t"))
    activity.activate(1.0)
    activity.activate(2.0)
    assert activity.active_since_s == 1.0
    activity.deactivate("dial", "stream Message", "refused")
    activity.deactivate("dial", "stream Message", "refused")
    assert (activity.is_active, counters.disconnected_total) == (False, 1)


def test_urls_are_tried_in_turn():
    picker = UrlPicker(["a", "b"])
    picker.unreachable("b")  # an old failure
    assert picker.pick() == "a"
    picker.unreachable("a")
    assert picker.pick() == "b"
    picker.unreachable("b")
    assert picker.pick() == "a"
    assert not picker.update(["a", "b"]) and picker.update(["c"]) and picker.pick() == "c"


async def serve(data: bytes, client: HttpClient):
    """The answer of a server that writes `data` and closes."""

    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return await client.request("GET", url, "/x", headers={}, timeout_s=2, body_bytes_max=100)
    finally:
        server.close()
        await server.wait_closed()
        client.close()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n" + b"x" * 101,
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
    ],
)
def test_half_and_wrong_answers_are_unreachable(data):
    with pytest.raises(Unreachable):
        asyncio.run(serve(data, HttpClient()))


def test_an_informational_answer_is_passed_over():
    data = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n"
    response = asyncio.run(serve(data, HttpClient()))
    assert (response.status, response.headers["x-a"], response.body) == (204, "b", b"")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://[::1", "https://127.0.0.1:1"])
def test_an_url_without_a_server_is_unreachable(url):
    async def run():
        await HttpClient().request("GET", url, "/", headers={}, timeout_s=1)

    with pytest.raises(Unreachable):
        asyncio.run(run())


def test_streams_run_on_uvloop(bench, tmp_path):
    """The loop of the server."""

    async def run():
        one = await bench.Station(1, 9, bench.Recorder(), tmp_path).start()
        two = await bench.Station(2, 9, bench.Recorder(), tmp_path).start()
        one.transport.add_peer(2, [two.url])
        two.transport.add_peer(1, [one.url])
        await bench.until(lambda: one.transport.is_pyetcd(2), "a stream")
        await bench.until(lambda: two.transport.is_pyetcd(1), "a stream")
        await one.transport.stop()
        await two.transport.stop()
        await one.listener.stop(0.0)
        await two.listener.stop(0.0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
