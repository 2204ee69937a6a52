"""What on Colab every kernel, and no other process, loads before the first cell."""

import sys

if "ipykernel_launcher" in sys.orig_argv:
    import google.colab  # noqa: F401
