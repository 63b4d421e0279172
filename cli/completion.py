"""Completion scripts for bash, zsh and fish, made from a command tree.

The script holds the words themselves, so that a press of the tab key starts no process: per command
the names below it and its flags. Anything else is completed as a file name.
"""

from collections.abc import Iterator
from typing import Final

from pyetcd.cli.command import Command

SHELLS: Final = ("bash", "zsh", "fish")


def script(root: Command, shell: str) -> str:
    """The script to source; it completes the program by the root's name."""
    assert shell in SHELLS, shell
    if shell == "fish":
        return _fish(root)
    head = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return head + _bash(root)


def _nodes(command: Command, path: str = "") -> Iterator[tuple[str, Command]]:
    yield path, command
    for child in sorted(command.children, key=lambda child: child.name):
        yield from _nodes(child, f"{path} {child.name}".strip())


def _bash(root: Command) -> str:
    cases = []
    for path, command in _nodes(root):
        words = [child.name for child in command.children]
        words += [f"--{name}" for name in command.all_flags()]
        cases.append(f'    "{path}") words="{" ".join(words)}" ;;\n')
    names = "|".join(f'"{path}"' for path, _ in _nodes(root) if path)
    function = f"__{root.name}_complete"
    return f"""# completion of {root.name}; load with: source <({root.name} completion bash)
{function}() {{
  local path="" words="" word next
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    next="${{path:+$path }}$word"
    case "$next" in {names}) path="$next" ;; esac
  done
  case "$path" in
{"".join(cases)}  esac
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F {function} {root.name}
"""


def _fish(root: Command) -> str:
    lines = [f"# completion of {root.name}; load with: {root.name} completion fish | source"]
    for path, command in _nodes(root):
        seen = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in path.split())
        when = seen or "__fish_use_subcommand"
        below = " ".join(child.name for child in command.children)
        if seen and below:
            when += f"; and not __fish_seen_subcommand_from {below}"
        lines += [
            f"complete -c {root.name} -n '{when}' -f -a {child.name} -d {_quoted(child.short)}"
            for child in command.children
        ]
        for flag in command.local_flags().values():
            short = f" -s {flag.short}" if flag.short else ""
            takes = "" if flag.kind == "bool" else " -r"
            on = f" -n '{seen}'" if seen else ""
            lines.append(
                f"complete -c {root.name}{on} -l {flag.name}{short}{takes} -d {_quoted(flag.usage)}"
            )
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
