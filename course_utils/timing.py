"""Honest timing: warmed up, synchronised, repeated, taken in turns, and shown with its
spread.
"""

import dataclasses
import statistics
import sys
import time

from course_utils.arguments import whole_number
from course_utils.language import translated as _


@dataclasses.dataclass(frozen=True)
class Timing:
    """Milliseconds of one call: the median of `repeats` calls, and the quartiles `low`
    and `high` around it.
    """

    median: float
    low: float
    high: float
    repeats: int

    def examples_per_second(self, examples: int) -> tuple[float, float, float]:
        """Return the throughput when one call handles this many examples: `(median,
        low, high)` in examples/s.
        """
        examples = whole_number("examples", examples, 1)
        rate = 1000 * examples
        return rate / self.median, rate / self.high, rate / self.low

    def __str__(self):
        return _(
            "{median:.2f} ms ({low:.2f} to {high:.2f}, {repeats} repeats)",
            **dataclasses.asdict(self),
        )


def compare(steps: dict, warmup: int = 2, repeats: int = 10) -> dict[str, Timing]:
    """Time several functions in one run: `{name: function}` → `{name: Timing}`.

    The functions take turns, so that a slow moment of the machine falls on all of them.
    A call ends when the devices have finished, not when Python has handed them the
    work.

    Args:
        steps: the functions.
        warmup: calls of each that are not timed (tracing, caches).
        repeats: calls of each that are timed.

    Raises:
        ValueError: without steps, for a negative warmup, and for fewer than 2 repeats.
    """
    if not steps:
        raise ValueError(_("steps={}: give at least one function to time"))
    warmup, repeats = (
        whole_number("warmup", warmup),
        whole_number("repeats", repeats, 2),
    )
    for step in steps.values():
        for _call in range(warmup):
            step()
    samples, wait_for_devices = {name: [] for name in steps}, _device_barrier()
    for _call in range(repeats):
        for name, step in steps.items():
            wait_for_devices()
            start = time.perf_counter()
            step()
            wait_for_devices()
            samples[name].append(1000 * (time.perf_counter() - start))
    quartiles = {
        name: statistics.quantiles(times, n=4, method="inclusive")
        for name, times in samples.items()
    }
    return {
        name: Timing(median, low, high, repeats)
        for name, (low, median, high) in quartiles.items()
    }


def _device_barrier():
    """Return a function that waits for this process's devices.

    (`tf.test.experimental.sync_devices` asks other workers' devices, too.)
    """
    tf = sys.modules.get("tensorflow")
    if not tf:
        return lambda: None
    mine = tf.zeros(()).device.rpartition("device:")[0]
    devices = tf.config.list_logical_devices()
    names = [
        device.name for device in devices if device.name.startswith((mine, "/device:"))
    ]

    def wait():
        for name in names:
            with tf.device(name):
                tf.raw_ops.SyncDevice()

    return wait
