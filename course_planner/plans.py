"""A plan: how many ways the batch, the layers and their insides are divided; what each
device then holds, what it sends, and how long a step takes.

Every kind of parallelism is a special case of it, and there is one formula each. Sizes
are in bytes (in sentences MiB, 2**20 bytes), times in seconds, batches in examples. No
TensorFlow here.
"""

import functools
import itertools
import math
from dataclasses import dataclass

from course_planner.formulas import ALGORITHMS, all_reduce_bytes, balanced, mib, share
from course_planner.layers import check_layers, sources_of
from course_utils.arguments import finite_number, one_of, whole_number
from course_utils.language import translated as _

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
READS_AND_WRITES = 2
"""How often each pass (forward, and backward for two) moves a layer's output through
the device's memory. Fitted with `advice.STEP_START` and `advice.LAUNCH` on an H100 (see
this package's README).
"""


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
        parts = [f"{_(name)} {mib(size)}" for name, size in self.parts.items()]
        return f"{' + '.join(parts)} = {mib(self.total)}"


@dataclass(frozen=True)
class StepTime:
    """Seconds of one training step.

    Attributes:
        compute: computing, and of a pipeline waiting for other stages.
        latency: waiting for messages to arrive, a constant for each.
        transfer: sending bytes.
        filling: of trees, until every level of them is at work; it grows with the
            square root of the bytes.
        bubble: the part of `compute` in which a stage waits for others, on average.
    """

    compute: float
    latency: float
    transfer: float
    filling: float = 0.0
    bubble: float = 0.0

    @property
    def communication(self) -> float:
        """Return the seconds of communication."""
        return self.latency + self.transfer + self.filling

    @property
    def total(self) -> float:
        """Return the seconds of the step if nothing overlaps."""
        return self.compute + self.communication

    @property
    def communication_share(self) -> float:
        """Return communication divided by total, from 0 to 1."""
        return self.communication / self.total

    def overlapped(self, buckets: int) -> float:
        """Return the seconds of the step if gradients travel while others are computed:
        of data parallelism, where all that is sent are gradients.

        Each of `buckets` equal parts travels as soon as it is there, behind the rest of
        the backward pass, which is two thirds of `compute` (PyTorch's DDP: Li et al.,
        2020). Each bucket is an exchange of its own, and pays the whole latency. With
        1, it is `total`.
        """
        buckets = whole_number("buckets", buckets, 1)
        each = self.latency + self.transfer / buckets + self.filling / buckets**0.5
        end = 0.0
        for bucket in range(1, buckets + 1):
            ready = self.compute * (1 + 2 * bucket / buckets) / 3
            end = max(end, ready) + each
        return end


@dataclass(frozen=True)
class Rates:
    """How fast devices compute and send.

    Attributes:
        flops_per_second: that a device reaches.
        bandwidth: bytes/s that a device sends in the exchange of data parallelism.
        latency: seconds a message.
        bandwidth_inside_layers: bytes/s in tensor parallelism's exchanges, and
        bandwidth_between_stages: in a pipeline; None: `bandwidth`.
        memory_bandwidth: bytes/s of a device's own memory; None: not counted.
        start: seconds until a step begins, Python's part.
        launch: seconds to start an operation on the device.
    """

    flops_per_second: float
    bandwidth: float
    latency: float
    bandwidth_inside_layers: float | None = None
    bandwidth_between_stages: float | None = None
    memory_bandwidth: float | None = None
    start: float = 0.0
    launch: float = 0.0

    def __post_init__(self):
        for name in "flops_per_second", "bandwidth":
            finite_number(name, getattr(self, name), 1)
        for name in (
            "bandwidth_inside_layers",
            "bandwidth_between_stages",
            "memory_bandwidth",
        ):
            if getattr(self, name) is not None:
                finite_number(name, getattr(self, name), 1)
        for name in "latency", "start", "launch":
            finite_number(name, getattr(self, name))


@dataclass(frozen=True)
class Plan:
    """One way to train, on data x tensor x pipeline devices; checked when it is made.

    Device d has part d % tensor of its layers; of the others' d // tensor % pipeline is
    its stage, and d // (tensor x pipeline) its replica.

    - data: replicas of the model, each with its part of the batch.
    - zero: what the replicas divide besides (Rajbhandari et al., ZeRO, 2020): each
      keeps only its part of the optimizer's values (1), of the gradients too (2), of
      the weights too (3: FSDP). Instead of an all-reduce there are its two halves,
      gradients in the first, new weights in the second; with 3 weights are gathered for
      the forward and for the backward pass of every micro-batch. Part r is what a ring
      leaves on replica r.
    - tensor: layers split inside, after Shoeybi et al., Megatron-LM, 2019: by columns
      and by rows in turn; attention by heads. Each device has its share of a split
      layer's parameters, biases included. The output of a column-split layer, and of
      layers without kernels after it, is split too; that of a row-split layer (and
      before the first split) is whole on every device. Shares are cut as
      numpy.array_split does. An all-reduce adds up each row-split layer's output
      (forward) and the gradient of each column-split layer's input (backward; the first
      needs none); attention does both. A forward pass that is computed again adds up
      again (Rajbhandari et al., ZeRO, 2020, section 8). If the last output is split,
      it is gathered.
    - pipeline: stages of consecutive layers. A stage also keeps what it received. At
      each cut the activations travel forward, and as many gradients back.
    - micro_batches: parts of a replica's batch, one after the other through the stages,
      each forward and backward as early as it can (1F1B: Narayanan et al., 2021), so
      that stage s keeps `pipeline - s` of them at most. Their gradients are added up
      where they are, and sent once (with zero 2 and 3 for each).

    Attributes:
        layers: a list of LayerCost.
        global_batch_size: examples a step, of all devices together.
        optimizer: one of OPTIMIZER_SLOTS.
        precision: one of PRECISIONS.
        cuts: index of the first layer of each stage but the first, such as [3]. By
            default the largest parameter count of a stage is made least, and each in
            turn takes as many layers as that allows.
        accumulation_steps: equal parts of the global batch, each a step of its own but
            for the update (Keras' `gradient_accumulation_steps`): there is an
            accumulator, and each part sends.

    Raises:
        ValueError: for nonsense; a batch that the numbers do not divide; layers that
            are no chain (pipeline) or do not split (tensor); fewer layers than stages.
    """

    layers: list
    global_batch_size: int
    data: int = 1
    tensor: int = 1
    pipeline: int = 1
    zero: int = 0
    micro_batches: int = 1
    optimizer: str = "adam"
    precision: str = "float32"
    cuts: list | None = None
    accumulation_steps: int = 1

    def __post_init__(self):
        check_layers(self.layers)
        for name in (
            "global_batch_size",
            "data",
            "tensor",
            "pipeline",
            "micro_batches",
            "accumulation_steps",
        ):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), 1))
        whole_number("zero", self.zero, 0, 3)
        one_of("optimizer", self.optimizer, OPTIMIZER_SLOTS)
        one_of("precision", self.precision, PRECISIONS)
        self._check_batch()
        if self.pipeline > 1:
            self._check_pipeline()
        if self.tensor > 1:
            self.split  # noqa: B018  (raises where layers do not split)

    def _check_batch(self):
        alone = self.tensor == self.pipeline == 1
        parts = {
            "devices" if alone else "data": self.data,
            "micro_batches": self.micro_batches,
            "accumulation_steps": self.accumulation_steps,
        }
        whole = math.prod(parts.values())
        if self.global_batch_size % whole:
            words = " x ".join(f"{name} ({n})" for name, n in parts.items() if n > 1)
            enough = math.ceil(self.global_batch_size / whole) * whole
            raise ValueError(
                _(
                    "global_batch_size={global_batch_size}: must be a multiple "
                    "of {words}: {enough} would do",
                    global_batch_size=self.global_batch_size,
                    words=words,
                    enough=enough,
                )
            )

    def _check_pipeline(self):
        count, cuts = len(self.layers), self.cuts
        for layer in self.layers[1:]:
            if layer.inputs is not None:
                raise ValueError(
                    _(
                        "layers: pipeline parallel needs a chain, and {name!r} "
                        "takes more than the layer before",
                        name=layer.name,
                    )
                )
        if self.pipeline > count:
            raise ValueError(
                _(
                    "pipeline={pipeline} devices: must be at most {count}, the "
                    "number of layers",
                    pipeline=self.pipeline,
                    count=count,
                )
            )
        if cuts is None:
            return
        inner = [0]
        if isinstance(cuts, (list, tuple)):
            inner = [whole_number(_("each of cuts"), cut, 1) for cut in cuts]
        edges = [0, *inner, count]
        growing = all(a < b for a, b in itertools.pairwise(edges))
        if len(edges) != self.pipeline + 1 or not growing:
            raise ValueError(
                _(
                    "cuts={cuts!r}: must be {pipeline} growing indices below {count}",
                    cuts=cuts,
                    pipeline=self.pipeline - 1,
                    count=count,
                )
            )

    # What is where

    @property
    def devices(self) -> int:
        """Return how many it needs."""
        return self.data * self.tensor * self.pipeline

    @property
    def examples(self) -> int:
        """Return how many go through a device at once."""
        parts = self.data * self.micro_batches * self.accumulation_steps
        return self.global_batch_size // parts

    @functools.cached_property
    def edges(self) -> list[int]:
        """Return [0, first layer of stage 1, …, number of layers]."""
        if self.pipeline == 1:
            return [0, len(self.layers)]
        if self.cuts is None:
            sizes = [layer.parameters + layer.frozen for layer in self.layers]
            return balanced(sizes, self.pipeline)
        return [0, *self.cuts, len(self.layers)]

    @functools.cached_property
    def split(self) -> list[tuple[bool, bool]]:
        """Return, for each layer, whether its input and its output are split."""
        if self.tensor == 1:
            return [(False, False)] * len(self.layers)
        states = []
        for index, layer in enumerate(self.layers):
            sources = sources_of(self.layers, index)
            split = {states[source][1] for source in sources} or {False}
            whole = layer.kind == "attention" or (
                layer.kind == "whole" and (layer.parameters or layer.flops)
            )
            if len(split) > 1 or (True in split and whole):
                raise ValueError(
                    _(
                        "layers: tensor parallel leaves a part of an input on "
                        "each device where layer {name!r} needs it whole: such "
                        "a layer must stand after two kernels (or four …), or "
                        "after attention",
                        name=layer.name,
                    )
                )
            (before,) = split
            turns = layer.kind == "kernel" and layer.parameters + layer.frozen > 0
            states.append((before, before != turns))
        return states

    def cuts_evenly(self) -> bool:
        """Return whether what is cut has equal shares, as keras.distribution needs.

        Tensor parallelism cuts heads, and the units of layers whose output is split;
        where units are not known, they are a divisor of the outputs. zero 3 cuts any
        axis of the weights, whose number must divide (of all but a tenth of them).
        """
        for layer, (_before, after) in zip(self.layers, self.split, strict=True):
            is_cut = layer.kind == "attention" or (layer.kind == "kernel" and after)
            units = layer.units or layer.outputs
            if is_cut and layer.parameters and units % self.tensor:
                return False
        if self.zero < 3:
            return True
        sizes = [layer.parameters + layer.frozen for layer in self.layers]
        uneven = sum(size for size in sizes if size % self.data)
        return 10 * uneven <= sum(sizes)

    def at_work(self) -> int:
        """Return the bytes of the largest layer's weights and gradients.

        They are whole for a moment where zero 3 divides them (2: gradients); else 0.
        """
        weight, gradient, *_ = PRECISIONS[self.precision]
        size = weight * (self.zero == 3) + gradient * (self.zero >= 2)
        if not size:
            return 0
        largest = max(layer.parameters + layer.frozen for layer in self.layers)
        return size * largest // self.tensor

    # What each device holds

    def memory(self) -> list[Memory]:
        """Return what training needs on each device, in their order.

        Weights and gradients: one value per parameter (frozen weights have no
        gradient). Optimizer: 0, 1 or 2 values and, if there is one, the master copy
        (bookkeeping of Rajbhandari et al., ZeRO, 2020). Activations: what layers keep,
        times the examples that are on the device at once (a view keeps nothing).
        Accumulator: with `accumulation_steps`, one value of 4 bytes for each trained
        weight (Keras' optimizer). Left out: the input examples, the optimizer's few
        scalars, the 16-bit copies of weights, work space (with zero 3 the layer at work
        is whole for a moment).
        """
        return [self.memory_on(device) for device in range(self.devices)]

    def largest_memory(self) -> Memory:
        """Return the Memory of the device that needs most."""
        stages = range(self.pipeline)
        ends = itertools.product(
            {0, self.data - 1}, stages, {0, self.tensor - 1}
        )  # shares differ by one value, and the last has the smallest
        every = (
            self.memory_on((replica * self.pipeline + stage) * self.tensor + part)
            for replica, stage, part in ends
        )
        return max(every, key=lambda memory: memory.total)

    def _place(self, device):
        """Return (replica, stage, part) of a device."""
        rest, part = divmod(device, self.tensor)
        replica, stage = divmod(rest, self.pipeline)
        return replica, stage, part

    def memory_on(self, device: int) -> Memory:
        """Return what training needs on this device."""
        replica, stage, part = self._place(device)
        trained, frozen = self._weights(stage, part)
        own_trained, own_frozen = (
            share(whole, self.data, (replica + 1) % self.data)
            for whole in (trained, frozen)
        )
        weights = trained + frozen if self.zero < 3 else own_trained + own_frozen
        gradients = trained if self.zero < 2 else own_trained
        states = trained if self.zero < 1 else own_trained
        kept, recomputed = self._activations(stage, part)
        in_flight = min(self.micro_batches, self.pipeline - stage)
        values = self.examples * (in_flight * kept + recomputed)
        weight, gradient, activation, copy = PRECISIONS[self.precision]
        return Memory(
            weights * weight,
            gradients * gradient,
            states * (4 * OPTIMIZER_SLOTS[self.optimizer] + copy),
            values * activation,
            # divided as the optimizer's values are
            4 * states * (self.accumulation_steps > 1),
        )

    def _stage(self, stage):
        """Yield (layer, whether its weights, whether its outputs are split)."""
        first, after = self.edges[stage : stage + 2]
        for index in range(first, after):
            layer, (before, split) = self.layers[index], self.split[index]
            yield layer, layer.kind in ("kernel", "attention") or before, split

    def _weights(self, stage, part):
        """Return (trained, frozen) scalars of a part of a stage."""
        trained = frozen = 0
        for layer, divided, _after in self._stage(stage):
            trained += self._part(layer.parameters, divided, part)
            frozen += self._part(layer.frozen, divided, part)
        return trained, frozen

    def _activations(self, stage, part):
        """Return the values that a part of a stage keeps of an example, and the most
        that it computes again at once, those that it keeps anyway left out.
        """
        first = self.edges[stage]
        kept, again = self._crossing(first, part) if first else 0, {}  # received
        for layer, _divided, after in self._stage(stage):
            own = self._part(layer.kept, after, part)
            kept += own
            if layer.segment is not None:
                inside = self._part(layer.recomputed, after, part) - own
                again[layer.segment] = again.get(layer.segment, 0) + inside
        return kept, max([0, *again.values()])

    def _crossing(self, edge, part):
        """Return the values of an example that a part of a stage sends on at a cut."""
        return self._part(self.layers[edge - 1].outputs, self.split[edge - 1][1], part)

    def _part(self, whole, is_divided, part):
        return share(whole, self.tensor, part) if is_divided else whole

    # What travels

    def bytes_sent(self, algorithm: str = "ring") -> list[int]:
        """Return the bytes that each device sends in a step, exact integers.

        algorithm: of ALGORITHMS, by which gradients and tensor parallelism's sums are
        added up; with ZeRO "ring". The gather of a split last output is a ring's:
        device d sends all shares but d + 1.
        """
        one_of("algorithm", algorithm, ("ring",) if self.zero else ALGORITHMS)
        times = self.micro_batches * self.accumulation_steps
        activation = PRECISIONS[self.precision][2]
        sums_of_stages = [self._sums(stage) for stage in range(self.pipeline)]
        sent = []
        for device in range(self.devices):
            replica, stage, part = self._place(device)
            sums, gathered = sums_of_stages[stage]
            values = sum(
                all_reduce_bytes(size * self.examples, self.tensor, algorithm, 1)[part]
                for size in sums
            )
            gathered *= self.examples
            values += gathered - share(gathered, self.tensor, (part + 1) % self.tensor)
            cuts = self.edges[1:-1][max(0, stage - 1) : stage + 1]  # before and after
            values += sum(self._crossing(cut, part) for cut in cuts) * self.examples
            sent.append(
                times * values * activation
                + self._gradient_bytes(stage, part, replica, algorithm)
            )
        return sent

    def _gradient_bytes(self, stage, part, replica, algorithm):
        """Return the bytes that a device sends to the other replicas in a step."""
        weight, gradient, *_ = PRECISIONS[self.precision]
        trained, frozen = self._weights(stage, part)
        if not self.zero:
            every = all_reduce_bytes(trained, self.data, algorithm, gradient)
            return self.accumulation_steps * every[replica]

        def half(values, less):  # of a ring: all chunks but one
            return values - share(values, self.data, (replica + less) % self.data)

        scatters, gathers = self._halves()
        gathered = trained + frozen * (self.zero == 3)
        scattered = scatters * half(trained, 1) * gradient
        return scattered + gathers * half(gathered, 2) * weight

    def _halves(self):
        """Return how many reduce-scatters and all-gathers ZeRO makes in a step: new
        weights are gathered once, and with zero 3 old ones for each part and pass.
        """
        parts = self.micro_batches * self.accumulation_steps
        scatters = parts if self.zero >= 2 else self.accumulation_steps
        return scatters, 2 * parts if self.zero == 3 else 1

    def _sums(self, stage):
        """Return the values of an example in each of tensor parallelism's sums in a
        stage, a list, and those in its gather at the end.
        """
        first, after = self.edges[stage : stage + 2]
        sums = []
        for index in range(first, after):
            layer, (before, split) = self.layers[index], self.split[index]
            attention = self.tensor > 1 and layer.kind == "attention"
            attention = attention and layer.parameters + layer.frozen > 0
            if attention or (before and not split):  # its partial outputs, forward
                passes = 1 if layer.segment is None else 2  # once more when recomputed
                sums += passes * [layer.outputs]
            earlier = any(one.parameters for one in self.layers[:index])
            if earlier and (attention or (split and not before)):  # backward
                sources = sources_of(self.layers, index)
                sums.append(sum(self.layers[source].outputs for source in sources))
        last = after == len(self.layers) and self.split[-1][1]
        return sums, self.layers[-1].outputs * last

    # How long a step takes

    def step_time(self, rates: Rates, algorithm: str = "ring") -> StepTime:
        """Return the seconds of one step; nothing overlaps in its `total`.

        Compute: `passes` x the forward FLOPs of each layer, 3 for most, as the backward
        pass takes about twice the forward (Amodei & Hernandez, AI and Compute, 2018;
        Kaplan et al., 2020); where `rates` have them, for each pass READS_AND_WRITES of
        its output's bytes at the memory's bandwidth and a launch; the bytes of the
        update, and the start of the step. Stages work at the same time on different
        micro-batches: the first passes through all of them, then the slowest stage
        decides. One micro-batch leaves one stage at work at a time (see
        bubble_fraction).

        Communication: b bytes take latency + b / bandwidth (the alpha-beta model:
        Hockney, 1994). An all-reduce of S bytes on N devices takes, by "ring",
        2 (N - 1) messages and 2 (N - 1) / N x S (Thakur, Rabenseifner & Gropp, 2005;
        Patarasuk & Yuan, 2009); by "tree", down and up again, twice
        S / bandwidth + 2 latency log2 N + (8 latency S / bandwidth log2 N)**0.5: two
        pipelined trees (Sanders, Speck & Träff, 2009, with the best number of pieces).
        An all-gather is half a ring. A pipeline: a message forward and one back at each
        cut. Accumulated parts are steps one after the other, and each one sends: so
        does Keras on JAX, whose gradients are summed over all devices before they are
        added up.

        Raises:
            ValueError: for an unknown `algorithm`, and if no layer has FLOPs.
        """
        one_of("algorithm", algorithm, ("ring", "tree"))
        if not any(layer.flops for layer in self.layers):
            raise ValueError(
                _(
                    "layers: all {count} have flops=0: give at least one some",
                    count=len(self.layers),
                )
            )
        stages = range(self.pipeline)
        busy = [self._computing(stage, rates) for stage in stages]
        updating = self._updating(rates) / self.accumulation_steps  # once, not for each
        compute = self._through(busy) + rates.start + updating
        bubble = self._through(busy) - self.micro_batches * sum(busy) / len(busy)
        inside = [
            self._sending_inside_layers(stage, rates, algorithm) for stage in stages
        ]
        every = [
            self._sending_between_stages(rates),
            tuple(map(self._through, zip(*inside, strict=True))),
        ]
        parts = self.accumulation_steps
        latency, transfer, filling = (
            parts * sum(each) + gradients
            for *each, gradients in zip(
                *every, self._sending_gradients(rates, algorithm), strict=True
            )
        )
        return StepTime(parts * compute, latency, transfer, filling, parts * bubble)

    def _through(self, seconds):
        """Return how long all micro-batches take through stages that need so long."""
        return sum(seconds) + (self.micro_batches - 1) * max(seconds)

    def _computing(self, stage, rates):
        """Return the seconds that a stage computes for one micro-batch."""
        operations = moved = passes = 0
        size = PRECISIONS[self.precision][2]
        for layer, divided, after in self._stage(stage):
            work = layer.passes * layer.flops
            operations += work / self.tensor if divided else work
            outputs = 0 if layer.kind == "view" else layer.outputs
            outputs *= READS_AND_WRITES * layer.passes * size
            moved += outputs / self.tensor if after else outputs
            passes += layer.passes
        seconds = operations * self.examples / rates.flops_per_second
        if rates.memory_bandwidth:
            seconds += moved * self.examples / rates.memory_bandwidth
        return seconds + rates.launch * passes

    def _updating(self, rates):
        """Return the seconds of moving what the fullest device holds of a model.

        Weights are read in three passes and written, gradients written and read, the
        optimizer's values read and written.
        """
        if not rates.memory_bandwidth:
            return 0.0
        held = self.largest_memory()
        moved = 4 * held.weights + 2 * held.gradients + 2 * held.optimizer
        return moved / rates.memory_bandwidth

    def _sending_inside_layers(self, stage, rates, algorithm):
        """Return (latency, transfer, filling) of a stage's sums of one micro-batch."""
        sums, gathered = self._sums(stage)
        bandwidth = rates.bandwidth_inside_layers or rates.bandwidth
        size = PRECISIONS[self.precision][2] * self.examples
        times = [
            all_reduce_seconds(values * size, self.tensor, bandwidth, rates, algorithm)
            for values in sums
        ]
        others = self.tensor - 1
        if gathered:
            sent = gathered * size * others / self.tensor
            times.append((others * rates.latency, sent / bandwidth, 0.0))
        return tuple(map(sum, zip((0.0, 0.0, 0.0), *times, strict=True)))

    def _sending_between_stages(self, rates):
        """Return (latency, transfer, filling) of all micro-batches at the cuts."""
        if self.pipeline == 1:
            return 0.0, 0.0, 0.0
        size = PRECISIONS[self.precision][2] * self.examples
        crossing = [size * self._crossing(cut, 0) for cut in self.edges[1:-1]]
        bandwidth = rates.bandwidth_between_stages or rates.bandwidth
        messages = 2 * (len(crossing) + self.micro_batches - 1)
        return messages * rates.latency, 2 * self._through(crossing) / bandwidth, 0.0

    def _sending_gradients(self, rates, algorithm):
        """Return (latency, transfer, filling) of what replicas send to each other."""
        weight, gradient, *_ = PRECISIONS[self.precision]
        # the stage with the most weights decides
        stages = (self._weights(stage, 0) for stage in range(self.pipeline))
        trained, frozen = max(stages, key=sum)
        if not self.zero:
            size = trained * gradient
            seconds = all_reduce_seconds(
                size, self.data, rates.bandwidth, rates, algorithm
            )
            return tuple(self.accumulation_steps * each for each in seconds)
        scatters, gathers = self._halves()
        gathered = trained + frozen * (self.zero == 3)
        sent = scatters * trained * gradient + gathers * gathered * weight
        others = self.data - 1
        messages = (scatters + gathers) * others
        transfer = sent * others / self.data / rates.bandwidth
        return messages * rates.latency, transfer, 0.0


def all_reduce_seconds(size, devices, bandwidth, rates, algorithm):
    """Return (latency, transfer, filling) of one all-reduce; see `Plan.step_time`."""
    if devices == 1:
        return 0.0, 0.0, 0.0
    if algorithm == "ring":
        others = devices - 1
        return (
            2 * others * rates.latency,
            2 * others / devices * size / bandwidth,
            0.0,
        )
    levels = math.ceil(math.log2(devices))
    filling = (8 * rates.latency * size / bandwidth * levels) ** 0.5
    return 4 * levels * rates.latency, 2 * size / bandwidth, 2 * filling
