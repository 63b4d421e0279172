"""A member whose failpoints can be switched while it runs: SIGUSR1 reads MEMBER_ARMED again.

The server itself has no such switch, and shall have none; this is the tests' own way in.
"""

import os
import signal
import sys
import time
from pathlib import Path

from pyetcd.cli.main import main
from pyetcd.store import failpoints


def arm(*_: object) -> None:
    path = Path(os.environ["MEMBER_ARMED"])
    failpoints.arm(path.read_text() if path.exists() else "", sleep=time.sleep)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, arm)
    arm()
    sys.exit(main())
