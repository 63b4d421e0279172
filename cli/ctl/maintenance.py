"""alarm list and disarm, defrag, move-leader, version."""

from pyetcd.cli import gotext
from pyetcd.cli.command import API_VERSION, VERSION
from pyetcd.cli.context import Context
from pyetcd.cli.gotext import ParseFailure
from pyetcd.cli.terminal import BAD_ARGS, ERROR, Exit

_MOVED = "Use `etcdutl defrag` instead. The --data-dir is going to be decomissioned in v3.6."


def alarm_list(context: Context) -> None:
    """`alarm list`."""
    from pyetcd.cli import client as calls
    from pyetcd.cli.ctl.kv import call
    from pyetcd.proto import rpc_pb2 as rpc

    if context.args:
        raise context.fail(BAD_ARGS, "alarm list command accepts no arguments")
    context.start_timeout()
    answer = call(context, calls.ALARM, rpc.AlarmRequest(action=rpc.AlarmRequest.GET))
    context.display().show("alarm", answer)


def alarm_disarm(context: Context) -> None:
    """`alarm disarm`: every alarm that is on, one request each."""
    from pyetcd.cli import client as calls
    from pyetcd.proto import rpc_pb2 as rpc

    if context.args:
        raise context.fail(BAD_ARGS, "alarm disarm command accepts no arguments")
    context.start_timeout()
    client = context.client()
    disarmed = rpc.AlarmResponse()  # without a header, as clientv3 returns it
    try:
        request = rpc.AlarmRequest(action=rpc.AlarmRequest.GET)
        active = client.call(calls.ALARM, request, timeout_s=context.time_left_s())
        for alarm in active.alarms:
            request = rpc.AlarmRequest(
                action=rpc.AlarmRequest.DEACTIVATE, memberID=alarm.memberID, alarm=alarm.alarm
            )
            answer = client.call(calls.ALARM, request, timeout_s=context.time_left_s())
            disarmed.alarms.extend(answer.alarms)
    except calls.ClientError as failure:
        raise context.fail(ERROR, failure.text) from None
    context.display().show("alarm", disarmed)


def defrag(context: Context) -> None:
    """`defrag`: each endpoint in turn; the offline form is etcdutl's."""
    from pyetcd.cli import client as calls
    from pyetcd.cli.ctl.endpoint import cluster_endpoints
    from pyetcd.proto import rpc_pb2 as rpc

    if context.flags.text("data-dir"):
        from pyetcd.cli.utl.offline import defragment

        context.warn(f"{_MOVED}\n")
        return defragment(context, context.flags.text("data-dir"))
    settings = context.settings()
    client = context.dial(settings.endpoints, settings)
    failed = False
    for endpoint in cluster_endpoints(context, settings):
        context.start_timeout()
        try:
            with context.waiting(f"defragmenting {endpoint}"):
                client.at(endpoint).call(
                    calls.DEFRAGMENT, rpc.DefragmentRequest(), timeout_s=context.time_left_s()
                )
        except calls.ClientError as failure:
            context.warn(f"Failed to defragment etcd member[{endpoint}] ({failure.text})")
            failed = True
        else:
            context.print(f"Finished defragmenting etcd member[{endpoint}]")
    if failed:
        raise Exit(ERROR)
    return None


def move_leader(context: Context) -> None:
    """`move-leader`: asks the endpoint that leads."""
    from pyetcd.cli import client as calls
    from pyetcd.cli.printers.base import About
    from pyetcd.proto import rpc_pb2 as rpc

    if len(context.args) != 1:
        raise context.fail(BAD_ARGS, "move-leader command needs 1 argument")
    try:
        target = gotext.parse_int(context.args[0], 16, signed=False)
    except ParseFailure as failure:
        raise context.fail(BAD_ARGS, str(failure)) from None
    settings = context.settings()
    context.dial(settings.endpoints, settings).close()
    context.start_timeout()
    for endpoint in settings.endpoints:
        # etcdctl 3.5.1 reads the environment once more for each endpoint, and takes what it set
        # itself for a flag in conflict with its variable.
        context.read_environment()
        client = context.dial([endpoint], settings)
        try:
            status = client.call(calls.STATUS, rpc.StatusRequest(), timeout_s=context.time_left_s())
            if status.header.member_id != status.leader:
                continue
            request = rpc.MoveLeaderRequest(targetID=target)
            answer = client.call(calls.MOVE_LEADER, request, timeout_s=context.time_left_s())
        except calls.ClientError as failure:
            raise context.fail(ERROR, failure.text) from None
        context.display().show("move_leader", About(status.leader, answer, target))
        return
    shown = " ".join(settings.endpoints)
    raise context.fail(BAD_ARGS, f"no leader endpoint given at [{shown}]")


def downgrade_validate(context: Context) -> None:
    """`downgrade validate`."""
    _downgrade(context, "validate")


def downgrade_enable(context: Context) -> None:
    """`downgrade enable`."""
    _downgrade(context, "enable")


def downgrade_cancel(context: Context) -> None:
    """`downgrade cancel`."""
    _downgrade(context, "cancel")


def _downgrade(context: Context, action: str) -> None:
    from pyetcd.cli import client as calls
    from pyetcd.cli.ctl.kv import call
    from pyetcd.cli.printers.base import Named
    from pyetcd.proto import rpc_pb2 as rpc

    target = ""
    if action != "cancel":
        if not context.args:
            raise context.fail(BAD_ARGS, "TARGET_VERSION not provided")
        if len(context.args) > 1:
            raise context.fail(BAD_ARGS, "too many arguments")
        target = context.args[0]
        if not target:
            raise context.fail(BAD_ARGS, "target version not provided")
    actions = {
        "validate": rpc.DowngradeRequest.VALIDATE,
        "enable": rpc.DowngradeRequest.ENABLE,
        "cancel": rpc.DowngradeRequest.CANCEL,
    }
    context.start_timeout()
    request = rpc.DowngradeRequest(action=actions[action], version=target)
    answer = call(context, calls.DOWNGRADE, request)
    context.display().show("downgrade", Named((action,), answer))


def version(context: Context) -> None:
    """`version`."""
    context.print(f"etcdctl version: {VERSION}")
    context.print(f"API version: {API_VERSION}")
