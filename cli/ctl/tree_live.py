"""What etcdctl does not have: commands that stay, a shell and a live view."""

from pyetcd.cli.command import Command
from pyetcd.cli.flags import Flag

SINCE = "pyetcd"  # the release that brought it
LEAVE = ("exit", "quit")  # what ends a shell

PLAIN = Flag(
    "plain",
    "bool",
    "false",
    "print to a terminal what a pipe gets: no colours, no tables, no progress bars",
    since=SINCE,
)

SHELL = Command(
    "shell [options]",
    "Runs many commands over one connection, typed at a prompt or read from a pipe",
    "pyetcd.cli.ctl.shell:shell",
    (Flag("exit-on-error", "bool", "false", "End at the first command that fails", "e", SINCE),),
    long="""
Each line is a command with its flags, split as a POSIX shell would; nothing is expanded. Global
flags given to the shell are the defaults of its lines. Empty lines are skipped, and what follows a
'#' at the start of a word.

$ pyetcd ctl shell < commands

A command that fails says why, and the next one is run. From a pipe the exit code is that of the
last command that failed. txn and watch -i read their lines from the same input; a value cannot be
read from it.

At a prompt the tab key completes commands, flags and keys, and Ctrl-C ends the command that runs.
exit, quit or Ctrl-D ends the shell. Lines are kept in ~/.local/state/pyetcd/history, without those
that start with a blank or hold a password; PYETCD_HISTORY names another file, or none if empty.
""",
    since=SINCE,
)

TOP = Command(
    "top [options]",
    "Shows the members of a cluster at work",
    "pyetcd.cli.ctl.top:top",
    (
        Flag("interval", "duration", "1s", "Time between two samples", since=SINCE),
        Flag("once", "bool", "false", "Print one table and end", since=SINCE),
    ),
    long="""
On a terminal a live view, until q or Ctrl-C; with --once, --write-out or into a pipe one table, or
one document with -w json or -w yaml. Rates are between two samples. The members are those of
--endpoints and all that they know of.

Figures come from Status and, where it can be reached, from /metrics of each member; a dash is what
is not known. State is ok, or what is wrong: dead (no answer), refused (it does not want to tell),
slow (an answer took over 200 ms), behind (over 1,000 entries not applied), no leader. The exit code
is 1 when a member is dead or refuses, or there is no leader.
""",
    since=SINCE,
)

LIVE = (SHELL, TOP)
