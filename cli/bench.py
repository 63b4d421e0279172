"""`pyetcd bench put|range|txn`: load on an etcd, ours or the real one, and what came of it.

The options and the report are those of etcd's own benchmark tool. A client is one request on its
way; clients share connections. With --rate requests leave at that rate as long as clients are free.
"""

import asyncio
import json
import math
import random
import time
from collections.abc import Callable
from typing import Annotated

import typer
import uvloop

from pyetcd.cli.bench_h2 import Connection, Load

PACE_S = 0.005  # how often --rate hands out its allowance
RECONNECT_S, CONNECT_FAILURES_MAX = 0.2, 50

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)

Endpoints = Annotated[str, typer.Option(help="host:port of the members, comma separated")]
Clients = Annotated[int, typer.Option(min=1, help="requests on their way at a time")]
Conns = Annotated[int, typer.Option(min=1, help="connections that the clients share")]
Total = Annotated[int, typer.Option(min=1, help="requests to send")]
KeySize = Annotated[int, typer.Option(min=1, help="bytes of a key")]
ValSize = Annotated[int, typer.Option(min=0, help="bytes of a value")]
KeySpace = Annotated[int, typer.Option(min=1, help="number of different keys")]
Sequential = Annotated[bool, typer.Option(help="keys one after the other, not at random")]
Rate = Annotated[int, typer.Option(min=0, help="most requests a second (0: no limit)")]
Json = Annotated[bool, typer.Option("--json", help="one JSON object in place of the report")]


@app.command()
def put(
    endpoints: Endpoints = "127.0.0.1:2379",
    clients: Clients = 1,
    conns: Conns = 1,
    total: Total = 10000,
    key_size: KeySize = 8,
    val_size: ValSize = 8,
    key_space_size: KeySpace = 1,
    sequential_keys: Sequential = False,
    rate: Rate = 0,
    as_json: Json = False,
) -> None:
    """Writes values under random or sequential keys."""
    key = _keys(key_size, key_space_size, sequential=sequential_keys)
    head, tail = _field(1, b"", key_size), _field(2, random.randbytes(val_size))
    load = _load("/etcdserverpb.KV/Put", lambda: head + key() + tail, total)
    _report(load, _run(load, endpoints, clients, conns, rate), as_json=as_json)


@app.command(name="range")
def range_(
    key: Annotated[str, typer.Argument(help="default: random keys, as put writes them")] = "",
    range_end: Annotated[str, typer.Argument()] = "",
    endpoints: Endpoints = "127.0.0.1:2379",
    clients: Clients = 1,
    conns: Conns = 1,
    total: Total = 10000,
    key_size: KeySize = 8,
    key_space_size: KeySpace = 1,
    limit: Annotated[int, typer.Option(min=0, help="most keys in an answer (0: all)")] = 0,
    consistency: Annotated[str, typer.Option(help="Linearizable(l) or Serializable(s)")] = "l",
    rate: Rate = 0,
    as_json: Json = False,
) -> None:
    """Reads one key or a range."""
    if consistency not in ("l", "s"):
        raise typer.BadParameter(f"unknown consistency flag {consistency!r}")
    options = _field(2, range_end.encode()) if range_end else b""
    options += b"\x18" + _varint(limit) if limit else b""
    options += b"\x38\x01" if consistency == "s" else b""
    if key:
        fixed = _field(1, key.encode()) + options
        load = _load("/etcdserverpb.KV/Range", lambda: fixed, total)
    else:
        name = _keys(key_size, key_space_size, sequential=False)
        head = _field(1, b"", key_size)
        load = _load("/etcdserverpb.KV/Range", lambda: head + name() + options, total)
    _report(load, _run(load, endpoints, clients, conns, rate), as_json=as_json)


@app.command()
def txn(
    endpoints: Endpoints = "127.0.0.1:2379",
    clients: Clients = 1,
    conns: Conns = 1,
    total: Total = 10000,
    key_size: KeySize = 8,
    val_size: ValSize = 8,
    key_space_size: KeySpace = 1,
    txn_ops: Annotated[int, typer.Option(min=1, help="puts in a transaction")] = 1,
    rate: Rate = 0,
    as_json: Json = False,
) -> None:
    """Writes several different keys in one transaction."""
    if txn_ops > key_space_size:
        raise typer.BadParameter("--txn-ops: a transaction may not put a key twice")
    key = _keys(key_size, key_space_size, sequential=True)
    head, tail = _field(1, b"", key_size), _field(2, random.randbytes(val_size))
    put_bytes = len(head) + key_size + len(tail)
    inner = _field(2, b"", put_bytes)  # RequestOp.request_put
    outer = _field(2, b"", len(inner) + put_bytes)  # TxnRequest.success
    front = outer + inner + head

    def message() -> bytes:
        return b"".join([front + key() + tail for _ in range(txn_ops)])

    load = _load("/etcdserverpb.KV/Txn", message, total)
    _report(load, _run(load, endpoints, clients, conns, rate), as_json=as_json)


def main(argv: list[str]) -> int:
    """The entry point; returns the exit code."""
    try:
        app(argv, prog_name="pyetcd bench", standalone_mode=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


def _keys(size: int, space: int, *, sequential: bool) -> Callable[[], bytes]:
    """A source of keys: a number below `space`, big-endian, padded in front."""
    if space > 256**size:
        raise typer.BadParameter("--key-size: too small for --key-space-size")
    if not sequential:
        uniform = random.random
        return lambda: int(uniform() * space).to_bytes(size, "big")
    counter = iter(range(1 << 62))
    return lambda: (next(counter) % space).to_bytes(size, "big")


def _load(path: str, message: Callable[[], bytes], total: int) -> Load:
    return Load(path, len(message()), message, total)


def _field(number: int, value: bytes, length: int | None = None) -> bytes:
    """A length-delimited protobuf field; with `length` its front alone."""
    size = len(value) if length is None else length
    return bytes((number << 3 | 2,)) + _varint(size) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _run(load: Load, endpoints: str, clients: int, conns: int, rate: int) -> float:
    """Runs the load; returns the seconds that it took."""
    addresses = [endpoint.partition("://")[2] or endpoint for endpoint in endpoints.split(",")]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_drive(load, addresses, clients, min(conns, clients), rate))


async def _drive(load: Load, addresses: list[str], clients: int, conns: int, rate: int) -> float:
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    load.on_done = done.set
    live: set[Connection] = set()
    waiting: set[asyncio.Task[None]] = set()
    failures = 0

    async def connect(place: int) -> None:
        nonlocal failures
        host, _, port = addresses[place % len(addresses)].rpartition(":")
        share = clients // conns + (1 if place < clients % conns else 0)

        def made() -> Connection:
            connection = Connection(load, f"{host}:{port}", share)
            connection.on_lost = lost
            return connection

        def lost(connection: Connection) -> None:
            live.discard(connection)
            if not done.is_set():
                again(place, RECONNECT_S)

        try:
            _, connection = await loop.create_connection(made, host.strip("[]"), int(port))
        except OSError as failure:
            failures += 1
            if failures > CONNECT_FAILURES_MAX:
                load.fail(f"no connection: {failure}", load.total - load.finished)
            again(place, RECONNECT_S)
            return
        live.add(connection)

    def again(place: int, delay_s: float) -> None:
        async def later() -> None:
            await asyncio.sleep(delay_s)
            await connect(place)

        task = loop.create_task(later())
        waiting.add(task)
        task.add_done_callback(waiting.discard)

    if rate:
        load.allowance = 0
    start = time.perf_counter()
    await asyncio.gather(*(connect(place) for place in range(conns)))
    while rate and not done.is_set():
        load.allowance = int((time.perf_counter() - start) * rate) - load.started
        load.wake()
        await asyncio.sleep(PACE_S)
    await done.wait()
    took_s = time.perf_counter() - start
    for task in waiting:
        task.cancel()
    for connection in list(live):
        connection.close()
    await asyncio.sleep(0)
    return took_s


def _report(load: Load, took_s: float, *, as_json: bool) -> None:
    times = sorted(load.latencies_s)
    failed = sum(load.errors.values())
    if as_json:
        typer.echo(json.dumps(_summary(times, took_s, load.errors)))
    else:
        _print(times, took_s, load.errors)
    if failed:
        raise typer.Exit(1)


def _summary(times: list[float], took_s: float, errors: dict[str, int]) -> dict[str, object]:
    return {
        "total_s": round(took_s, 6),
        "requests": len(times),
        "requests_per_s": round(len(times) / took_s, 1),
        "p50_ms": round(_at(times, 50) * 1e3, 3),
        "p90_ms": round(_at(times, 90) * 1e3, 3),
        "p99_ms": round(_at(times, 99) * 1e3, 3),
        "max_ms": round(_at(times, 100) * 1e3, 3),
        "errors": errors,
    }


def _print(times: list[float], took_s: float, errors: dict[str, int]) -> None:
    average = sum(times) / len(times) if times else 0.0
    spread = math.sqrt(sum((t - average) ** 2 for t in times) / len(times)) if times else 0.0
    typer.echo("\nSummary:")
    typer.echo(f"  Total:\t{took_s:.4f} secs.")
    typer.echo(f"  Slowest:\t{_at(times, 100):.4f} secs.")
    typer.echo(f"  Fastest:\t{_at(times, 0):.4f} secs.")
    typer.echo(f"  Average:\t{average:.4f} secs.")
    typer.echo(f"  Stddev:\t{spread:.4f} secs.")
    typer.echo(f"  Requests/sec:\t{len(times) / took_s:.4f}")
    if times:
        typer.echo("\nResponse time histogram:")
        for bound, count in _histogram(times):
            bar = "∎" * (count * 40 // len(times))
            typer.echo(f"  {bound:.4f} [{count}]\t|{bar}")
        typer.echo("\nLatency distribution:")
        for percent in (10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9):
            typer.echo(f"  {percent:g}% in {_at(times, percent):.4f} secs.")
    if errors:
        typer.echo("\nError distribution:")
        for text, count in sorted(errors.items()):
            typer.echo(f"  [{count}]\t{text}")


def _at(times: list[float], percent: float) -> float:
    if not times:
        return 0.0
    return times[min(len(times) - 1, int(len(times) * percent / 100))]


def _histogram(times: list[float], steps: int = 10) -> list[tuple[float, int]]:
    low, high = times[0], times[-1]
    bounds = [low + (high - low) * step / steps for step in range(1, steps)] + [high]
    counts, at = [], 0
    for bound in bounds:
        start = at
        while at < len(times) and times[at] <= bound:
            at += 1
        counts.append((bound, at - start))
    return counts
