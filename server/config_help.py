"""What --help prints, and docs/configuration.md: both made from the table."""

from collections.abc import Sequence
from itertools import groupby

from pyetcd.server.config_options import Effect, Option

USAGE = """Usage:

  pyetcd server [flags]
    Start a member.

  pyetcd server --config-file FILE
    Start a member with all its settings from a YAML file.

  pyetcd server --version
    Show the version.

  pyetcd server -h | --help
    Show all flags.

"""

DOC_HEAD = """# Configuration of `pyetcd server`

Made from the table in `server/config_tables.py` by `python -m pyetcd.server.config`; a test
compares. Names, defaults and precedence are those of etcd 3.5:

- A flag is written `--name value`, `--name=value` or with one dash; a boolean only as `--name` or
  `--name=false`.
- Each flag has a variable: `ETCD_` and its name in capitals, `_` for `-`. Setting a flag and its
  variable is an error.
- With `--config-file` (or `ETCD_CONFIG_FILE`) the YAML file says everything: other flags and
  variables are ignored. Its keys are the flags' names unless the table says otherwise; a duration
  is a whole number of nanoseconds there, `log-outputs` and `cipher-suites` are lists, other lists
  are texts with commas. A key that is not known is ignored with a warning in the log.

Effect: *yes*; *not yet* = accepted, and the log says that it does nothing so far; *refused* = a
member does not start with it, because ignoring it would be worse; *none* = means something only
inside etcd, accepted so that files can be shared.
"""


def usage_text() -> str:
    return USAGE


def help_text(options: Sequence[Option]) -> str:
    lines = []
    for section, rows in _sections(options):
        lines.append(f"\n{section}:")
        for option in rows:
            lines.append(f"  --{option.flag} '{option.default_text}'")
            lines.append(f"    {option.help}{_remark(option)}")
    return "\n".join(lines) + "\n"


def document(options: Sequence[Option]) -> str:
    parts = [DOC_HEAD]
    for section, rows in _sections(options):
        parts.append(f"\n## {section}\n")
        parts.append("| Flag | Type | Default | YAML key | Effect | Meaning |")
        parts.append("|---|---|---|---|---|---|")
        for option in rows:
            default = f"`{option.default_text}`" if option.default_text else ""
            key = "same" if option.yaml == option.flag else f"`{option.yaml}`"
            kind = option.kind.value
            if option.choices:
                kind = ", ".join(option.choices)
            parts.append(
                f"| `--{option.flag}` | {kind} | {default} | {key if option.yaml else '-'} "
                f"| {option.effect.value} | {option.help} |"
            )
    return "\n".join(parts) + "\n"


def _remark(option: Option) -> str:
    if option.effect is Effect.NOW:
        return ""
    return {
        Effect.LATER: " (No effect yet.)",
        Effect.REFUSED: " (Not supported yet: refused.)",
        Effect.NONE: " (Ignored.)",
    }[option.effect]


def _sections(options: Sequence[Option]) -> list[tuple[str, list[Option]]]:
    return [
        (section, list(rows)) for section, rows in groupby(options, key=lambda row: row.section)
    ]
