"""Tests that call Triton kernels on a CPU. Triton reads TRITON_INTERPRET on import, so they have their own process.

``tests/kernels/test_interpreted.py`` starts it; by hand: ``TRITON_INTERPRET=1 pytest tests/kernels/interpreted``.
"""

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
