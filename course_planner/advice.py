"""Which class of Keras or TensorFlow to train with, on which machine, by the arithmetic
of `plans`.
"""

import bisect
import contextlib
import math
import textwrap
from dataclasses import dataclass, replace

from course_planner.formulas import mib
from course_planner.layers import LayerCost, checkpointed
from course_planner.parallelism import composition
from course_planner.plans import Memory, Plan, Rates, StepTime
from course_utils.arguments import finite_number, one_of, whole_number
from course_utils.language import counted, marked, translated as _

HEADROOM = 0.9
"""The share of a device's memory that a plan may fill."""
UTILIZATION = 0.4
"""The share of its peak that a device reaches while it multiplies: 0.21 to 0.46 for
large models (Chowdhery et al., PaLM, 2022). What models lose besides is in the bytes
that they move, and in what starts.
"""
STEP_START = 0.4e-3
"""Seconds until a step begins: fitted on an H100 (see this package's README)."""
LAUNCH = 5e-6
"""Seconds to start an operation on the device: fitted, too."""
FORMATS = {
    # Products of float32 are made in TF32 on an A100 and later, and in bfloat16 on a
    # TPU, unless TensorFlow and JAX are told otherwise.
    "float32": ("tf32", "float32", "bfloat16"),
    # A T4 has no bfloat16: there it is mixed_float16.
    "mixed_bfloat16": ("bfloat16", "float16"),
    "mixed_float16": ("float16", "bfloat16"),
    "mixed, master copies": ("bfloat16", "float16"),
}


@dataclass(frozen=True)
class Machine:
    """What there is to train on.

    Attributes:
        memory: bytes of one device.
        flops: its peak per second: a number for every precision, or a dict with
            "float32", "tf32", "float16", "bfloat16", those that it has.
        bandwidth_inside: bytes/s that a device sends to another one of its host, one
            way.
        bandwidth_between: bytes/s that a host sends to another, one way; its devices
            share them.
        latency: seconds a message.
        price_per_hour: of all of it together; yours, since prices rot.
        kind: "GPU" or "TPU".
        memory_bandwidth: bytes/s of a device's own memory; None: not counted.
    """

    hosts: int
    devices_per_host: int
    memory: float
    flops: float | dict[str, float]
    bandwidth_inside: float
    bandwidth_between: float
    latency: float = 10e-6
    price_per_hour: float | None = None
    kind: str = "GPU"
    memory_bandwidth: float | None = None

    def __post_init__(self):
        for name in "hosts", "devices_per_host":
            whole_number(name, getattr(self, name), 1)
        for name in "memory", "bandwidth_inside", "bandwidth_between":
            finite_number(name, getattr(self, name), 1)
        if isinstance(self.flops, dict):
            if not self.flops:
                raise ValueError(
                    _("flops={}: must be a number, or name a peak or more")
                )
            for name, peak in self.flops.items():
                one_of("flops", name, FORMATS["float32"] + FORMATS["mixed_float16"])
                finite_number(f"flops[{name!r}]", peak, 1)
        else:
            finite_number("flops", self.flops, 1)
        finite_number("latency", self.latency)
        finite_number("price_per_hour", self.price_per_hour or 0)
        one_of("kind", self.kind, ("GPU", "TPU"))
        if self.memory_bandwidth is not None:
            finite_number("memory_bandwidth", self.memory_bandwidth, 1)

    @property
    def devices(self) -> int:
        """Return all of them."""
        return self.hosts * self.devices_per_host

    def has(self, precision: str) -> bool:
        """Return whether its peak in this precision is known."""
        if not isinstance(self.flops, dict):
            return True
        return any(name in self.flops for name in FORMATS[precision])

    def peak(self, precision: str = "float32") -> float:
        """Return the FLOP/s of one device, at most, in one of PRECISIONS."""
        if not isinstance(self.flops, dict):
            return self.flops
        for name in FORMATS[one_of("precision", precision, FORMATS)]:
            if name in self.flops:
                return self.flops[name]
        raise ValueError(
            _(
                "precision={precision!r}: must be one that the machine's flops "
                "name ({names})",
                precision=precision,
                names=", ".join(self.flops),
            )
        )

    def bandwidth(self, devices: int, stride: int = 1) -> float:
        """Return the bytes/s that each device sends to the next one of a ring of this
        many, laid host by host, every `stride`-th device in it.

        Where a ring leaves its host, all rings that do so share the host's bytes/s.
        """
        if devices * stride <= self.devices_per_host:
            return self.bandwidth_inside
        in_host = max(1, self.devices_per_host // stride)
        rings = self.devices_per_host // in_host
        return min(self.bandwidth_inside, self.bandwidth_between / rings)

    def rates(self, plan: Plan, utilization: float = UTILIZATION) -> Rates:
        """Return how fast a plan's devices compute and send here.

        utilization: the share of the peak that is reached while they multiply.
        """
        finite_number("utilization", utilization, 0.01, 1)
        inside = plan.tensor
        return Rates(
            flops_per_second=utilization * self.peak(plan.precision),
            bandwidth=self.bandwidth(plan.data, inside * plan.pipeline),
            latency=self.latency,
            bandwidth_inside_layers=self.bandwidth(inside),
            bandwidth_between_stages=self.bandwidth(plan.pipeline, inside),
            memory_bandwidth=self.memory_bandwidth,
            start=STEP_START,
            launch=LAUNCH,
        )


GIB, MOST_DEVICES = 2**30, 2**13
# Peaks of a device, dense (without sparsity), its memory, and one direction of a link,
# as the makers' sheets said in November 2026. Networks of a host, one direction: AWS
# g4dn.12xlarge (50 Gbit/s), p4de (400 Gbit/s), p5 (3,200 Gbit/s).
# NVIDIA T4 datasheet, 2018: FP32 8.1 and FP16 65 TFLOP/s, 320 GB/s; PCIe 3.0 x 16.
T4_PEAKS = {"float32": 8.1e12, "float16": 65e12}
# NVIDIA A100 80GB SXM datasheet, 2021: FP32 19.5, TF32 156, 16 bits 312 TFLOP/s,
# 2,039 GB/s; NVLink 600 GB/s both ways.
A100_PEAKS = {"float32": 19.5e12, "tf32": 156e12, "float16": 312e12, "bfloat16": 312e12}
# NVIDIA H100 SXM datasheet, 2022: FP32 67, TF32 495, 16 bits 989 TFLOP/s (half of what
# is printed, with sparsity), 3,350 GB/s; NVLink 900 GB/s both ways.
H100_PEAKS = {"float32": 67e12, "tf32": 495e12, "float16": 989e12, "bfloat16": 989e12}
# Google Cloud, TPU v5e, 2023: 197 TFLOP/s in bfloat16, 819 GB/s, four links of a chip
# with 1,600 Gbit/s in all (one of them, one way, is what a ring of 2 x 4 chips has); a
# host's network 200 Gbit/s.
V5E_PEAKS = {"bfloat16": 197e12}
MACHINES = {
    "4 x T4": Machine(1, 4, 16 * GIB, T4_PEAKS, 16e9, 6.25e9, memory_bandwidth=320e9),
    "8 x A100": Machine(
        1, 8, 80 * GIB, A100_PEAKS, 300e9, 50e9, memory_bandwidth=2039e9
    ),
    "8 x H100": Machine(
        1, 8, 80 * GIB, H100_PEAKS, 450e9, 400e9, memory_bandwidth=3350e9
    ),
    "v5e-8": Machine(
        1, 8, 16 * GIB, V5E_PEAKS, 50e9, 25e9, kind="TPU", memory_bandwidth=819e9
    ),
}


@dataclass(frozen=True)
class Recommendation:
    """What to do: `use` is a class, or "nothing"; the rest says how, and why.

    Attributes:
        devices: how many of them; None where nothing fits.
        changes: what to change in the training first.
        memory: of the fullest device.
        step: its StepTime.
        throughput: examples/s.
        efficiency: throughput / (devices x that of one device, if one could).
        examples: of the whole run, if you said how many.
        cost: of these, or of a million examples, by the machine's price; None without
            one.
        left_out: what the plan does not count.
    """

    use: str
    parallelism: str
    devices: int | None
    changes: tuple = ()
    memory: Memory | None = None
    step: StepTime | None = None
    throughput: float = 0.0
    efficiency: float = 0.0
    examples: int | None = None
    cost: float | None = None
    reasons: tuple = ()
    left_out: tuple = ()

    @property
    def duration(self) -> float | None:
        """Return the seconds of the whole run; None if nobody said how long it is."""
        if self.examples is None or not self.throughput:
            return None
        return self.examples / self.throughput

    def __str__(self):
        if self.devices is None:
            answer = _("Nothing fits.")
        elif self.devices == 1:
            answer = _("One device is enough: {use}.", use=self.use)
        else:
            answer = _(
                "{use}, {parallelism} on {devices:,} devices.",
                use=self.use,
                parallelism=_(self.parallelism),
                devices=self.devices,
            )
        lines = list(self.reasons) + [
            _("First {change}.", change=change) for change in self.changes
        ]
        if self.step:
            lines += [
                _("The fullest device holds {memory}.", memory=self.memory),
                self._speed(self.step),
            ]
        lines += self._run()
        if self.left_out:
            lines.append(_("Left out: {names}.", names=", ".join(self.left_out)))
        lines = [answer, *(f"- {line}" for line in lines)]
        return "\n".join(
            textwrap.fill(line, 72, subsequent_indent="  ") for line in lines
        )

    def _speed(self, step):
        """Return how long a step takes, in words."""
        sending = ""
        if step.communication:
            sending = _(" and sends for {time}", time=_time(step.communication))
        rate = f"{self.throughput:.3g}"
        if self.throughput >= 100:
            rate = f"{self.throughput:,.0f}"
        speed = _("{rate} examples/s", rate=rate)
        if rate == "1":
            speed = _("1 example/s")
        many = ""
        if self.devices and self.devices > 1:
            many = _(
                ", {efficiency:.0%} of {devices:,} times one device",
                efficiency=self.efficiency,
                devices=self.devices,
            )
        computing = _("A step computes for {time}", time=_time(step.compute))
        return _(
            "{computing}{sending}: {speed}{many}.",
            computing=computing,
            sending=sending,
            speed=speed,
            many=many,
        )

    def _run(self):
        """Return the duration and the cost of the run, in words, as far as known."""
        if self.examples and self.duration:
            price = ""
            if self.cost is not None:
                cost = _("less than 0.01")
                if self.cost >= 0.01:
                    cost = f"{self.cost:,.2f}"
                price = _(", and cost {cost} at your price", cost=cost)
            duration = _time(self.duration)
            return [
                _(
                    "{examples} take {duration}{price}.",
                    examples=counted(self.examples, "example", "examples"),
                    duration=duration,
                    price=price,
                )
            ]
        if self.cost is not None:
            return [
                _("A million examples cost {cost:,.2f}, at your price.", cost=self.cost)
            ]
        return []


def recommend(  # noqa: PLR0913
    layers: list[LayerCost],
    machine: Machine,
    global_batch_size: int,
    optimizer: str = "adam",
    precision: str = "float32",
    *,
    examples: int | None = None,
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
        examples: of the whole run (those of an epoch, times the epochs): then it says
            how long it takes, and with the machine's price what it costs.
        headroom: the share of a device's memory to fill at most.
        utilization: the share of a device's peak that is reached.

    Raises:
        ValueError: for nonsense.
    """
    if not isinstance(machine, Machine):
        raise ValueError(
            _(
                "machine={machine!r}: must be a Machine, such as "
                "planner.MACHINES['8 x A100']",
                machine=machine,
            )
        )
    if examples is not None:
        examples = whole_number("examples", examples, 1)
    base = Plan(layers, global_batch_size, optimizer=optimizer, precision=precision)
    memory_budget = machine.memory * finite_number("headroom", headroom, 0.01, 1)
    finite_number("utilization", utilization, 0.01, 1)
    machine.peak(base.precision)  # raises where it is not known
    search = _Search(base, machine, memory_budget, utilization, examples)
    on_one = search.fitting("one device", 1)
    counts = [
        n for n in range(machine.devices, 1, -1) if base.global_batch_size % n == 0
    ]
    if on_one:
        many = search.fastest("data parallel", counts)
        if many and many.throughput > 1.2 * on_one.throughput:
            return many
        return replace(on_one, reasons=search.why_one(counts))
    reasons = [search.why_not_one()]
    for name in "data parallel", "ZeRO-3", "tensor parallel", "pipeline parallel":
        divides_batch = name in ("data parallel", "ZeRO-3")
        every = counts if divides_batch else range(machine.devices, 1, -1)
        best = search.fastest(name, every)
        if best:
            if name == "ZeRO-3":
                reasons += search.zero_2(best)
            return replace(best, reasons=tuple(reasons))
        if name != "data parallel":  # it needs what one device needs for an example
            reasons.append(search.why_not(name))
    return Recommendation(
        "nothing",
        marked("nothing fits"),
        None,
        examples=examples,
        reasons=(*reasons, *search.product()),
        left_out=_left_out(layers),
    )


class _Search:
    """The ways to train one model on one machine.

    Attributes:
        base: the plan on one device.
        machine: what there is to train on.
        memory_budget: bytes that a device may fill.
        utilization: the share of its peak that a device reaches.
        examples: of the whole run, or None.
    """

    def __init__(self, base, machine, memory_budget, utilization, examples):
        self.base, self.machine = base, machine
        self.memory_budget, self.utilization = memory_budget, utilization
        self.examples = examples
        self.ways = [way for way in _training_variants(base) if machine.has(way[2])]

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
        found = self.fitting_plan(parallelism, devices)
        if found is None:
            return None
        changes, plan = found
        step = plan.step_time(self.machine.rates(plan, self.utilization))
        held = plan.largest_memory()
        on_one = replace(plan, data=1, tensor=1, pipeline=1, zero=0, micro_batches=1)
        one = on_one.step_time(self.machine.rates(on_one, self.utilization))
        batch, price = plan.global_batch_size, self.machine.price_per_hour
        seconds = (self.examples or 1e6) / batch * step.total
        return Recommendation(
            use=_class_for(parallelism, devices, self.machine, plan.accumulation_steps),
            parallelism=parallelism,
            devices=devices,
            changes=changes,
            memory=held,
            step=step,
            throughput=batch / step.total,
            efficiency=one.total / step.total / devices,
            examples=self.examples,
            cost=price and price / 3600 * seconds,
            left_out=_left_out(plan.layers, held.total),
        )

    def fitting_plan(self, parallelism, devices):
        """Return (changes, Plan) of the least change that fits; or None."""
        for changes, costs, precision in self.ways:
            ways = composition(parallelism, devices)
            try:
                plan = replace(self.base, layers=costs, precision=precision, **ways)
            # more devices than layers, or a graph that does not split
            except ValueError:
                return None
            if not plan.cuts_evenly():
                return None
            if parallelism == "pipeline parallel":
                plan, changes = self.in_micro_batches(plan, changes)
            parts = self.accumulation_steps(plan)
            if parts is None:
                continue
            if parts > 1:
                words = _(
                    "accumulate {parts:,} parts of the batch, one after the other "
                    "(gradient_accumulation_steps)",
                    parts=parts,
                )
                changes = (words, *changes)
            return changes, replace(plan, accumulation_steps=parts)
        return None

    def in_micro_batches(self, plan, changes):
        """Return a pipeline's plan and changes with micro-batches, up to eight for each
        stage, so that stages wait little.
        """
        batch = plan.global_batch_size
        most = max(n for n in _divisors(batch) if n <= 8 * plan.pipeline)
        if most == 1:
            return plan, changes
        words = _("cut the batch into {most:,} micro-batches", most=most)
        return replace(plan, micro_batches=most), (words, *changes)

    def product(self):
        """Return a sentence, in a list, if a product of several kinds would fit."""
        machine, found = self.machine, []
        for _changes, costs, precision in self.ways:
            base = replace(self.base, layers=costs, precision=precision)
            for ways in self.products():
                with contextlib.suppress(ValueError):
                    plan = replace(base, **ways)
                    if plan.cuts_evenly() and self.fits(plan):
                        rates = machine.rates(plan, self.utilization)
                        found.append((plan.step_time(rates).total, ways))
            if found:
                break
        if not found:
            return []
        seconds, ways = min(found, key=lambda one: one[0])
        rate = self.base.global_batch_size / seconds
        words = " x ".join(
            f"{name.replace('zero', 'ZeRO')} {n}"
            for name, n in ways.items()
            if n > 1 and name != "micro_batches"
        )
        return [
            _(
                "No single kind fits. {words} would, in {micro_batches:,} "
                "micro-batches, at {rate:.3g} examples/s: no class of Keras or "
                "TensorFlow trains so.",
                words=words,
                micro_batches=ways["micro_batches"],
                rate=rate,
            )
        ]

    def products(self):
        """Yield what Plan takes for all devices of the machine, in several kinds."""
        have, batch = self.machine.devices, self.base.global_batch_size
        for tensor in _divisors(self.machine.devices_per_host):
            for pipeline in _divisors(have // tensor):
                data = have // tensor // pipeline
                if batch % data or sum(n > 1 for n in (tensor, pipeline, data)) < 2:
                    continue
                ways = {"data": data, "tensor": tensor, "pipeline": pipeline}
                yield ways | {
                    "zero": 1 if data > 1 else 0,
                    "micro_batches": batch // data,
                }

    def accumulation_steps(self, plan):
        """Return in how many equal parts a device must take its examples to fit; None
        if one at a time does not. An accumulator takes some of the memory itself.
        """

        if self.fits(plan):
            return 1
        divisors = _divisors(plan.examples)[1:]
        at = bisect.bisect_left(
            divisors,
            True,
            key=lambda parts: self.fits(replace(plan, accumulation_steps=parts)),
        )
        return divisors[at] if at < len(divisors) else None

    def fits(self, plan):
        """Return whether the fullest device has room for it, and for what is whole."""
        return plan.largest_memory().total + plan.at_work() <= self.memory_budget

    def why_one(self, counts):
        """Return why one device is enough, where there are more. counts: of devices
        that divide the batch.
        """
        most, batch = self.machine.devices, self.base.global_batch_size
        if most == 1:
            return ()
        if counts:
            return (_("More devices would not make a step 1.2 times as fast."),)
        return (
            _(
                "No number of devices from 2 to {most} divides a batch of "
                "{batch:,}: {enough:,} examples would do for all of them.",
                most=most,
                batch=batch,
                enough=math.ceil(batch / most) * most,
            ),
        )

    def why_not_one(self):
        """Return why one device is not enough."""
        plans = (
            replace(self.base, global_batch_size=1, layers=costs, precision=kind)
            for _changes, costs, kind in self.ways
        )
        least = min(plan.largest_memory().total for plan in plans)
        if least <= self.memory_budget:
            return _(
                "One device can hold a single example, and not the "
                "accumulator beside it that {examples:,} need.",
                examples=self.base.global_batch_size,
            )
        return _(
            "One device would need {least} for a single example, at best, "
            "and may fill {memory_budget}.",
            least=mib(least),
            memory_budget=mib(self.memory_budget),
        )

    def zero_2(self, advised):
        """Return a sentence, in a list, if ZeRO-2 would fit where ZeRO-3 is advised."""
        found = self.fitting_plan("ZeRO-2", advised.devices)
        if found is None or found[0] != advised.changes:
            return []
        return [
            _("ZeRO-2 would fit as well, and send less: no class of Keras offers it.")
        ]

    def why_not(self, parallelism):
        """Return why this kind does not fit on the machine, and how many devices would
        do.
        """
        batch, have = self.base.global_batch_size, self.machine.devices
        most = {"ZeRO-3": batch, "pipeline parallel": len(self.base.layers)}.get(
            parallelism, MOST_DEVICES
        )
        counts = range(2, min(most, MOST_DEVICES) + 1)
        if parallelism == "ZeRO-3":
            counts = [count for count in counts if batch % count == 0]
        elif problem := self.problem(parallelism):
            return problem
        if parallelism == "tensor parallel":
            plans = (replace(self.base, tensor=count) for count in counts)
            counts = [plan.tensor for plan in plans if plan.cuts_evenly()]
        at = bisect.bisect_left(
            counts,
            True,
            key=lambda count: self.fitting_plan(parallelism, count) is not None,
        )
        words = {
            "devices": counted(have, "device", "devices"),
            "parallelism": _(parallelism),
        }
        if at < len(counts):
            return _(
                "Does not fit on your {devices}; {parallelism} would need {needed:,}.",
                needed=counts[at],
                **words,
            )
        why = ""
        if parallelism == "ZeRO-3":
            why = _(": {batch:,} examples divide no further", batch=batch)
        return _(
            "Does not fit on your {devices}; {parallelism} would not fit on more "
            "either{why}.",
            why=why,
            **words,
        )

    def problem(self, parallelism):
        """Return why these layers cannot be divided so at all, or ""."""
        if len(self.base.layers) == 1 and parallelism == "pipeline parallel":
            return ""
        try:
            replace(self.base, **composition(parallelism, 2))
        except ValueError as problem:
            sentence = str(problem).removeprefix("layers: ")
            return f"{sentence[0].upper()}{sentence[1:]}."
        return ""


MIXED = marked("set Keras' policy mixed_bfloat16 (mixed_float16 on a T4)")


def _training_variants(plan):
    """Yield (changes in words, layers, precision), from the least change on."""
    again = (
        _(
            "recompute activations (keras.remat, a segment of layers each; on "
            "JAX it fails around Dropout and BatchNormalization)"
        ),
    )
    ways: list[tuple[tuple, list]] = [((), plan.layers)]
    if all(layer.segment is None for layer in plan.layers):  # it is not done already
        ways.append((again, checkpointed(plan.layers)))
    for changes, layers in ways:
        yield changes, layers, plan.precision
        if plan.precision == "float32":
            yield (_(MIXED), *changes), layers, "mixed_bfloat16"


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
    own_loop = _(", its own loop") if parts > 1 or not inside else ""
    on_jax = _("keras.distribution.DataParallel on JAX")
    if machine.kind == "TPU":
        either = _(
            "{first}, or {second}", first="tf.distribute.TPUStrategy", second=on_jax
        )
        copies = either if parts == 1 else on_jax
    else:
        on_tensorflow = f"tf.distribute.{strategy}{own_loop}"
        choices = on_tensorflow, on_jax
        if parts > 1:
            choices = on_jax, on_tensorflow
        copies = _("{first}, or {second}", first=choices[0], second=choices[1])
    return {
        "one device": _("no strategy (or tf.distribute.OneDeviceStrategy)"),
        "data parallel": copies,
        "ZeRO-3": _(
            "keras.distribution.ModelParallel on JAX, kernels cut along the batch axis"
        ),
        "tensor parallel": _(
            "keras.distribution.ModelParallel on JAX, kernels cut along the model axis"
        ),
        "pipeline parallel": _("no class of Keras or TensorFlow"),
    }[parallelism]


def _time(seconds):
    units = (_("days"), 86_400), (_("hours"), 3600), (_("minutes"), 60)
    for unit, length in units:
        if seconds >= 2 * length:
            return _("{seconds:.3g} {unit}", seconds=seconds / length, unit=unit)
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _left_out(layers, held=math.inf):
    """Return what the arithmetic does not count, in words. held: bytes that it does."""
    guessed = [layer.name for layer in layers if layer.guess]
    left_out = _("the input, what the framework keeps for itself, work space")
    if held < GIB:  # where it may be more than all the rest
        left_out += _(
            " (on an H100, for a small model: 0.2 GB at 128 examples, 4.4 GB at 8,192)"
        )
    if not guessed:
        return (left_out,)
    names = ", ".join(guessed[:3])
    if len(guessed) > 3:
        names += " …"
    return left_out, _("{names}: their FLOPs are guessed", names=names)
