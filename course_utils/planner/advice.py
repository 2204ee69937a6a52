"""Which strategy to choose, by the arithmetic of `costs`."""

import bisect
import math
import textwrap
from dataclasses import dataclass

from course_utils.arguments import finite_number, one_of
from course_utils.planner.costs import (
    OPTIMIZER_SLOTS,
    ZERO,
    all_reduce_bytes,
    balanced,
    mib,
    on_device,
    plan,
    wire_bytes,
)


@dataclass(frozen=True)
class Recommendation:
    """`strategy`: one of STRATEGIES or "nothing fits"; `devices_needed`: None if no number will do."""

    strategy: str
    devices_needed: int | None
    reasons: tuple

    def __str__(self):
        needed = self.devices_needed
        how_many = f"{needed:,} devices at least" if needed else "whatever the number of devices"
        answer = "One device is enough" if needed == 1 else f"{_capital(self.strategy)}: {how_many}"
        lines = [textwrap.fill(each, 72, initial_indent="- ", subsequent_indent="  ") for each in self.reasons]
        return "\n".join([f"{answer}.", *lines])


def recommend(layers, device_memory_bytes, devices, global_batch_size, optimizer="adam", bytes_per_value=4):
    """Which strategy lets this model train on at most `devices` devices of `device_memory_bytes` each.

    Returns a Recommendation: the first that fits of STRATEGIES, in their order, on the fewest devices, by the
    arithmetic of `memory` with its default cut; else "nothing fits", with the fewest devices on which one of
    them would. Combined strategies are left out.
    Same errors as `memory`, but `devices` need neither divide the batch nor be at most the number of layers.
    """
    devices, batch, bytes_per_value, edges = plan(
        layers, "one device", devices, global_batch_size, bytes_per_value, None
    )
    room = int(finite_number("device_memory_bytes", device_memory_bytes, 1))
    slots = OPTIMIZER_SLOTS[one_of("optimizer", optimizer, OPTIMIZER_SLOTS)]

    def fullest(strategy, count):  # Memory of the device that needs most: the first; with ZeRO the last
        runs = balanced(layers, count) if strategy == "layers split" else edges
        which = [count - 1] if strategy in ZERO else range(len(runs) - 1)
        held = [on_device(each, layers, strategy, count, batch, slots, bytes_per_value, runs) for each in which]
        return max(held, key=lambda one: one.total)

    alone = fullest("one device", 1)
    if alone.total <= room:
        reasons = [f"It needs {alone}; the device has {mib(room)}."]
        if devices > 1:
            sent = max(all_reduce_bytes(sum(x.parameters for x in layers), devices, "ring", bytes_per_value))
            reasons.append(
                "More devices only pay when compute outweighs communication: data parallel on "
                f"{devices:,} leaves each 1/{devices:,} of the compute but {mib(sent)} to send."
            )
        return Recommendation("one device", 1, tuple(reasons))
    reasons = [f"One device would need {alone}: {mib(alone.total - room)} more than its {mib(room)}."]
    spare = (room - alone.total + alone.activations) * batch
    if spare >= alone.activations > 0:
        part = spare // alone.activations
        reasons.append(
            f"With at most {part:,} examples at a time, one device would do: take the batch in {-(-batch // part):,} "
            "parts, one after the other, and accumulate their gradients."
        )
    finest = max(2, *(max(layer.parameters, layer.outputs) for layer in layers))  # one value a share
    divisors = {d for n in range(1, math.isqrt(batch) + 1) if batch % n == 0 for d in (n, batch // n)}
    found = []
    for strategy, counts in (
        *((strategy, sorted(divisors - {1})) for strategy in ("data parallel", *ZERO)),
        ("layers split", range(2, len(layers) + 1)),
        ("tensor split", range(2, finest + 1)),
    ):
        if strategy == "tensor split":  # too many to try; more devices never need more: search by halves
            at = bisect.bisect_left(counts, True, key=lambda n: fullest("tensor split", n).total <= room)
        else:
            at = next((i for i, n in enumerate(counts) if fullest(strategy, n).total <= room), len(counts))
        if at == len(counts):
            most = counts[-1] if counts else 1
            limit = {"layers split": "the layers", "tensor split": "the largest layer"}.get(strategy, "the batch")
            reasons.append(
                f"{_capital(strategy)} fits on no number of devices: on {most:,}, the most that {limit} can be "
                f"divided among, the fullest would need {fullest(strategy, most)}."
            )
            continue
        found.append(counts[at])
        reasons.append(
            f"{_capital(strategy)} needs {counts[at]:,} devices (available: {devices:,}): the "
            f"fullest holds {fullest(strategy, counts[at])} and has {mib(room)}."
        )
        if counts[at] <= devices:
            sent = max(wire_bytes(layers, strategy, counts[at], batch, "ring", bytes_per_value))
            reasons.append(f"In exchange, a device sends up to {mib(sent)} a step.")
            return Recommendation(strategy, counts[at], tuple(reasons))
    reasons.append(
        "Get more devices or larger ones, or make the batch or the model smaller."
        if found
        else "More devices will not help: get larger ones, or make the batch or the model smaller."
    )
    return Recommendation("nothing fits", min(found, default=None), tuple(reasons))


def _capital(text):
    return text[0].upper() + text[1:]
