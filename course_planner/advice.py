"""Which class of Keras or TensorFlow to train with, on which machine, by the arithmetic
of `parallelism`.
"""

import bisect
import math
import textwrap
from dataclasses import dataclass, replace

from course_planner.formulas import mib
from course_planner.layers import LayerCost, checkpointed
from course_planner.parallelism import PARALLELISM_BY_NAME, Plan, StepTime, step_time
from course_utils.arguments import finite_number, one_of, whole_number
from course_utils.words import counted

HEADROOM = 0.9
"""The share of a device's memory that a plan may fill."""
UTILIZATION = 0.4
"""The share of its peak that a training reaches: 0.21 to 0.46 for large models
(Chowdhery et al., PaLM, 2022).
"""


@dataclass(frozen=True)
class Machine:
    """What there is to train on.

    Attributes:
        memory: bytes of one device.
        flops: its peak per second, in the precision that is used.
        bandwidth_inside: bytes/s that a device sends to another one of its host.
        bandwidth_between: bytes/s that a host sends to another.
        latency: seconds a message.
        price_per_hour: of all of it together; yours, since prices rot.
        kind: "GPU" or "TPU".
    """

    hosts: int
    devices_per_host: int
    memory: float
    flops: float
    bandwidth_inside: float
    bandwidth_between: float
    latency: float = 10e-6
    price_per_hour: float | None = None
    kind: str = "GPU"

    def __post_init__(self):
        for name in "hosts", "devices_per_host":
            whole_number(name, getattr(self, name), 1)
        for name in "memory", "flops", "bandwidth_inside", "bandwidth_between":
            finite_number(name, getattr(self, name), 1)
        finite_number("latency", self.latency)
        finite_number("price_per_hour", self.price_per_hour or 0)
        one_of("kind", self.kind, ("GPU", "TPU"))

    @property
    def devices(self) -> int:
        """Return all of them."""
        return self.hosts * self.devices_per_host

    def bandwidth(self, devices: int) -> float:
        """Return the bytes/s on the slowest link of a ring of this many devices, laid
        host by host.
        """
        return (
            self.bandwidth_inside
            if devices <= self.devices_per_host
            else self.bandwidth_between
        )


GIB, MOST_DEVICES = 2**30, 2**13
# Peaks in 16 bits without sparsity, one direction of a link: NVIDIA's sheets of the T4
# (2018), the A100 (2021) and the H100 SXM (2022), as quoted in November 2026; Google's
# of the v5e. Networks: AWS g4dn, p4de and p5.
MACHINES = {
    # PCIe 3.0; 50 Gbit/s Ethernet
    "4 x T4": Machine(1, 4, 16 * GIB, 65e12, 16e9, 6.25e9),
    "8 x A100": Machine(1, 8, 80 * GIB, 312e12, 300e9, 50e9),  # NVLink 3; 400 Gbit/s
    "8 x H100": Machine(1, 8, 80 * GIB, 989e12, 450e9, 400e9),  # NVLink 4; 3,200 Gbit/s
    # one link of the four that share 1,600 Gbit/s, one way; 2 x 100 Gbit/s
    "v5e-8": Machine(1, 8, 16 * GIB, 197e12, 50e9, 25e9, kind="TPU"),
}


@dataclass(frozen=True)
class Recommendation:
    """What to do: `use` is a class, or "nothing"; the rest says how, and why.

    Attributes:
        devices: how many of them; None where nothing fits.
        changes: what to change in the training first.
        step: its StepTime.
        throughput: examples/s.
        efficiency: throughput / (devices x that of one device, if one could).
        cost: of a million examples, by the machine's price; None without one.
        left_out: what the plan does not count.
    """

    use: str
    parallelism: str
    devices: int | None
    changes: tuple = ()
    memory: object = None
    step: StepTime | None = None
    throughput: float = 0.0
    efficiency: float = 0.0
    cost: float | None = None
    reasons: tuple = ()
    left_out: tuple = ()

    def __str__(self):
        if self.devices is None:
            answer = "Nothing fits."
        elif self.devices == 1:
            answer = f"One device is enough: {self.use}."
        else:
            answer = f"{self.use}, {self.parallelism} on {self.devices:,} devices."
        lines = list(self.reasons) + [f"First {change}." for change in self.changes]
        if self.step:
            lines.append(f"The fullest device holds {self.memory}.")
            sending = (
                f" and sends for {_time(self.step.communication)}"
                if self.step.communication
                else ""
            )
            rate = (
                f"{self.throughput:,.0f}"
                if self.throughput >= 100
                else f"{self.throughput:.3g}"
            )
            speed = (
                f"computes for {_time(self.step.compute)}{sending}: {rate} "
                f"{'example' if rate == '1' else 'examples'}/s"
            )
            many = ""
            if self.devices and self.devices > 1:
                many = f", {self.efficiency:.0%} of {self.devices:,} times one device"
            lines.append(f"A step {speed}{many}.")
        if self.cost is not None:
            lines.append(f"A million examples cost {self.cost:,.2f}, at your price.")
        if self.left_out:
            lines.append(f"Left out: {', '.join(self.left_out)}.")
        lines = [answer, *(f"- {line}" for line in lines)]
        return "\n".join(
            textwrap.fill(line, 72, subsequent_indent="  ") for line in lines
        )


def recommend(
    layers: list[LayerCost],
    machine: Machine,
    global_batch_size: int,
    optimizer: str = "adam",
    precision: str = "float32",
    headroom: float = HEADROOM,
    utilization: float = UTILIZATION,
) -> Recommendation:
    """Return what to train this model with on this machine.

    That is the least change that fits, and all devices where they help. First it looks
    for what one device can do: the batch as it is, accumulated in parts, with Keras'
    mixed precision, with activation checkpointing. If that fits, more devices are used
    where data parallelism makes a step at least 1.2 times as fast. If not, each device
    takes its share of the batch (data parallelism, where one device has no room for an
    accumulator), then the states are divided (ZeRO-3), then the layers, each with the
    same changes.

    Args:
        layers: what `layer_costs` returns.
        machine: what there is to train on.
        global_batch_size: examples a step, of all devices together.
        optimizer: one of OPTIMIZER_SLOTS.
        precision: one of PRECISIONS.
        headroom: the share of a device's memory to fill at most.
        utilization: the share of `machine.flops` that is reached.

    Raises:
        ValueError: for nonsense.
    """
    if not isinstance(machine, Machine):
        raise ValueError(
            f"machine={machine!r}: must be a Machine, such as planner.MACHINES['8 x "
            "A100']"
        )
    base = Plan(layers, "one device", 1, global_batch_size, optimizer, precision)
    memory_budget = machine.memory * finite_number("headroom", headroom, 0, 1)
    search = _Search(
        base,
        machine,
        memory_budget,
        machine.flops * finite_number("utilization", utilization, 0, 1),
    )
    alone = search.fitting("one device", 1)
    counts = [
        n for n in range(machine.devices, 1, -1) if base.global_batch_size % n == 0
    ]
    if alone:
        many = search.fastest("data parallel", counts)
        if many and many.throughput > 1.2 * alone.throughput:
            return many
        reasons = ()
        if machine.devices > 1:
            reasons = ("More devices would not make a step 1.2 times as fast.",)
        if machine.devices > 1 and not counts:
            whole = math.ceil(base.global_batch_size / machine.devices)
            reasons = (
                f"No number of devices from 2 to {machine.devices} divides a batch of "
                f"{base.global_batch_size:,}: {whole * machine.devices:,} examples "
                "would do for all of them.",
            )
        return replace(alone, reasons=reasons)
    least = min(
        _largest(replace(base, global_batch_size=1, layers=costs, precision=kind)).total
        for _, costs, kind in search.ways
    )
    reason = (
        f"One device would need {mib(least)} for a single example, at best, and may "
        f"fill {mib(memory_budget)}."
    )
    if least <= memory_budget:
        reason = (
            "One device can hold a single example, and not the accumulator beside it "
            f"that {base.global_batch_size:,} need."
        )
    reasons = [reason]
    for name in "data parallel", "ZeRO-3", "tensor parallel", "pipeline parallel":
        divides_batch = PARALLELISM_BY_NAME[name].divides_batch
        every = counts if divides_batch else range(machine.devices, 1, -1)
        best = search.fastest(name, every)
        if best:
            return replace(best, reasons=tuple(reasons))
        if name != "data parallel":  # it needs what one device needs for an example
            reasons.append(search.why_not(name))
    return Recommendation(
        "nothing",
        "nothing fits",
        None,
        reasons=tuple(reasons),
        left_out=_left_out(layers),
    )


class _Search:
    """The ways to train one model on one machine.

    Attributes:
        base: the plan on one device.
        machine: what there is to train on.
        memory_budget: bytes that a device may fill.
        speed: FLOP/s that a device reaches.
    """

    def __init__(self, base, machine, memory_budget, speed):
        self.base, self.machine = base, machine
        self.memory_budget, self.speed = memory_budget, speed
        self.ways = list(_training_variants(base))
        alone = step_time(
            base.layers,
            "one device",
            1,
            1,
            flops_per_second=speed,
            bandwidth=1,
            latency=0,
        )
        self.one_example = alone.total

    def fastest(self, parallelism, counts):
        """Return the fastest plan of this kind, of those that fit on one of these
        numbers of devices; or None.
        """
        options = [
            option for count in counts if (option := self.fitting(parallelism, count))
        ]
        return max(options, key=lambda option: option.throughput, default=None)

    def fitting(self, parallelism, devices):
        """Return the plan with the least change that fits on this many devices, as a
        Recommendation; or None.
        """
        base, machine, kind = self.base, self.machine, PARALLELISM_BY_NAME[parallelism]
        batch = base.global_batch_size
        for changes, costs, precision in self.ways:
            plan = {
                "layers": costs,
                "parallelism": parallelism,
                "devices": devices,
                "precision": precision,
            }
            try:
                whole = replace(base, **plan)
            # more devices than layers, or a graph that does not split
            except ValueError:
                return None
            if not kind.cuts_evenly(whole):
                return None
            examples = batch // (devices if kind.divides_batch else 1)
            parts = self.accumulation_steps(whole, examples)
            if parts is None:
                continue
            held = _largest(replace(whole, accumulation_steps=parts))
            if parts > 1:
                words = "the batch, one after the other (gradient_accumulation_steps)"
                changes = (f"accumulate {parts:,} parts of {words}", *changes)
            rates = {
                "bandwidth": machine.bandwidth(devices),
                "latency": machine.latency,
            }
            step = step_time(
                global_batch_size=batch,
                flops_per_second=self.speed,
                accumulation_steps=parts,
                **plan,
                **rates,
            )
            cost = (
                machine.price_per_hour
                and machine.price_per_hour / 3600 * step.total / batch * 1e6
            )
            return Recommendation(
                use=_class_for(parallelism, devices, machine, parts),
                parallelism=parallelism,
                devices=devices,
                changes=changes,
                memory=held,
                step=step,
                throughput=batch / step.total,
                efficiency=self.one_example * batch / step.total / devices,
                cost=cost,
                left_out=_left_out(base.layers),
            )
        return None

    def accumulation_steps(self, plan, examples):
        """Return in how many equal parts a device must take its examples to fit; None
        if one at a time does not. An accumulator takes some of the memory itself.
        """

        def fits(parts):
            held = _largest(replace(plan, accumulation_steps=parts))
            return held.total <= self.memory_budget

        if fits(1):
            return 1
        divisors = _divisors(examples)[1:]
        at = bisect.bisect_left(divisors, True, key=fits)
        return divisors[at] if at < len(divisors) else None

    def why_not(self, parallelism):
        """Return why this kind does not fit on the machine, and how many devices would
        do.
        """
        batch, have = self.base.global_batch_size, self.machine.devices
        try:
            PARALLELISM_BY_NAME[parallelism].check(
                replace(self.base, parallelism=parallelism)
            )
        except ValueError as problem:
            sentence = str(problem).removeprefix("layers: ")
            return f"{sentence[0].upper()}{sentence[1:]}."
        most = {"ZeRO-3": batch, "pipeline parallel": len(self.base.layers)}.get(
            parallelism, MOST_DEVICES
        )
        counts = range(2, min(most, MOST_DEVICES) + 1)
        counts = [
            count for count in counts if parallelism != "ZeRO-3" or batch % count == 0
        ]
        if parallelism == "tensor parallel":
            kind, plan = PARALLELISM_BY_NAME[parallelism], self.base
            plans = [
                replace(plan, parallelism=parallelism, devices=each) for each in counts
            ]
            counts = [plan.devices for plan in plans if kind.cuts_evenly(plan)]
        at = bisect.bisect_left(
            counts, True, key=lambda count: self.fitting(parallelism, count) is not None
        )
        words = f"Does not fit on your {counted(have, 'device')}; {parallelism} would"
        if at < len(counts):
            return f"{words} need {counts[at]:,}."
        why = (
            f": {batch:,} examples divide no further" if parallelism == "ZeRO-3" else ""
        )
        return f"{words} not fit on more either{why}."


MIXED = "set Keras' policy mixed_bfloat16 (mixed_float16 on a T4)"


def _training_variants(plan):
    """Yield (changes in words, layers, precision), from the least change on."""
    if any(layer.recomputed for layer in plan.layers):  # that is done already
        yield (), plan.layers, plan.precision
        if plan.precision == "float32":
            yield (MIXED,), plan.layers, "mixed_bfloat16"
        return
    saving = checkpointed(plan.layers)
    mixed = (MIXED,)
    again = ("recompute activations (keras.remat, a segment of layers each)",)
    yield (), plan.layers, plan.precision
    if plan.precision == "float32":
        yield mixed, plan.layers, "mixed_bfloat16"
    yield again, saving, plan.precision
    if plan.precision == "float32":
        yield mixed + again, saving, "mixed_bfloat16"


def _largest(plan):
    """Return the Memory of the device that needs most."""
    kind = PARALLELISM_BY_NAME[plan.parallelism]
    which = (
        range(plan.devices)
        if plan.parallelism == "pipeline parallel"
        else {0, plan.devices - 1}
    )
    return max(kind.memory(plan, which), key=lambda memory: memory.total)


def _divisors(number):
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


def _class_for(parallelism, devices, machine, parts):
    """Return the class of TensorFlow or Keras that trains so.

    parts: of an accumulated batch. Under the strategies of tf.distribute `fit` cannot
    accumulate gradients: docs/compatibility.md shows who can.
    """
    inside = devices <= machine.devices_per_host
    strategy = "MirroredStrategy" if inside else "MultiWorkerMirroredStrategy"
    own_loop = ", its own loop" if parts > 1 or not inside else ""
    on_jax = "keras.distribution.DataParallel on JAX"
    if machine.kind == "TPU":
        copies = f"tf.distribute.TPUStrategy, or {on_jax}" if parts == 1 else on_jax
    else:
        copies = f"tf.distribute.{strategy}{own_loop}, or {on_jax}"
        if parts > 1:
            copies = f"{on_jax}, or tf.distribute.{strategy}{own_loop}"
    cut = "keras.distribution.ModelParallel on JAX, kernels cut along the"
    return {
        "one device": "no strategy (or tf.distribute.OneDeviceStrategy)",
        "data parallel": copies,
        "ZeRO-3": f"{cut} batch axis",
        "tensor parallel": f"{cut} model axis",
        "pipeline parallel": "no class of Keras or TensorFlow",
    }[parallelism]


def _time(seconds):
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _left_out(layers):
    """Return what the arithmetic does not count, in words."""
    guessed = [layer.name for layer in layers if layer.guess]
    left_out = "the input, work space, what the framework keeps for itself"
    if not guessed:
        return (left_out,)
    names = ", ".join(guessed[:3])
    if len(guessed) > 3:
        names += " …"
    return left_out, f"{names}: their FLOPs are guessed"
