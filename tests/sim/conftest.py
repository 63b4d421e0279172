"""Makes this folder the package `sim` for the tests here, as `python tests/sim` does."""

import sys
from pathlib import Path
from types import ModuleType

if "sim" not in sys.modules:
    package = ModuleType("sim")
    package.__path__ = [str(Path(__file__).parent)]
    sys.modules["sim"] = package
