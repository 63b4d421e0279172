"""Makes this folder the package `differential` for the tests here."""

import sys
from pathlib import Path
from types import ModuleType

if "differential" not in sys.modules:
    package = ModuleType("differential")
    package.__path__ = [str(Path(__file__).parent)]
    sys.modules["differential"] = package
