"""The Python library of this checkout, wherever the suite is run from."""

from __future__ import annotations

import sys

from places import ROOT

sys.path.insert(0, str(ROOT / "python"))

from cloveos import Client
from cloveos.demo.measure import available_bytes, descendants, pss_bytes, read_stat

__all__ = ["Client", "available_bytes", "descendants", "pss_bytes", "read_stat"]
