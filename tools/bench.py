"""Print what a launch of two workers costs, beside two bare interpreters that load TensorFlow side by side.

Ratios of medians, taken in turns in one run, on this machine. Nothing here is a test: a slow machine is no fault.
"""

import pathlib
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from course_utils.cluster import run_on_workers

REPEATS = 5


def side_by_side():
    bare = [sys.executable, "-c", "import tensorflow"]
    for process in [subprocess.Popen(bare, stderr=subprocess.DEVNULL) for _ in range(2)]:
        process.wait()


def nothing():
    pass


def load_tensorflow():
    import tensorflow  # noqa: F401


WAYS = {
    "python -c 'import tensorflow', twice side by side": side_by_side,
    "a launch of two that does nothing": lambda: run_on_workers(nothing),
    "a launch of two that loads TensorFlow": lambda: run_on_workers(load_tensorflow),
}


def main():
    seconds = {name: [] for name in WAYS}
    for _ in range(REPEATS + 1):  # the first, which fills the disk's cache, does not count
        for name, way in WAYS.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(each[1:]) for name, each in seconds.items()}
    for name, median in medians.items():
        print(f"{name:52}{median:6.2f} s  × {median / next(iter(medians.values())):.2f}")


if __name__ == "__main__":
    main()
