"""What a person reads who types `pyetcd` or `pyetcd --help`: the programs, by typer.

The programs themselves read their own command lines (see main.py), so they appear here as commands
that pass everything on.
"""

from collections.abc import Callable, Mapping

import typer

from pyetcd.cli.command import API_VERSION, VERSION

app = typer.Typer(
    help="etcd in Python: server, client, offline tool and load generator in one program.",
    no_args_is_help=True,
    add_completion=False,
)
Programs = Mapping[str, Callable[[list[str]], int]]
_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(context_settings=_PASS_ON)
def server(context: typer.Context) -> None:
    """Runs a member; the flags, variables and YAML keys are etcd's."""
    _hand_over("server", context)


@app.command(context_settings=_PASS_ON)
def ctl(context: typer.Context) -> None:
    """Talks to a cluster, as etcdctl does."""
    _hand_over("ctl", context)


@app.command(context_settings=_PASS_ON)
def utl(context: typer.Context) -> None:
    """Works on a stopped member's files, as etcdutl does."""
    _hand_over("utl", context)


@app.command(context_settings=_PASS_ON)
def bench(context: typer.Context) -> None:
    """Puts load on a cluster and reports throughput and latencies."""
    _hand_over("bench", context)


@app.command(context_settings=_PASS_ON)
def gateway(context: typer.Context) -> None:
    """Forwards TCP connections to the members that are there, as `etcd gateway` does."""
    _hand_over("gateway", context)


@app.command(context_settings=_PASS_ON)
def proxy(context: typer.Context) -> None:
    """Stands between clients and a cluster and shares watches, as `etcd grpc-proxy` does."""
    _hand_over("proxy", context)


@app.command()
def version() -> None:
    """Prints pyetcd's version and the version of etcd that it answers as."""
    from pyetcd.server.version import pyetcd_version  # nothing else here needs a server

    typer.echo(f"pyetcd version: {pyetcd_version()}")
    typer.echo(f"etcd version: {VERSION}")
    typer.echo(f"API version: {API_VERSION}")


def _hand_over(name: str, context: typer.Context) -> None:
    programs: Programs = context.obj
    raise typer.Exit(programs[name](context.args))


def main(argv: list[str], programs: Programs) -> int:
    """Shows the help, or runs what stands on the command line; returns the exit code."""
    try:
        app(argv, prog_name="pyetcd", obj=programs)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0
