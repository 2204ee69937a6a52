"""Every kind of parallelism in one place: what each device holds, what it sends, how
long a step takes.

Sizes are in bytes (in sentences MiB, 2**20 bytes), times in seconds, batches in
examples. No TensorFlow here.
"""

import itertools
import math
from dataclasses import dataclass

from course_planner.formulas import ALGORITHMS, all_reduce_bytes, balanced, mib, share
from course_planner.layers import LayerCost, check_layers
from course_utils.arguments import finite_number, one_of, whole_number

# values of 4 bytes kept for each weight
OPTIMIZER_SLOTS = {"sgd": 0, "momentum": 1, "adam": 2}
# bytes of a weight, of a gradient, of an activation, and of an optimizer's own copy of
# each weight
PRECISIONS = {
    "float32": (4, 4, 4, 0),
    # Keras' policy: weights stay in 32 bits, and so do their gradients
    "mixed_bfloat16": (4, 4, 2, 0),
    "mixed_float16": (4, 4, 2, 0),
    # Rajbhandari et al., 2020, section 3.1: 2 + 2 + 12 bytes with Adam
    "mixed, master copies": (2, 2, 2, 4),
}


@dataclass(frozen=True)
class Memory:
    """Bytes on one device while it trains; `total` is their sum, `mib` and `gib` the
    parts in MiB and GiB. The accumulator is that of gradient accumulation.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    accumulator: int = 0

    @property
    def total(self) -> int:
        """Return all of it, in bytes."""
        return sum(vars(self).values())

    @property
    def parts(self) -> dict[str, int]:
        """Return the parts in bytes, by name, with an accumulator if there is one."""
        parts = dict(vars(self))
        if not parts["accumulator"]:
            del parts["accumulator"]
        return parts

    @property
    def mib(self) -> dict[str, float]:
        """Return the parts in MiB, by name."""
        return {name: size / 2**20 for name, size in self.parts.items()}

    @property
    def gib(self) -> dict[str, float]:
        """Return the parts in GiB, by name."""
        return {name: size / 2**30 for name, size in self.parts.items()}

    def __str__(self):
        parts = [f"{name} {mib(size)}" for name, size in self.parts.items()]
        return f"{' + '.join(parts)} = {mib(self.total)}"


@dataclass(frozen=True)
class StepTime:
    """Seconds of one training step: computing, waiting for messages to arrive, and
    sending bytes.
    """

    compute: float
    latency: float
    transfer: float

    @property
    def communication(self) -> float:
        """Return the seconds of communication, latency and transfer."""
        return self.latency + self.transfer

    @property
    def total(self) -> float:
        """Return the seconds of the step if nothing overlaps."""
        return self.compute + self.communication

    @property
    def communication_share(self) -> float:
        """Return communication divided by total, from 0 to 1."""
        return self.communication / self.total

    def overlapped(self, buckets: int) -> float:
        """Return the seconds of the step if gradients travel while others are computed.

        Each of `buckets` equal parts travels as soon as it is there, behind the rest of
        the backward pass, which is two thirds of `compute` (PyTorch's DDP: Li et al.,
        2020). Each bucket is an exchange of its own, and pays the whole latency. With
        1, it is `total`.
        """
        end = 0.0
        for bucket in range(1, whole_number("buckets", buckets, 1) + 1):
            ready = self.compute * (1 + 2 * bucket / buckets) / 3
            end = max(end, ready) + self.latency + self.transfer / buckets
        return end


@dataclass(frozen=True)
class Plan:
    """One way to train: `layers` on `devices`, by one kind of parallelism; checked when
    it is made.
    """

    layers: list
    parallelism: str
    devices: int
    global_batch_size: int
    optimizer: str = "adam"
    precision: str = "float32"
    cuts: list | None = None
    accumulation_steps: int = 1

    def __post_init__(self):
        check_layers(self.layers)
        kind = PARALLELISM_BY_NAME[
            one_of("parallelism", self.parallelism, PARALLELISMS)
        ]
        for name in "devices", "global_batch_size":
            object.__setattr__(self, name, whole_number(name, getattr(self, name), 1))
        one_of("optimizer", self.optimizer, OPTIMIZER_SLOTS)
        one_of("precision", self.precision, PRECISIONS)
        steps = whole_number("accumulation_steps", self.accumulation_steps, 1)
        object.__setattr__(self, "accumulation_steps", steps)
        if self.global_batch_size % steps:
            raise ValueError(
                f"accumulation_steps={steps}: must divide the global batch of "
                f"{self.global_batch_size} examples"
            )
        kind.check(self)

    def memory_of(
        self, weights: int, gradients: int, states: int, values: int
    ) -> Memory:
        """Return the Memory of this many weights, gradients, weights with optimizer
        states, and saved activations.
        """
        weight, gradient, activation, copy = PRECISIONS[self.precision]
        state = 4 * OPTIMIZER_SLOTS[self.optimizer] + copy
        return Memory(
            weights * weight,
            gradients * gradient,
            states * state,
            values * activation,
            # one value of 4 bytes for each trained weight, beside its state
            4 * states * (self.accumulation_steps > 1),
        )

    @property
    def batch_at_once(self) -> int:
        """Return the examples of all devices in one part of an accumulated batch."""
        return self.global_batch_size // self.accumulation_steps

    @property
    def frozen(self) -> int:
        """Return the scalars of all layers that are not trained."""
        return sum(layer.frozen for layer in self.layers)

    @property
    def parameters(self) -> int:
        """Return the trainable scalars of all layers."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def kept(self) -> int:
        """Return the saved activations of one example in all layers, at the peak."""
        return values_at_peak(self.layers)


def values_at_peak(layers: list) -> int:
    """Return the values of one example that these layers keep, and the largest part
    that is computed again.
    """
    kept = sum(layer.kept for layer in layers)
    return kept + max((layer.recomputed for layer in layers), default=0)


@dataclass(frozen=True)
class Traffic:
    """What travels in a step: values in each all-reduce, in the all-gather at its end,
    and across each cut.
    """

    all_reduces: tuple = ()
    gathered: int = 0
    crossing: tuple = ()
    bytes_per_value: int = 4


class OneDevice:
    """All on device 0; the others hold nothing, and nothing travels."""

    shares_compute = divides_batch = False

    def check(self, plan):
        """Raise ValueError if the plan cannot be carried out in this way."""

    def cuts_evenly(self, plan):
        """Return whether what is cut has equal shares, as keras.distribution needs."""
        return True

    def memory(self, plan, devices):
        """Return the Memory of each of these devices, a list."""
        every, values = plan.parameters, plan.kept * plan.batch_at_once
        weights = every + plan.frozen
        return [
            plan.memory_of(0, 0, 0, 0)
            if device
            else plan.memory_of(weights, every, every, values)
            for device in devices
        ]

    def traffic(self, plan):
        """Return the traffic of one step."""
        return Traffic()


class DataParallel(OneDevice):
    """The whole model on each device, and an equal part of the batch. level: of ZeRO,
    what is divided besides.

    ZeRO-1, -2, -3 (Rajbhandari et al., 2020): each device keeps only its part of the
    optimizer's values; of the gradients too (2); of the weights too (3: FSDP). Device
    d's part is what the ring leaves there. Instead of an all-reduce there are its two
    halves, gradients in the first, new weights in the second; in ZeRO-3 one half more,
    because the weights are gathered for the forward pass and again for the backward
    pass.
    """

    shares_compute = divides_batch = True

    def __init__(self, level=0):
        self.level = level

    def check(self, plan):
        several = plan.devices * plan.accumulation_steps
        if plan.global_batch_size % several:
            each = math.ceil(plan.global_batch_size / several)
            times = ""
            if plan.accumulation_steps > 1:
                times = f" x accumulation_steps ({plan.accumulation_steps})"
            raise ValueError(
                f"global_batch_size={plan.global_batch_size}: must be a multiple of "
                f"devices ({plan.devices}){times}: {each * several} would do"
            )

    def memory(self, plan, devices):
        values = plan.kept * plan.batch_at_once // plan.devices
        held = []
        for device in devices:
            trained, frozen = (
                (whole, share(whole, plan.devices, (device + 1) % plan.devices))
                for whole in (plan.parameters, plan.frozen)
            )
            weights, gradients, states = (
                trained[self.level >= level] for level in (3, 2, 1)
            )
            weights += frozen[self.level >= 3]
            held.append(plan.memory_of(weights, gradients, states, values))
        return held

    def traffic(self, plan):
        gradient = PRECISIONS[plan.precision][1]
        return Traffic(
            (plan.parameters,),
            (plan.parameters + plan.frozen) * (self.level == 3),
            bytes_per_value=gradient,
        )


class PipelineParallel(OneDevice):
    """Consecutive layers on each device, the whole batch through all; a device also
    keeps the activations it received.

    `cuts` lists the index of the first layer of each device but the first, such as [3].
    By default the largest parameter count on a device is made least, and each device in
    turn takes as many layers as that allows. At each cut the activations of the whole
    batch travel forward, and as many gradients back.
    """

    def check(self, plan):
        devices, count, cuts = plan.devices, len(plan.layers), plan.cuts
        if other := next(
            (layer.name for layer in plan.layers[1:] if layer.inputs is not None), None
        ):
            raise ValueError(
                f"layers: pipeline parallel needs a chain, and {other!r} takes more "
                "than the layer before"
            )
        if devices > count:
            raise ValueError(
                f"devices={devices}: must be at most {count}, the number of layers"
            )
        if cuts is not None:
            inner = (
                [whole_number("each of cuts", cut, 1) for cut in cuts]
                if isinstance(cuts, (list, tuple))
                else [0]
            )
            edges = [0, *inner, count]
            if len(edges) != devices + 1 or any(
                a >= b for a, b in itertools.pairwise(edges)
            ):
                raise ValueError(
                    f"cuts={cuts!r}: must be {devices - 1} growing indices below "
                    f"{count}"
                )

    def edges(self, plan):
        """Return [0, first layer of device 1, …, number of layers]."""
        if plan.cuts is None:
            return balanced([layer.parameters for layer in plan.layers], plan.devices)
        return [0, *plan.cuts, len(plan.layers)]

    def memory(self, plan, devices):
        edges, held = self.edges(plan), []
        for device in devices:
            first, last = edges[device : device + 2]
            run = plan.layers[first:last]
            every = sum(layer.parameters for layer in run)
            weights = every + sum(layer.frozen for layer in run)
            received = plan.layers[first - 1].outputs if first else 0
            values = (values_at_peak(run) + received) * plan.batch_at_once
            held.append(plan.memory_of(weights, every, every, values))
        return held

    def traffic(self, plan):
        edges = self.edges(plan)[1:-1]
        crossing = tuple(
            plan.layers[edge - 1].outputs * plan.batch_at_once for edge in edges
        )
        return Traffic(crossing=crossing, bytes_per_value=PRECISIONS[plan.precision][2])


class TensorParallel(OneDevice):
    """Layers split inside, after Shoeybi et al., Megatron-LM, 2019: by columns and by
    rows in turn; attention by heads.

    Each device has its share of a split layer's parameters, biases included. The output
    of a column-split layer, and of layers without kernels after it, is split too; that
    of a row-split layer (and before the first split) is whole on every device. Shares
    are cut as numpy.array_split does. An all-reduce adds up each row-split layer's
    output (forward) and the gradient of each column-split layer's input (backward; the
    first needs none); attention does both. If the last output is split, it is gathered.
    """

    shares_compute = True

    def check(self, plan):
        self.split(plan)

    def cuts_evenly(self, plan):
        """Cut are heads, and the units of layers whose output is split; where units are
        not known, they are a divisor of the outputs.
        """
        for layer, (_, after) in zip(plan.layers, self.split(plan), strict=True):
            is_cut = layer.kind == "attention" or (layer.kind == "kernel" and after)
            units = layer.units or layer.outputs
            if is_cut and layer.parameters and units % plan.devices:
                return False
        return True

    def split(self, plan):
        """Return, for each layer, whether its input and its output are split."""
        states = []
        for index, layer in enumerate(plan.layers):
            split = {states[source][1] for source in _sources(plan.layers, index)} or {
                False
            }
            whole = layer.kind == "attention" or (
                layer.kind == "whole" and layer.parameters
            )
            if len(split) > 1 or (True in split and whole):
                raise ValueError(
                    "layers: tensor parallel leaves a part of an input on each device "
                    f"where layer {layer.name!r} needs it whole: it needs a chain, or "
                    "blocks of attention and two Dense layers"
                )
            (here,) = split
            states.append(
                (here, here != (layer.kind == "kernel" and layer.parameters > 0))
            )
        return states

    def memory(self, plan, devices):
        states, held = self.split(plan), []
        for device in devices:
            trained = frozen = values = most_recomputed = 0
            for layer, (before, after) in zip(plan.layers, states, strict=True):
                divided = layer.kind in ("kernel", "attention") or before

                def part(whole, is_divided, device=device):
                    return share(whole, plan.devices, device) if is_divided else whole

                trained += part(layer.parameters, divided)
                frozen += part(layer.frozen, divided)
                values += part(layer.kept, after)
                most_recomputed = max(most_recomputed, part(layer.recomputed, after))
            values = (values + most_recomputed) * plan.batch_at_once
            held.append(plan.memory_of(trained + frozen, trained, trained, values))
        return held

    def traffic(self, plan):
        sums, states = [], self.split(plan)
        for index, (layer, (before, after)) in enumerate(
            zip(plan.layers, states, strict=True)
        ):
            attention = layer.kind == "attention" and layer.parameters
            if attention or (before and not after):  # its partial outputs, forward
                sums.append(layer.outputs)
            if (attention or (after and not before)) and any(
                one.parameters for one in plan.layers[:index]
            ):
                # backward
                sums.append(
                    sum(
                        plan.layers[source].outputs
                        for source in _sources(plan.layers, index)
                    )
                )
        gathered = plan.layers[-1].outputs * plan.batch_at_once * states[-1][1]
        sums = tuple(values * plan.batch_at_once for values in sums)
        return Traffic(sums, gathered, bytes_per_value=PRECISIONS[plan.precision][2])


ZERO = ("ZeRO-1", "ZeRO-2", "ZeRO-3")
PARALLELISM_BY_NAME = {
    "one device": OneDevice(),
    "data parallel": DataParallel(),
    **{name: DataParallel(level) for level, name in enumerate(ZERO, 1)},
    "pipeline parallel": PipelineParallel(),
    "tensor parallel": TensorParallel(),
}
PARALLELISMS = tuple(PARALLELISM_BY_NAME)


def memory(  # noqa: PLR0913
    layers: list[LayerCost],
    parallelism: str,
    devices: int,
    global_batch_size: int,
    optimizer: str = "adam",
    precision: str = "float32",
    cuts: list | None = None,
    accumulation_steps: int = 1,
) -> list[Memory]:
    """Return the bytes that training needs on each device.

    Weights and gradients: one value per parameter (frozen weights have no gradient).
    Optimizer: 0, 1 or 2 values and, if there is one, the master copy (bookkeeping of
    Rajbhandari et al., ZeRO, 2020). Activations: what layers keep, times the examples
    that are on the device at once (a view keeps nothing). Accumulator: where gradients
    are accumulated, one value of 4 bytes for each trained weight (Keras' optimizer).
    Left out: the input examples, the optimizer's few scalars, the 16-bit copies of
    weights, work space (with ZeRO-3 the layer at work is whole for a moment).

    Args:
        layers: a list of LayerCost.
        parallelism: one of PARALLELISMS; the classes of this module say what each does.
        devices: how many.
        global_batch_size: examples a step, of all devices together.
        optimizer: one of OPTIMIZER_SLOTS.
        precision: "float32"; Keras' "mixed_bfloat16" and "mixed_float16" (weights,
            gradients and states of 4 bytes, activations of 2); or "mixed, master
            copies" (2 + 2 + 12 bytes a weight with Adam).
        cuts: of pipeline parallel, the index of the first layer of each device but the
            first.
        accumulation_steps: equal parts of the global batch, one after the other, whose
            gradients are added up.

    Returns:
        A list of `devices` Memory, index = device.

    Raises:
        ValueError: for nonsense, for a global batch that `devices` does not divide
            (data parallel, ZeRO), for layers that are no chain (pipeline parallel) or
            do not split (tensor parallel), and for more devices than layers.
    """
    plan = Plan(
        layers,
        parallelism,
        devices,
        global_batch_size,
        optimizer,
        precision,
        cuts,
        accumulation_steps,
    )
    return PARALLELISM_BY_NAME[parallelism].memory(plan, range(plan.devices))


def communication_volume(
    layers: list[LayerCost],
    parallelism: str,
    devices: int,
    global_batch_size: int,
    algorithm: str = "ring",
    precision: str = "float32",
    cuts=None,
) -> list[int]:
    """Return the bytes that each device sends in one training step.

    Data parallel sends gradients, by `algorithm` (see all_reduce_bytes); ZeRO the
    ring's halves; pipeline parallel the activations at each cut, and as many gradients
    back; tensor parallel activations and their gradients, by `algorithm`. The gather of
    a split last output is a ring's: device d sends all shares but d + 1.

    Args: layers, parallelism, devices, global_batch_size, precision, cuts: as in
        `memory`. algorithm: one of ALGORITHMS; of ZeRO "ring".

    Returns:
        A list of `devices` exact integers, index = device.

    Raises:
        ValueError: as `memory`, and for an unknown `algorithm`.
    """
    plan = Plan(
        layers, parallelism, devices, global_batch_size, precision=precision, cuts=cuts
    )
    one_of("algorithm", algorithm, ALGORITHMS if parallelism not in ZERO else ("ring",))
    traffic, sent = PARALLELISM_BY_NAME[parallelism].traffic(plan), [0] * plan.devices
    for device, elements in enumerate(traffic.crossing):
        sent[device] += elements * traffic.bytes_per_value  # activations
        sent[device + 1] += elements * traffic.bytes_per_value  # their gradients
    for elements in traffic.all_reduces:
        more = all_reduce_bytes(
            elements, plan.devices, algorithm, traffic.bytes_per_value
        )
        sent = [before + size for before, size in zip(sent, more, strict=True)]
    for device in range(plan.devices):
        # the next one's own part: all others pass through this device
        last = device + 1 + (parallelism in ZERO)
        own = share(traffic.gathered, plan.devices, last % plan.devices)
        sent[device] += (traffic.gathered - own) * traffic.bytes_per_value
    return sent


def step_time(  # noqa: PLR0913
    layers: list[LayerCost],
    parallelism: str,
    devices: int,
    global_batch_size: int,
    *,
    flops_per_second: float,
    bandwidth: float,
    latency: float,
    algorithm: str = "ring",
    precision: str = "float32",
    cuts: list | None = None,
    accumulation_steps: int = 1,
) -> StepTime:
    """Return the seconds of one training step; nothing overlaps in its `total`.

    Compute: 3 x the forward FLOPs, as the backward pass takes about twice the forward
    (Amodei & Hernandez, AI and Compute, 2018; Kaplan et al., 2020). Pipeline parallel
    leaves it whole, since without micro-batches one device works at a time (see
    bubble_fraction); the others divide it by `devices`.

    Communication: b bytes take latency + b / bandwidth (the alpha-beta model: Hockney,
    1994). An all-reduce of S bytes on N devices takes, by "ring", 2 (N - 1) messages
    and 2 (N - 1) / N x S (Thakur, Rabenseifner & Gropp, 2005; Patarasuk & Yuan, 2009);
    by "tree", 2 log2 N messages and 2 S (Sanders, Speck & Träff, 2009). An all-gather
    is half a ring. Pipeline parallel: two messages at each cut. Accumulated parts are
    steps one after the other, and each one sends: so does Keras on JAX, whose gradients
    are summed over all devices before they are added up; and ZeRO-3 gathers the weights
    anew for each part.

    Args: layers, parallelism, devices, global_batch_size, precision, cuts,
        accumulation_steps: as in `memory`. flops_per_second: of one device.
        bandwidth: bytes/s that a device sends. latency: seconds a message. algorithm:
        "ring" or "tree".

    Raises:
        ValueError: as `memory`, for rates below 1, and if no layer has FLOPs.
    """
    plan = Plan(
        layers,
        parallelism,
        devices,
        global_batch_size,
        precision=precision,
        cuts=cuts,
        accumulation_steps=accumulation_steps,
    )
    one_of("algorithm", algorithm, ("ring", "tree"))
    finite_number("flops_per_second", flops_per_second, 1)
    finite_number("bandwidth", bandwidth, 1)
    finite_number("latency", latency)
    compute = (
        3
        * sum(layer.flops for layer in layers)
        * plan.global_batch_size
        / flops_per_second
    )
    if compute == 0:
        raise ValueError(
            f"layers: all {len(layers)} have flops=0: give at least one some"
        )
    kind, count = PARALLELISM_BY_NAME[parallelism], plan.devices
    traffic, tree = kind.traffic(plan), algorithm == "tree"
    messages = 2 * math.ceil(math.log2(count)) if tree else 2 * (count - 1)
    rounds = (
        len(traffic.all_reduces) * messages
        + (count - 1) * (traffic.gathered > 0)
        + 2 * len(traffic.crossing)
    )
    values = (
        2 * sum(traffic.all_reduces) * ((count > 1) if tree else (count - 1) / count)
    )
    values += traffic.gathered * (count - 1) / count + 2 * sum(traffic.crossing)
    compute /= count if kind.shares_compute else 1
    parts, sent = plan.accumulation_steps, values * traffic.bytes_per_value
    return StepTime(compute, parts * rounds * latency, parts * sent / bandwidth)


def _sources(layers, index):
    """Return the indices of the layers whose outputs this layer takes."""
    inputs = layers[index].inputs
    return inputs if inputs is not None else (index - 1,) if index else ()
