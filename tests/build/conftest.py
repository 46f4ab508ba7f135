"""Tests of the build extra share the file makers of the quick tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
