"""Arithmetic on paper: bytes per device, bytes on the wire, seconds per step, and which strategy to choose.

Sizes are in bytes (in sentences MiB, 2**20 bytes), times in seconds, batches in examples. No TensorFlow here.
A wrong argument gets a ValueError that names the argument, the value and what would do.
"""

import bisect
import itertools
import math
import operator
import textwrap
from dataclasses import dataclass

from course_utils.arguments import finite_number, one_of, whole_number

STRATEGIES = ("one device", "data parallel", "layers split", "tensor split")
ALGORITHMS = ("gather", "all-to-all", "ring")
OPTIMIZER_SLOTS = {"sgd": 0, "momentum": 1, "adam": 2}  # values kept for each weight


@dataclass(frozen=True)
class LayerCost:
    """One layer: trainable scalars, output values and forward FLOPs per example (whole numbers from 0 up)."""

    name: str
    parameters: int
    outputs: int
    flops: int

    def __post_init__(self):
        for field in ("parameters", "outputs", "flops"):
            value = whole_number(f"{field} of layer {self.name!r}", getattr(self, field))
            object.__setattr__(self, field, value)  # NumPy integers become Python's, which never overflow


@dataclass(frozen=True)
class Memory:
    """Bytes on one device while it trains; `total` is their sum, `mib` the parts in MiB, `str()` all of it in words."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self):
        return self.weights + self.gradients + self.optimizer + self.activations

    @property
    def mib(self):
        return {name: size / 2**20 for name, size in vars(self).items()}

    def __str__(self):
        parts = " + ".join(f"{name} {_mib(size)}" for name, size in vars(self).items())
        return f"{parts} = {_mib(self.total)}"


@dataclass(frozen=True)
class StepTime:
    """Seconds of one training step; `communication_share` is communication / total, from 0 to 1."""

    compute: float
    communication: float

    @property
    def total(self):
        return self.compute + self.communication

    @property
    def communication_share(self):
        return self.communication / self.total


@dataclass(frozen=True)
class Recommendation:
    """`strategy`: one of STRATEGIES or "nothing fits"; `devices_needed`: None if no number will do."""

    strategy: str
    devices_needed: int | None
    reasons: tuple

    def __str__(self):
        needed = self.devices_needed
        how_many = f"{needed:,} devices at least" if needed else "whatever the number of devices"
        answer = "One device is enough" if needed == 1 else f"{self.strategy.capitalize()}: {how_many}"
        lines = [textwrap.fill(each, 90, initial_indent="- ", subsequent_indent="  ") for each in self.reasons]
        return "\n".join([f"{answer}.", *lines])


def layer_costs(model):
    """The layers of a built Keras model, in order, as a list of LayerCost; input layers are left out.

    parameters: trainable scalars. outputs: values the layer produces for one example. flops: 2 per
    multiply-add of the forward pass on one example: 2 x kernel size x output positions for Conv2D and Dense
    (without biases and activation functions), 0 for other layers. For other models write LayerCost by hand.
    Raises ValueError if the model is not a built, plain stack of layers with fixed output shapes.
    """
    if not getattr(model, "built", False) or not getattr(model, "layers", None):
        raise ValueError(f"model={model!r}: must be a built Keras model (give it an Input first)")
    costs = []
    for layer in model.layers:
        kind = type(layer).__name__
        if kind == "InputLayer":
            continue
        try:
            shape = tuple(layer.output.shape)[1:]
        except (AttributeError, ValueError):  # no output, or several
            shape = (None,)
        if None in shape or hasattr(layer, "layers"):
            raise ValueError(
                f"model={model.name!r}: must be a plain stack of layers with fixed output shapes, which layer "
                f"{layer.name!r} does not fit: write its LayerCost by hand"
            )
        outputs, flops = math.prod(shape), 0
        if kind in ("Conv2D", "Dense"):
            kernel = tuple(layer.kernel.shape)  # (..., inputs, units)
            flops = 2 * math.prod(kernel) * (outputs // kernel[-1])
        parameters = sum(math.prod(weight.shape) for weight in layer.trainable_weights)
        costs.append(LayerCost(layer.name, parameters, outputs, flops))
    return costs


def memory(layers, strategy, devices, global_batch_size, optimizer="adam", bytes_per_value=4, cuts=None):
    """Bytes that training needs on each device: a list of `devices` Memory, index = device.

    Weights and gradients: one value per parameter; optimizer: 0 ("sgd"), 1 ("momentum") or 2 ("adam") values
    (bookkeeping of Rajbhandari et al., ZeRO, 2020). Activations: each layer's output times the examples on
    the device, kept for the backward pass. Left out: the input examples, the optimizer's few scalars,
    non-trainable weights, work space.

    - one device: all on device 0; the others hold nothing.
    - data parallel: the whole model on each device, global_batch_size / devices examples on each.
    - layers split: consecutive layers on each device, the whole batch through all; a device also keeps the
      activations it received. `cuts` (read by this strategy only) lists the index of the first layer of each
      device but the first, such as [3]. By default the largest parameter count on a device is made least, and
      each device in turn takes as many layers as that allows.
    - tensor split (after Shoeybi et al., Megatron-LM, 2019): layers with parameters are split by columns and
      by rows in turn; each device has its share of every layer's parameters, biases included. The output of a
      column-split layer, and of parameterless layers after it, is split too; that of a row-split layer (and
      before the first split) is whole on every device. Shares are cut as numpy.array_split does: if `devices`
      does not divide, the first ones get one value more.

    Raises ValueError for nonsense, for a global batch that `devices` does not divide (data parallel), and for
    more devices than layers or cuts that are not devices - 1 growing layer indices (layers split).
    """
    devices, batch, bytes_per_value, edges = _plan(layers, strategy, devices, global_batch_size, bytes_per_value, cuts)
    slots = OPTIMIZER_SLOTS[one_of("optimizer", optimizer, OPTIMIZER_SLOTS)]
    return [
        _on_device(device, layers, strategy, devices, batch, slots, bytes_per_value, edges) for device in range(devices)
    ]


def all_reduce_bytes(elements, devices, algorithm="ring", bytes_per_value=4):
    """Bytes that each device sends to all-reduce `elements` values: a list of `devices` exact integers.

    With S = elements x bytes_per_value and N = devices:

    - gather: each device sends S to device 0, which sends the sum, S, to each of the N - 1 others.
    - all-to-all: each device sends its S to each of the N - 1 others.
    - ring: reduce-scatter then all-gather, N - 1 messages each: 2 (N - 1) / N x S (Patarasuk & Yuan, 2009).
      Chunks are cut as numpy.array_split does: the first elements % N are one value longer. Device d sends to
      d + 1: chunk d first, then each chunk it has just received; so all chunks but d + 1, then all but d + 2
      (modulo N).

    Raises ValueError unless elements is a whole number from 0 up, devices and bytes_per_value from 1 up.
    """
    elements, devices = whole_number("elements", elements), whole_number("devices", devices, 1)
    size = elements * whole_number("bytes_per_value", bytes_per_value, 1)
    if one_of("algorithm", algorithm, ALGORITHMS) == "ring" and devices > 1:
        chunks = [_share(elements, devices, d) * bytes_per_value for d in range(devices)]
        return [2 * size - chunks[(d + 1) % devices] - chunks[(d + 2) % devices] for d in range(devices)]
    sent = [(devices - 1) * size] * devices
    return sent if algorithm != "gather" else sent[:1] + [size] * (devices - 1)


def wire_bytes(layers, strategy, devices, global_batch_size, algorithm="ring", bytes_per_value=4, cuts=None):
    """Bytes that each device sends in one training step: a list of `devices` exact integers, index = device.

    - one device: nothing.
    - data parallel: the all-reduce of the gradients, by `algorithm` (see all_reduce_bytes).
    - layers split: at each cut, the activations of the whole batch forward, as many bytes of gradients back.
    - tensor split (after Shoeybi et al., Megatron-LM, 2019): by `algorithm`, the all-reduce of each row-split
      layer's output (forward) and of the gradient of each column-split layer's input (backward; the first
      needs none). If the last output is split, a ring all-gather of it: device d sends all shares but d + 1.

    Same arguments and errors as `memory`, and ValueError for an unknown `algorithm`.
    """
    devices, batch, bytes_per_value, edges = _plan(layers, strategy, devices, global_batch_size, bytes_per_value, cuts)
    one_of("algorithm", algorithm, ALGORITHMS)
    sent = [0] * devices
    sums, gathered, crossing = _traffic(layers, strategy, batch, edges)
    for device, elements in enumerate(crossing):
        sent[device] += elements * bytes_per_value  # activations
        sent[device + 1] += elements * bytes_per_value  # their gradients
    for elements in sums:
        sent = [
            a + b for a, b in zip(sent, all_reduce_bytes(elements, devices, algorithm, bytes_per_value), strict=True)
        ]
    for device in range(devices):
        sent[device] += (gathered - _share(gathered, devices, (device + 1) % devices)) * bytes_per_value
    return sent


def step_time(
    layers, strategy, devices, global_batch_size, *, flops_per_second, bandwidth, latency, bytes_per_value=4, cuts=None
):
    """Seconds of one training step, as StepTime(compute, communication): the two are added, nothing overlaps.

    flops_per_second: of one device. bandwidth: bytes/s that a device sends. latency: seconds per message.
    Compute: 3 x the forward FLOPs, as the backward pass takes about twice the forward (Amodei & Hernandez, AI
    and Compute, 2018; Kaplan et al., 2020). Data parallel and tensor split divide it by `devices`; layers
    split does not: without micro-batches one device works at a time (see pipeline_idle_share).
    Communication: b bytes take latency + b / bandwidth (the alpha-beta model: Hockney, 1994). Ring all-reduce
    of S bytes on N devices: 2 (N - 1) latency + 2 (N - 1) / N x S / bandwidth; all-gather: half (Thakur,
    Rabenseifner & Gropp, 2005; Patarasuk & Yuan, 2009). Layers split: two messages at each cut.
    Same arguments and errors as `memory`; ValueError too for rates below 1 or if no layer has FLOPs.
    """
    devices, batch, bytes_per_value, edges = _plan(layers, strategy, devices, global_batch_size, bytes_per_value, cuts)
    finite_number("flops_per_second", flops_per_second, 1)
    finite_number("bandwidth", bandwidth, 1)
    finite_number("latency", latency)
    compute = 3 * sum(layer.flops for layer in layers) * batch / flops_per_second
    if compute == 0:
        raise ValueError(f"layers: all {len(layers)} have flops=0: give at least one some")
    sums, gathered, crossing = _traffic(layers, strategy, batch, edges)
    messages = (devices - 1) * (2 * len(sums) + (gathered > 0)) + 2 * len(crossing)
    values = (devices - 1) / devices * (2 * sum(sums) + gathered) + 2 * sum(crossing)
    if strategy in ("data parallel", "tensor split"):
        compute /= devices
    return StepTime(compute, messages * latency + values * bytes_per_value / bandwidth)


def pipeline_idle_share(stages, micro_batches):
    """Share of its time, from 0 to 1, that each of p equal stages waits: (p - 1) / (m + p - 1) (Huang et al.,
    GPipe, 2019). Raises ValueError unless both are whole numbers from 1 up."""
    stages, micro_batches = whole_number("stages", stages, 1), whole_number("micro_batches", micro_batches, 1)
    return (stages - 1) / (micro_batches + stages - 1)


def amdahl(serial_share, devices):
    """Speed-up of a fixed problem: 1 / (s + (1 - s) / N) (Amdahl, 1967). serial_share: the share s, from 0 to
    1, of the time on ONE device that cannot be divided. Raises ValueError for another s or devices < 1."""
    s = finite_number("serial_share", serial_share, 0, 1)
    return 1 / (s + (1 - s) / whole_number("devices", devices, 1))


def gustafson(serial_share, devices):
    """Speed-up of a problem that grows with the devices: N - s (N - 1) (Gustafson, 1988). serial_share: the
    share s, from 0 to 1, of the time on ALL N that is not divided. Raises ValueError as amdahl does."""
    s = finite_number("serial_share", serial_share, 0, 1)
    return whole_number("devices", devices, 1) - s * (devices - 1)


def recommend(layers, device_memory_bytes, devices, global_batch_size, optimizer="adam", bytes_per_value=4):
    """Which strategy lets this model train on at most `devices` devices of `device_memory_bytes` each.

    Returns a Recommendation: the first that fits of one device, data parallel, layers split, tensor split, on
    the fewest devices, by the arithmetic of `memory` with its default cut; else "nothing fits", with the
    fewest devices on which one of them would. Combined strategies and states divided as in ZeRO are left out.
    Same errors as `memory`, but `devices` need neither divide the batch nor be at most the number of layers.
    """
    devices, batch, bytes_per_value, edges = _plan(
        layers, "one device", devices, global_batch_size, bytes_per_value, None
    )
    room = int(finite_number("device_memory_bytes", device_memory_bytes, 1))
    slots = OPTIMIZER_SLOTS[one_of("optimizer", optimizer, OPTIMIZER_SLOTS)]

    def fullest(strategy, count):  # Memory of the device that needs most: the first, unless layers are split
        runs = _balanced(layers, count) if strategy == "layers split" else edges
        held = [
            _on_device(device, layers, strategy, count, batch, slots, bytes_per_value, runs)
            for device in range(len(runs) - 1)
        ]
        return max(held, key=lambda one: one.total)

    alone = fullest("one device", 1)
    if alone.total <= room:
        reasons = [f"It needs {alone}; the device has {_mib(room)}."]
        if devices > 1:
            sent = max(all_reduce_bytes(sum(x.parameters for x in layers), devices, "ring", bytes_per_value))
            reasons.append(
                "More devices only pay when compute outweighs communication: data parallel on "
                f"{devices:,} leaves each 1/{devices:,} of the compute but {_mib(sent)} to send."
            )
        return Recommendation("one device", 1, tuple(reasons))
    reasons = [f"One device would need {alone}: {_mib(alone.total - room)} more than its {_mib(room)}."]
    spare = (room - alone.total + alone.activations) * batch
    if spare >= alone.activations > 0:
        reasons.append(f"With a global batch of at most {spare // alone.activations:,}, one device would do.")
    finest = max(2, *(max(layer.parameters, layer.outputs) for layer in layers))  # one value a share
    divisors = {d for n in range(1, math.isqrt(batch) + 1) if batch % n == 0 for d in (n, batch // n)}
    found = []
    for strategy, counts in (
        ("data parallel", sorted(divisors - {1})),
        ("layers split", range(2, len(layers) + 1)),
        ("tensor split", range(2, finest + 1)),
    ):
        if strategy == "tensor split":  # too many to try; more devices never need more: search by halves
            at = bisect.bisect_left(counts, True, key=lambda n: fullest("tensor split", n).total <= room)
        else:
            at = next((i for i, n in enumerate(counts) if fullest(strategy, n).total <= room), len(counts))
        if at == len(counts):
            most = counts[-1] if counts else 1
            reasons.append(
                f"{strategy.capitalize()} fits on no number of devices: even divided by {most:,}, "
                f"the most possible, the fullest would need {fullest(strategy, most)}."
            )
            continue
        found.append(counts[at])
        reasons.append(
            f"{strategy.capitalize()} needs {counts[at]:,} devices (available: {devices:,}): the "
            f"fullest holds {fullest(strategy, counts[at])} and has {_mib(room)}."
        )
        if counts[at] <= devices:
            sent = max(wire_bytes(layers, strategy, counts[at], batch, "ring", bytes_per_value))
            reasons.append(f"In exchange, a device sends up to {_mib(sent)} a step.")
            return Recommendation(strategy, counts[at], tuple(reasons))
    reasons.append(
        "Get more devices or larger ones, or make the batch or the model smaller."
        if found
        else "More devices will not help: get larger ones, or make the batch or the model smaller."
    )
    return Recommendation("nothing fits", min(found, default=None), tuple(reasons))


def _mib(size):
    """A size in bytes as text: in MiB (2**20 bytes), or in bytes where MiB would read 0.00."""
    if size < 2**20 / 100:
        return f"{size:,} byte{'s' * (size != 1)}"
    return f"{size / 2**20:,.{2 if size < 1000 * 2**20 else 0}f} MiB"


def _share(elements, parts, index):
    """Length of part `index` when `elements` values are cut into `parts` as numpy.array_split does."""
    return elements // parts + (index < elements % parts)


def _plan(layers, strategy, devices, batch, bytes_per_value, cuts):
    """Check the arguments all share. Returns devices, batch and bytes_per_value as Python's integers, and the
    edges of the devices' runs of layers: [0, ..., len(layers)]."""
    if not isinstance(layers, (list, tuple)) or not layers or {type(x) for x in layers} != {LayerCost}:
        raise ValueError(f"layers={layers!r}: must be a non-empty list of LayerCost (see layer_costs)")
    one_of("strategy", strategy, STRATEGIES)
    devices, batch = whole_number("devices", devices, 1), whole_number("global_batch_size", batch, 1)
    bytes_per_value = whole_number("bytes_per_value", bytes_per_value, 1)
    edges = [0, len(layers)]
    if strategy == "data parallel" and batch % devices:
        raise ValueError(
            f"global_batch_size={batch}: must be a multiple of devices ({devices}): "
            f"{-(-batch // devices) * devices} would do"
        )
    if strategy == "layers split":
        if devices > len(layers):
            raise ValueError(f"devices={devices}: must be at most {len(layers)}, the number of layers")
        inner = [whole_number("each of cuts", cut, 1) for cut in cuts] if isinstance(cuts, (list, tuple)) else [0]
        edges = _balanced(layers, devices) if cuts is None else [0, *inner, len(layers)]
        if len(edges) != devices + 1 or any(a >= b for a, b in itertools.pairwise(edges)):
            raise ValueError(f"cuts={cuts!r}: must be {devices - 1} growing indices below {len(layers)}")
    return devices, batch, bytes_per_value, edges


def _balanced(layers, devices):
    """Edges of `devices` runs of layers whose largest parameter count is least (searched by halves)."""

    def fill(capacity):  # one device after the other, leaving at least one layer for each that follows
        edges, held = [0], 0
        for index, layer in enumerate(layers):
            if index and (held + layer.parameters > capacity or len(layers) - index == devices - len(edges)):
                edges.append(index)
                held = 0
            held += layer.parameters
        return [*edges, len(layers)]

    sizes = [layer.parameters for layer in layers]
    capacities = range(max(sizes), sum(sizes) + 1)
    at = bisect.bisect_left(capacities, True, key=lambda capacity: len(fill(capacity)) <= devices + 1)
    return fill(capacities[at])


def _tensor_split(layers):
    """For each layer, whether its output is split: a layer with parameters turns split to whole or back."""
    return list(itertools.accumulate((layer.parameters > 0 for layer in layers), operator.ne))


def _traffic(layers, strategy, batch, edges):
    """Values in one step's all-reduces (a list), in its all-gather (or 0), and across each cut (a list)."""
    if strategy == "data parallel":
        return [sum(layer.parameters for layer in layers)], 0, []
    if strategy != "tensor split":
        return [], 0, [layers[edge - 1].outputs * batch for edge in edges[1:-1]]
    splits, sums = _tensor_split(layers), []
    for index, layer in enumerate(layers):
        if layer.parameters and not splits[index]:  # by rows: its partial outputs, forward
            sums.append(layer.outputs * batch)
        elif layer.parameters and any(before.parameters for before in layers[:index]):  # by columns: backward
            sums.append(layers[index - 1].outputs * batch)
    return sums, layers[-1].outputs * batch * splits[-1], []


def _on_device(device, layers, strategy, devices, batch, slots, bytes_per_value, edges):
    """The Memory of one device, by the conventions of `memory`."""
    parameters, outputs = sum(layer.parameters for layer in layers), sum(layer.outputs for layer in layers)
    if strategy == "one device" and device:
        parameters = outputs = 0
    elif strategy == "data parallel":
        batch //= devices
    elif strategy == "layers split":
        first, last = edges[device], edges[device + 1]
        parameters = sum(layer.parameters for layer in layers[first:last])
        outputs = sum(layer.outputs for layer in layers[max(first - 1, 0) : last])
    elif strategy == "tensor split":
        parameters = sum(_share(layer.parameters, devices, device) for layer in layers)
        outputs = sum(
            _share(layer.outputs, devices, device) if split else layer.outputs
            for layer, split in zip(layers, _tensor_split(layers), strict=True)
        )
    size = parameters * bytes_per_value
    return Memory(size, size, slots * size, outputs * batch * bytes_per_value)
