"""Arithmetic on paper: bytes per device, bytes on the wire, seconds per step.

Sizes are in bytes (in sentences MiB, 2**20 bytes), times in seconds, batches in examples. No TensorFlow here.
"""

import bisect
import itertools
import math
import operator
from dataclasses import dataclass, replace

from course_utils.arguments import finite_number, one_of, whole_number

ZERO = ("ZeRO-1", "ZeRO-2", "ZeRO-3")
STRATEGIES = ("one device", "data parallel", *ZERO, "layers split", "tensor split")
KINDS = ("kernel", "elementwise", "view")
ALGORITHMS = ("gather", "all-to-all", "ring")
OPTIMIZER_SLOTS = {"sgd": 0, "momentum": 1, "adam": 2}  # values kept for each weight


@dataclass(frozen=True)
class LayerCost:
    """One layer: trainable scalars, output values and forward FLOPs per example (whole numbers from 0 up).

    kind: "kernel"; "elementwise", if each parameter acts on its own feature (BatchNormalization): a tensor split leaves
    it with that feature; "view", if the output is the input's memory in another shape (Flatten).
    kept: values per example that the backward pass needs again; by default the outputs, of a view none.
    """

    name: str
    parameters: int
    outputs: int
    flops: int
    kind: str = "kernel"
    kept: int | None = None

    def __post_init__(self):
        one_of(f"kind of layer {self.name!r}", self.kind, KINDS)
        if self.kept is None:
            object.__setattr__(self, "kept", 0 if self.kind == "view" else self.outputs)
        for field in ("parameters", "outputs", "flops", "kept"):
            value = whole_number(f"{field} of layer {self.name!r}", getattr(self, field))
            object.__setattr__(self, field, value)  # NumPy integers become Python's, which never overflow

    @property
    def splits(self):
        return self.parameters > 0 and self.kind == "kernel"


@dataclass(frozen=True)
class Memory:
    """Bytes on one device while it trains; `total` is their sum, `mib` and `gib` the parts in MiB and GiB."""

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

    @property
    def gib(self):
        return {name: size / 2**30 for name, size in vars(self).items()}

    def __str__(self):
        parts = " + ".join(f"{name} {mib(size)}" for name, size in vars(self).items())
        return f"{parts} = {mib(self.total)}"


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

    def overlapped(self, buckets):
        """Seconds if each of `buckets` equal parts of the gradients travels as soon as it is there, behind the rest of
        the backward pass, which is two thirds of `compute` (PyTorch's DDP: Li et al., 2020). With 1, `total`."""
        end = 0.0
        for bucket in range(1, whole_number("buckets", buckets, 1) + 1):
            end = max(end, self.compute * (1 + 2 * bucket / buckets) / 3) + self.communication / buckets
        return end


def layer_costs(model) -> list[LayerCost]:
    """The layers of a built Keras model, in order, as a list of LayerCost; input layers are left out.

    parameters: trainable scalars. outputs: values the layer produces for one example. flops: 2 per
    multiply-add of the forward pass on one example: 2 x kernel size x output positions for Conv2D and Dense
    (without biases and activation functions), 0 for BatchNormalization and for layers without weights.
    Raises ValueError if the model is not a built, plain stack of layers with fixed output shapes, or has other
    layers with weights: write their LayerCost by hand.
    """
    if not getattr(model, "built", False) or not getattr(model, "layers", None):
        raise ValueError(f"model={model!r}: must be a built Keras model (give it an Input first)")
    costs, before = [], None
    for layer in model.layers:
        kind = type(layer).__name__
        if kind == "InputLayer":
            continue
        try:
            shape, follows = tuple(layer.output.shape)[1:], before is None or layer.input is before
            before = layer.output
        except (AttributeError, ValueError):  # no output, or several
            shape, follows = (None,), False
        if None in shape or hasattr(layer, "layers") or not follows:
            raise ValueError(
                f"model={model.name!r}: must be a plain stack of layers with fixed output shapes, which layer "
                f"{layer.name!r} does not fit: write its LayerCost by hand"
            )
        outputs, flops = math.prod(shape), 0
        if kind in ("Conv2D", "Dense"):
            kernel = tuple(layer.kernel.shape)  # (..., inputs, units)
            flops = 2 * math.prod(kernel) * (outputs // kernel[-1])
        elif layer.weights and kind != "BatchNormalization":
            raise ValueError(
                f"model={model.name!r}: what layer {layer.name!r} computes is not known here, since it is a {kind}: "
                "write its LayerCost by hand"
            )
        parameters = sum(math.prod(weight.shape) for weight in layer.trainable_weights)
        role = {"BatchNormalization": "elementwise", "Flatten": "view", "Reshape": "view"}.get(kind, "kernel")
        costs.append(LayerCost(layer.name, parameters, outputs, flops, role))
    return costs


def checkpointed(layers: list[LayerCost], segments: int) -> list[LayerCost]:
    """The same layers with activation checkpointing (Chen et al., 2016): of each of `segments` runs of layers only the
    last output is kept.

    The rest is computed again in the backward pass: one more forward pass, so that a step of three becomes one of four.
    Left out: the segment at work, whose activations are all there for a moment. Raises ValueError for nonsense.
    """
    plan(layers, "one device", 1, 1, 1, None)
    segments = whole_number("segments", segments, 1, len(layers), "the number of layers")
    rest, found = iter(layers), []
    for index in range(segments):
        run = list(itertools.islice(rest, _share(len(layers), segments, index)))
        kept = min(run[-1].outputs, sum(layer.kept for layer in run))  # a view alone keeps nothing
        for layer in run:
            again = -(-4 * layer.flops // 3)
            found.append(replace(layer, flops=again, kept=kept if layer is run[-1] else 0))
    return found


def memory(layers, strategy, devices, global_batch_size, optimizer="adam", bytes_per_value=4, cuts=None):
    """Bytes that training needs on each device: a list of `devices` Memory, index = device.

    Weights and gradients: one value per parameter; optimizer: 0 ("sgd"), 1 ("momentum") or 2 ("adam") values
    (bookkeeping of Rajbhandari et al., ZeRO, 2020). Activations: each layer's output times the examples on
    the device, kept for the backward pass (a view keeps nothing). Left out: the input examples, the optimizer's
    few scalars, non-trainable weights, work space (with ZeRO-3 the layer at work is whole for a moment).

    - one device: all on device 0; the others hold nothing.
    - data parallel: the whole model on each device, global_batch_size / devices examples on each.
    - ZeRO-1, -2, -3 (Rajbhandari et al., 2020): data parallel, but each device keeps only its part of the optimizer's
      values; of the gradients too (2); of the weights too (3: FSDP). Device d's part is what the ring leaves there.
    - layers split: consecutive layers on each device, the whole batch through all; a device also keeps the
      activations it received. `cuts` (read by this strategy only) lists the index of the first layer of each
      device but the first, such as [3]. By default the largest parameter count on a device is made least, and
      each device in turn takes as many layers as that allows.
    - tensor split (after Shoeybi et al., Megatron-LM, 2019): layers with parameters are split by columns and
      by rows in turn; each device has its share of every layer's parameters, biases included. The output of a
      column-split layer, and of parameterless layers after it, is split too; that of a row-split layer (and
      before the first split) is whole on every device. Shares are cut as numpy.array_split does: if `devices`
      does not divide, the first ones get one value more.

    Raises ValueError for nonsense, for a global batch that `devices` does not divide (data parallel, ZeRO), and for
    more devices than layers or cuts that are not devices - 1 growing layer indices (layers split).
    """
    devices, batch, bytes_per_value, edges = plan(layers, strategy, devices, global_batch_size, bytes_per_value, cuts)
    slots = OPTIMIZER_SLOTS[one_of("optimizer", optimizer, OPTIMIZER_SLOTS)]
    return [
        on_device(device, layers, strategy, devices, batch, slots, bytes_per_value, edges) for device in range(devices)
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
    - ZeRO-1, ZeRO-2: the ring's two halves, gradients in the first, new weights in the second: as many bytes.
      ZeRO-3: one half more, because the weights are gathered for the forward pass and again for the backward pass.
    - layers split: at each cut, the activations of the whole batch forward, as many bytes of gradients back.
    - tensor split (after Shoeybi et al., Megatron-LM, 2019): by `algorithm`, the all-reduce of each row-split
      layer's output (forward) and of the gradient of each column-split layer's input (backward; the first
      needs none). If the last output is split, a ring all-gather of it: device d sends all shares but d + 1.

    Same arguments and errors as `memory`, and ValueError for an unknown `algorithm` (ZeRO: other than the ring).
    """
    devices, batch, bytes_per_value, edges = plan(layers, strategy, devices, global_batch_size, bytes_per_value, cuts)
    one_of("algorithm", algorithm, ALGORITHMS if strategy not in ZERO else ("ring",))
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
        last = device + 1 + (strategy in ZERO)  # the next one's own part: all others pass through this device
        sent[device] += (gathered - _share(gathered, devices, last % devices)) * bytes_per_value
    return sent


def step_time(
    layers, strategy, devices, global_batch_size, *, flops_per_second, bandwidth, latency, bytes_per_value=4, cuts=None
):
    """Seconds of one training step, as StepTime(compute, communication): the two are added, nothing overlaps.

    flops_per_second: of one device. bandwidth: bytes/s that a device sends. latency: seconds per message.
    Compute: 3 x the forward FLOPs, as the backward pass takes about twice the forward (Amodei & Hernandez, AI
    and Compute, 2018; Kaplan et al., 2020). Layers split leaves it whole, since without micro-batches one device
    works at a time (see pipeline_idle_share); the others divide it by `devices`.
    Communication: b bytes take latency + b / bandwidth (the alpha-beta model: Hockney, 1994). Ring all-reduce
    of S bytes on N devices: 2 (N - 1) latency + 2 (N - 1) / N x S / bandwidth; all-gather: half (Thakur,
    Rabenseifner & Gropp, 2005; Patarasuk & Yuan, 2009). Layers split: two messages at each cut.
    Same arguments and errors as `memory`; ValueError too for rates below 1 or if no layer has FLOPs.
    """
    devices, batch, bytes_per_value, edges = plan(layers, strategy, devices, global_batch_size, bytes_per_value, cuts)
    finite_number("flops_per_second", flops_per_second, 1)
    finite_number("bandwidth", bandwidth, 1)
    finite_number("latency", latency)
    compute = 3 * sum(layer.flops for layer in layers) * batch / flops_per_second
    if compute == 0:
        raise ValueError(f"layers: all {len(layers)} have flops=0: give at least one some")
    sums, gathered, crossing = _traffic(layers, strategy, batch, edges)
    messages = (devices - 1) * (2 * len(sums) + (gathered > 0)) + 2 * len(crossing)
    values = (devices - 1) / devices * (2 * sum(sums) + gathered) + 2 * sum(crossing)
    if strategy not in ("one device", "layers split"):
        compute /= devices
    return StepTime(compute, messages * latency + values * bytes_per_value / bandwidth)


def pipeline_idle_share(stages: int, micro_batches: int) -> float:
    """Share of its time, from 0 to 1, that each of p equal stages waits: (p - 1) / (m + p - 1) (Huang et al.,
    GPipe, 2019). Raises ValueError unless both are whole numbers from 1 up."""
    stages, micro_batches = whole_number("stages", stages, 1), whole_number("micro_batches", micro_batches, 1)
    return (stages - 1) / (micro_batches + stages - 1)


def amdahl(serial_share: float, devices: int) -> float:
    """Speed-up of a fixed problem: 1 / (s + (1 - s) / N) (Amdahl, 1967). serial_share: the share s, from 0 to
    1, of the time on ONE device that cannot be divided. Raises ValueError for another s or devices < 1."""
    s = finite_number("serial_share", serial_share, 0, 1)
    return 1 / (s + (1 - s) / whole_number("devices", devices, 1))


def gustafson(serial_share: float, devices: int) -> float:
    """Speed-up of a problem that grows with the devices: N - s (N - 1) (Gustafson, 1988). serial_share: the
    share s, from 0 to 1, of the time on ALL N that is not divided. Raises ValueError as amdahl does."""
    s = finite_number("serial_share", serial_share, 0, 1)
    return whole_number("devices", devices, 1) - s * (devices - 1)


def mib(size):
    """A size in bytes as text: in MiB (2**20 bytes), in bytes where MiB would read 0.00, in GiB from 10 GiB on."""
    if size < 2**20 / 100:
        return f"{size:,} byte{'s' * (size != 1)}"
    if size >= 10 * 2**30:
        return f"{size / 2**30:,.1f} GiB"
    return f"{size / 2**20:,.{2 if size < 1000 * 2**20 else 0}f} MiB"


def _share(elements, parts, index):
    """Length of part `index` when `elements` values are cut into `parts` as numpy.array_split does."""
    return elements // parts + (index < elements % parts)


def plan(layers, strategy, devices, batch, bytes_per_value, cuts):
    """Check the arguments all share. Returns devices, batch and bytes_per_value as Python's integers, and the
    edges of the devices' runs of layers: [0, ..., len(layers)]."""
    if not isinstance(layers, (list, tuple)) or not layers or {type(x) for x in layers} != {LayerCost}:
        raise ValueError(f"layers={layers!r}: must be a non-empty list of LayerCost (see layer_costs)")
    one_of("strategy", strategy, STRATEGIES)
    devices, batch = whole_number("devices", devices, 1), whole_number("global_batch_size", batch, 1)
    bytes_per_value = whole_number("bytes_per_value", bytes_per_value, 1)
    edges = [0, len(layers)]
    if strategy in ("data parallel", *ZERO) and batch % devices:
        raise ValueError(
            f"global_batch_size={batch}: must be a multiple of devices ({devices}): "
            f"{-(-batch // devices) * devices} would do"
        )
    if strategy == "layers split":
        if devices > len(layers):
            raise ValueError(f"devices={devices}: must be at most {len(layers)}, the number of layers")
        inner = [whole_number("each of cuts", cut, 1) for cut in cuts] if isinstance(cuts, (list, tuple)) else [0]
        edges = balanced(layers, devices) if cuts is None else [0, *inner, len(layers)]
        if len(edges) != devices + 1 or any(a >= b for a, b in itertools.pairwise(edges)):
            raise ValueError(f"cuts={cuts!r}: must be {devices - 1} growing indices below {len(layers)}")
    return devices, batch, bytes_per_value, edges


def balanced(layers, devices):
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
    """For each layer, whether its output is split: a kernel turns split to whole or back."""
    return list(itertools.accumulate((layer.splits for layer in layers), operator.ne))


def _traffic(layers, strategy, batch, edges):
    """Values in one step's all-reduces (a list), in its all-gather (or 0), and across each cut (a list)."""
    if strategy in ("data parallel", *ZERO):
        parameters = sum(x.parameters for x in layers)
        return [parameters], parameters * (strategy == "ZeRO-3"), []
    if strategy != "tensor split":
        return [], 0, [layers[edge - 1].outputs * batch for edge in edges[1:-1]]
    splits, sums = _tensor_split(layers), []
    for index, layer in enumerate(layers):
        if layer.splits and not splits[index]:  # by rows: its partial outputs, forward
            sums.append(layer.outputs * batch)
        elif layer.splits and any(before.parameters for before in layers[:index]):  # by columns: backward
            sums.append(layers[index - 1].outputs * batch)
    return sums, layers[-1].outputs * batch * splits[-1], []


def on_device(device, layers, strategy, devices, batch, slots, bytes_per_value, edges):
    """The Memory of one device, by the conventions of `memory`."""
    parameters, outputs = sum(x.parameters for x in layers), sum(x.kept for x in layers)
    part = parameters
    if strategy == "one device" and device:
        parameters = part = outputs = 0
    elif strategy in ("data parallel", *ZERO):
        batch //= devices
        part = _share(parameters, devices, (device + 1) % devices)
    elif strategy == "layers split":
        first, last = edges[device], edges[device + 1]
        parameters = sum(x.parameters for x in layers[first:last])
        outputs = sum(x.kept for x in layers[first:last]) + (layers[first - 1].outputs if first else 0)
    elif strategy == "tensor split":
        cut = list(zip(layers, _tensor_split(layers), strict=True))
        parameters = sum(
            _share(x.parameters, devices, device) if split or x.splits else x.parameters for x, split in cut
        )
        outputs = sum(_share(x.kept, devices, device) if split else x.kept for x, split in cut)
    divided = ZERO.index(strategy) + 1 if strategy in ZERO else 0
    weights, gradients, state = ((part if divided > k else parameters) * bytes_per_value for k in (2, 1, 0))
    return Memory(weights, gradients, slots * state, outputs * batch * bytes_per_value)
