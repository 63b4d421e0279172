"""Lines on stderr as etcdutl's logger writes them: time, level, place, message, fields, by tabs."""

import json
import time

from pyetcd.cli.terminal import Terminal


def tell(terminal: Terminal, place: str, message: str, fields: dict[str, object]) -> None:
    """One line of level info."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    words = [stamp, "info", place, message]
    if fields:
        words.append(json.dumps(fields, ensure_ascii=False))
    terminal.warn("\t".join(words))
