"""Honest timing, with a clock that only the steps and the devices move."""

import sys
import types

import pytest
import tensorflow as tf

import course_launcher as launcher
from course_utils import timing
from course_utils.timing import Timing


@pytest.fixture
def machine(monkeypatch):
    """A clock in seconds, and devices that finish when they are waited for.

    They finish what they have been given.
    """
    machine = types.SimpleNamespace(now=0.0, pending=0.0, waits=0)

    def wait():
        machine.now += machine.pending
        machine.pending = 0.0
        machine.waits += 1

    monkeypatch.setattr(
        timing, "time", types.SimpleNamespace(perf_counter=lambda: machine.now)
    )
    monkeypatch.setattr(tf.raw_ops, "SyncDevice", wait)
    return machine


def lasting(machine, *milliseconds, on="now"):
    """A step that takes these times, one a call.

    They are Python's own ("now"), or a device's ("pending").
    """
    times = iter(milliseconds)

    def step():
        setattr(machine, on, getattr(machine, on) + next(times) / 1000)

    return step


@pytest.mark.parametrize("on", ["now", "pending"])
@pytest.mark.parametrize(
    "times, median, low, high",
    [
        ([5, 1, 4, 2, 3], 3, 2, 4),
        ([1, 2], 1.5, 1.25, 1.75),
        ([8, 8, 8, 8], 8, 8, 8),
        ([0, 10, 20, 70], 15, 7.5, 32.5),
    ],
)
def test_median_and_quartiles_without_the_warm_up(
    machine, on, times, median, low, high
):
    step = lasting(machine, 900, 800, 700, *times, on=on)
    result = timing.compare({"step": step}, warmup=3, repeats=len(times))["step"]
    assert (result.median, result.low, result.high) == pytest.approx(
        (median, low, high)
    )
    assert result.repeats == len(times)
    assert machine.pending == 0


def test_waits_for_the_devices_before_and_after_each_repeat(machine):
    timing.compare({"step": lambda: None}, warmup=1, repeats=3)
    assert machine.waits == 6 * len(tf.config.list_logical_devices())


def test_works_without_tensorflow(machine, monkeypatch):
    monkeypatch.delitem(sys.modules, "tensorflow")
    result = timing.compare({"step": lasting(machine, 2, 2)}, warmup=0, repeats=2)[
        "step"
    ]
    assert result.median == pytest.approx(2)
    assert machine.waits == 0 and "tensorflow" not in sys.modules


def test_compare_takes_turns(machine):
    calls = []
    steps = {name: lambda name=name: calls.append(name) for name in "ab"}
    assert list(timing.compare(steps, warmup=2, repeats=3)) == ["a", "b"]
    assert "".join(calls) == "aabb" + "ababab"


@pytest.mark.parametrize(
    "arguments, text",
    [
        (({},), "steps={}"),
        (({"a": print}, -1), "warmup=-1: must be a whole number, 0 or more"),
        (({"a": print}, 0, 1), "repeats=1: must be a whole number, 2 or more"),
        (({"a": print}, 0, 2.5), "repeats=2.5: must be a whole number, 2 or more"),
    ],
)
def test_wrong_arguments(arguments, text, capsys):
    with pytest.raises(ValueError, match=f"^{text}"):
        timing.compare(*arguments)
    assert capsys.readouterr().out == ""


def test_examples_per_second():
    assert Timing(median=4, low=2, high=8, repeats=9).examples_per_second(100) == (
        25_000,
        12_500,
        50_000,
    )


def test_text():
    assert str(Timing(4.001, 2, 8.125, 9)) == "4.00 ms (2.00 to 8.12, 9 repeats)"


def test_one_worker_of_two_waits_for_its_own_devices():
    def work():
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        add = tf.function(lambda: strategy.run(lambda: tf.ones(3) + 1))
        return timing.compare({"add": add}, warmup=1, repeats=2)["add"].repeats, len(
            tf.config.list_logical_devices()
        )

    assert launcher.run_on_workers(work) == [(2, 2)] * 2, (
        "each sees the other's device, too"
    )
