"""endpoint health, status, hashkv: what each endpoint says for itself."""

import time
from concurrent.futures import ThreadPoolExecutor

from pyetcd.cli import client as calls
from pyetcd.cli.client import BadSettings, Client, ClientError, Settings
from pyetcd.cli.context import Context
from pyetcd.cli.gotext import duration
from pyetcd.cli.printers.base import At, Health
from pyetcd.cli.terminal import BAD_ARGS, ERROR, Exit
from pyetcd.proto import rpc_pb2 as rpc

DENIED = "etcdserver: permission denied"
PARALLEL_MAX = 32  # endpoints asked at a time; the rest wait their turn


def health(context: Context) -> None:
    """`endpoint health`: a linearizable read and the alarm list, all endpoints side by side."""
    context.read_environment()
    context.check_format()
    settings = calls.read_settings(context, context.flags)
    endpoints = cluster_endpoints(context, settings)
    if endpoints:
        with ThreadPoolExecutor(min(len(endpoints), PARALLEL_MAX)) as pool:
            results = list(pool.map(lambda ep: _health_of(context, ep, settings), endpoints))
    else:
        results = []
    context.display().show("health", results)
    if any(result.error for result in results):
        raise context.fail(ERROR, "unhealthy cluster")


def _health_of(context: Context, endpoint: str, settings: Settings) -> Health:
    timeout_s = context.flags.integer("command-timeout") / 1e9
    try:
        client = Client([endpoint], settings, warn=context.warn, logger="client")
    except BadSettings as failure:
        raise context.fail(BAD_ARGS, failure.text) from None
    try:
        client.authenticate()
    except ClientError as failure:
        return Health(endpoint, False, "", failure.text)
    start_ns = time.monotonic_ns()
    error = ""
    try:
        client.call(calls.RANGE, rpc.RangeRequest(key=b"health"), timeout_s=timeout_s)
    except ClientError as failure:
        # A refused permission is as good an answer: it went through consensus.
        error = "" if failure.text == DENIED else failure.text
    took_ns = time.monotonic_ns() - start_ns
    if not error:
        error = _alarms(client, timeout_s - took_ns / 1e9)
    client.close()
    return Health(endpoint, not error, duration(took_ns), error)


def _alarms(client: Client, timeout_s: float) -> str:
    request = rpc.AlarmRequest(action=rpc.AlarmRequest.GET)
    try:
        answer = client.call(calls.ALARM, request, timeout_s=timeout_s)
    except ClientError:
        return "Unable to fetch the alarm list"
    if not answer.alarms:
        return ""
    known = {rpc.NOSPACE: "NOSPACE ", rpc.CORRUPT: "CORRUPT "}
    names = [known.get(member.alarm, "UNKNOWN ") for member in answer.alarms]
    return "Active Alarm(s): " + "".join(names)


def status(context: Context) -> None:
    """`endpoint status`."""
    answers, failure = _ask_each(context, calls.STATUS, rpc.StatusRequest(), "status")
    context.display().show("status", answers)
    if failure:
        raise Exit(ERROR)


def hash_kv(context: Context) -> None:
    """`endpoint hashkv`."""
    request = rpc.HashKVRequest(revision=context.flags.integer("rev"))
    answers, failure = _ask_each(context, calls.HASH_KV, request, "hash")
    context.display().show("hash_kv", answers)
    if failure:
        raise context.fail(ERROR, failure)


def _ask_each(
    context: Context, method: calls.Rpc[calls.Response], request: calls.Message, what: str
) -> tuple[list[At[calls.Response]], str]:
    """One endpoint after the other; what failed is said at once, the last failure returned."""
    settings = context.settings()
    client = context.dial(settings.endpoints, settings)
    answers: list[At[calls.Response]] = []
    failed = ""
    for endpoint in cluster_endpoints(context, settings):
        context.start_timeout()
        try:
            answer = client.at(endpoint).call(method, request, timeout_s=context.time_left_s())
        except ClientError as failure:
            failed = failure.text
            context.warn(f"Failed to get the {what} of endpoint {endpoint} ({failed})")
            continue
        answers.append(At(endpoint, answer))
    return answers, failed


def cluster_endpoints(context: Context, settings: Settings) -> list[str]:
    """--endpoints, or with --cluster the client URLs of all members."""
    if not context.flags.boolean("cluster"):
        return context.flags.texts("endpoints")
    context.start_timeout()
    try:
        client = Client(settings.endpoints, settings, warn=context.warn)
        request = rpc.MemberListRequest(linearizable=True)
        answer = client.call(calls.MEMBER_LIST, request, timeout_s=context.time_left_s())
        client.close()
    except BadSettings as failure:
        raise context.fail(ERROR, failure.text) from None
    except ClientError as failure:
        text = f"failed to fetch endpoints from etcd cluster member list: {failure.text}"
        raise context.fail(ERROR, text) from None
    return [url for member in answer.members for url in member.clientURLs]
