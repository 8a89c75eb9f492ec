"""`python3 -m cloveos.demo` is the drug-discovery demo, the only one."""

from __future__ import annotations

import sys

from .drug_discovery import main

sys.exit(main())
