"""What each layer of a Keras model costs: weights, saved activations, FLOPs; counted,
and activations measured too.
"""

import contextlib
import functools
import itertools
import math
from dataclasses import dataclass, replace

from course_utils.arguments import one_of, whole_number
from course_utils.words import counted

TENSOR_PARALLEL_SPLITS = ("kernel", "attention", "elementwise", "whole", "view")
ELEMENTWISE = (
    "BatchNormalization",
    "LayerNormalization",
    "GroupNormalization",
    "RMSNormalization",
    "PReLU",
)
WHOLE = ("Embedding", "Normalization", "UnitNormalization", "SpectralNormalization")
VIEWS = ("Flatten", "Reshape")
ATTENTION = ("MultiHeadAttention", "GroupedQueryAttention", "GroupQueryAttention")
RECURRENT = (
    "LSTM",
    "GRU",
    "SimpleRNN",
    "RNN",
    "ConvLSTM1D",
    "ConvLSTM2D",
    "ConvLSTM3D",
)


@dataclass(frozen=True)
class LayerCost:
    """One layer: what it holds and computes for each example, as whole numbers.

    Attributes:
        parameters: trainable scalars.
        outputs: values that it gives.
        flops: of the forward pass, 2 for each multiply-add.
        kind: what tensor parallel makes of it. "kernel": split; "attention": split by
            heads inside; "elementwise": each parameter acts on its own feature
            (BatchNormalization), and stays with it; "whole": a copy on each device;
            "view": the input's memory in another shape (Flatten).
        kept: saved activations, the values that the backward pass needs again; by
            default the outputs, of a view none.
        inputs: the indices of the layers whose outputs it takes; None: the one before.
        guess: whether the FLOPs are a guess, because what it computes is not known.
        frozen: weights that are not trained, scalars.
        units: what tensor parallel cuts, as units, filters or heads; None: outputs.
        recomputed: values that are there for a moment, while the backward pass computes
            them again (see `checkpointed`).
    """

    name: str
    parameters: int
    outputs: int
    flops: int
    kind: str = "kernel"
    kept: int | None = None
    inputs: tuple | None = None
    guess: bool = False
    frozen: int = 0
    units: int | None = None
    recomputed: int = 0

    def __post_init__(self):
        one_of(f"kind of layer {self.name!r}", self.kind, TENSOR_PARALLEL_SPLITS)
        if self.kept is None:
            object.__setattr__(self, "kept", 0 if self.kind == "view" else self.outputs)
        for field in ("parameters", "outputs", "flops", "kept", "frozen", "recomputed"):
            value = whole_number(
                f"{field} of layer {self.name!r}", getattr(self, field)
            )
            # NumPy integers become Python's, which never overflow
            object.__setattr__(self, field, value)


def layer_costs(model, input_shape: tuple | list | None = None) -> list[LayerCost]:
    """Return the layers of any Keras model, in the order in which they compute.

    Parameters are trainable scalars, each counted once. FLOPs are 2 for each
    multiply-add of the forward pass, without biases and activation functions;
    attention's two products with the sequence lengths; 0 for embeddings, normalization
    and layers without weights. A layer of the reader's own that has weights is counted
    by these, 2 each: a guess, and marked so.

    Args:
        model: Sequential, functional (nested, with skips, several inputs or outputs,
            shared layers), or a subclass that was called once. It computes one example
            of zeros, so that every layer shows the shapes that it really has.
        input_shape: of one example, where the model leaves a size open, such as
            (224, 224, 3); several inputs: a list.

    Returns:
        A list of LayerCost.

    Raises:
        ValueError: for what is no built Keras model, and where a size is open.
    """
    import keras

    if not isinstance(model, keras.layers.Layer) or not model.built:
        raise ValueError(
            f"model={model!r}: must be a built Keras model (give it an Input, or call "
            "it once)"
        )
    calls, seen = _trace_calls(model, _examples(model, input_shape)), set()
    costs, producer_of = [], {}
    for layer, layer_inputs, layer_outputs in calls:
        new_weights = [one for one in _weights(layer) if id(one) not in seen]
        frozen = [
            one
            for one in getattr(layer, "non_trainable_weights", [])
            if id(one) not in seen
        ]
        seen |= {id(weight) for weight in [*new_weights, *frozen]}
        flops, kind, guess = _work(layer, layer_inputs, layer_outputs)
        inputs = tuple(
            sorted(
                {
                    producer_of[id(value)]
                    for value in layer_inputs
                    if id(value) in producer_of
                }
            )
        )
        known = all(id(value) in producer_of for value in layer_inputs) or not costs
        before = (len(costs) - 1,) if costs else ()
        outputs = sum(math.prod(value.shape[1:]) for value in layer_outputs)
        inputs = None if known and inputs == before else inputs
        costs.append(
            LayerCost(
                layer.name,
                _scalars(new_weights),
                outputs,
                flops,
                kind,
                inputs=inputs,
                guess=guess,
                frozen=_scalars(frozen),
                units=_units(layer),
            )
        )
        producer_of |= {id(value): len(costs) - 1 for value in layer_outputs}
    if not costs:
        raise ValueError(f"model={model.name!r}: has no layers")
    # The reader's own weights, outside of the layers that compute.
    left = [weight for weight in model.trainable_weights if id(weight) not in seen]
    if left:
        parameters = _scalars(left)
        costs.append(
            LayerCost(
                f"{model.name}'s own",
                parameters,
                0,
                2 * parameters,
                "whole",
                guess=True,
            )
        )
    return costs


def _scalars(weights):
    return sum(math.prod(weight.shape) for weight in weights)


def _units(layer):
    """Return what tensor parallel cuts of a layer; None where it is not known."""
    if type(layer).__name__ in ATTENTION:
        return layer.query_dense.kernel.shape[-2]  # heads
    for name in "units", "filters":
        if isinstance(getattr(layer, name, None), int):
            return getattr(layer, name)
    return None


def _examples(model, input_shape):
    """Return an example of zeros for each input of the model, in their structure."""
    import keras
    import numpy as np

    try:
        inputs = model.input
    # a subclass: the shapes with which it was called
    except (AttributeError, ValueError):
        config = model.get_build_config() or {}
        shapes = config.get("input_shape") or config.get("shapes_dict")
        if not shapes:
            raise ValueError(
                f"model={model.name!r}: call it once, so that its inputs are known"
            ) from None
        inputs = keras.tree.map_shape_structure(keras.KerasTensor, shapes)
    leaves = keras.tree.flatten(inputs)
    several = (
        input_shape is not None
        and len(input_shape) > 0
        and not isinstance(input_shape[0], int)
    )
    shapes = (
        [tuple(leaf.shape)[1:] for leaf in leaves]
        if input_shape is None
        else list(input_shape)
    )
    shapes = shapes if several or input_shape is None else [tuple(input_shape)]
    if len(shapes) != len(leaves) or any(None in shape for shape in shapes):
        open_shapes = [tuple(leaf.shape)[1:] for leaf in leaves]
        raise ValueError(
            f"input_shape={input_shape!r}: must name every size of model "
            f"{model.name!r}'s {counted(len(leaves), 'input')}, which are "
            f"{open_shapes}; such as (224, 224, 3)"
        )
    zeros = [
        np.zeros((1, *shape), leaf.dtype)
        for leaf, shape in zip(leaves, shapes, strict=True)
    ]
    return keras.tree.pack_sequence_as(inputs, zeros)


def _trace_calls(model, example):
    """Return `[(layer, its inputs, its outputs), …]` of all layers that compute,
    as one call of the model shows them.
    """
    import keras

    calls, stack = [], []

    def watched(call, layer, *args, **named):
        if layer is model or (stack and stack[-1] is layer):
            return call(layer, *args, **named)
        # counted as one
        if stack and type(stack[-1]).__name__ in (*ATTENTION, *RECURRENT):
            return call(layer, *args, **named)
        stack.append(layer)
        before = len(calls)
        try:
            outputs = call(layer, *args, **named)
        finally:
            stack.pop()
        inner = {id(weight) for one, *_ in calls[before:] for weight in _weights(one)}
        if len(calls) == before or any(
            id(weight) not in inner for weight in _weights(layer)
        ):
            layer_inputs = [
                value
                for value in keras.tree.flatten((args, named))
                if hasattr(value, "shape")
            ]
            layer_outputs = [
                value
                for value in keras.tree.flatten(outputs)
                if hasattr(value, "shape")
            ]
            calls.append((layer, layer_inputs, layer_outputs))
        return outputs

    def watching(plain):
        return functools.wraps(plain)(
            lambda layer, *args, **named: watched(plain, layer, *args, **named)
        )

    with contextlib.ExitStack() as stack_of_calls:
        for kind in keras.Operation, keras.layers.Layer:
            stack_of_calls.enter_context(
                _replaced(kind, "__call__", watching(kind.__call__))
            )
        try:
            model(example, training=False)
        except TypeError as problem:
            raise ValueError(
                f"model={model.name!r}: must take its inputs as one argument "
                f"({problem})"
            ) from problem
    return [one for one in calls if type(one[0]).__name__ != "InputLayer"]


def _weights(layer):
    return getattr(layer, "trainable_weights", [])  # an operation of keras.ops has none


@contextlib.contextmanager
def _replaced(owner, name, value):
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _work(layer, layer_inputs, layer_outputs):
    """Return (FLOPs, kind, whether they are a guess) of one call of a layer."""
    name = type(layer).__name__
    bases = {base.__name__ for base in type(layer).__mro__}
    outputs = math.prod(layer_outputs[0].shape[1:])
    if name in ("Matmul", "Dot") and len(layer_inputs) == 2:
        return 2 * outputs * layer_inputs[0].shape[-1], "elementwise", False
    if name == "TimeDistributed":
        flops, kind, guess = _work(
            layer.layer, [layer_inputs[0][:, 0]], [layer_outputs[0][:, 0]]
        )
        return flops * layer_inputs[0].shape[1], kind, guess
    if name in ATTENTION:
        return _attention(layer, layer_inputs), "attention", False
    if name in ("Attention", "AdditiveAttention"):
        queries, values = layer_inputs[0].shape, layer_inputs[1].shape
        sizes = queries[-1] + values[-1]
        flops = 2 * math.prod(queries[1:-1]) * values[-2] * sizes
        return flops, "elementwise", False
    if name in RECURRENT:
        return _recurrence(layer, layer_inputs, layer_outputs), "whole", False
    flops = _kernel_flops(layer, bases, layer_inputs, outputs)
    if flops is not None:
        return flops, "kernel", False
    if not _weights(layer) or name in (*ELEMENTWISE, *WHOLE):
        kind = "view" if name in VIEWS else "whole" if name in WHOLE else "elementwise"
        return 0, kind, False
    return 2 * sum(math.prod(weight.shape) for weight in _weights(layer)), "whole", True


def _kernel_flops(layer, bases, layer_inputs, outputs):
    """Return the FLOPs of a layer with a kernel (2 for each of its multiplications).

    bases: names of its classes. outputs: values that it gives. None for other layers.
    """
    inputs = math.prod(layer_inputs[0].shape[1:])
    sizes = {
        weight.path.split("/")[-1]: tuple(weight.shape)
        for weight in getattr(layer, "weights", [])
    }
    if {"BaseConv", "BaseDepthwiseConv", "BaseSeparableConv"} & bases:
        kernels = [shape for key, shape in sizes.items() if "kernel" in key]
        channels = kernels[-1][-1]
        if "BaseDepthwiseConv" in bases:
            channels = math.prod(kernels[-1][-2:])
        return 2 * sum(map(math.prod, kernels)) * outputs // channels
    if "BaseConvTranspose" in bases:
        kernel = sizes["kernel"]
        return 2 * math.prod(kernel) * inputs // kernel[-1]
    if type(layer).__name__ == "Dense":
        return 2 * math.prod(layer.kernel.shape) * outputs // layer.units
    if type(layer).__name__ == "EinsumDense":
        letters, kernel = layer.equation.split("->")[0].replace(".", "").split(",")
        named = zip(kernel, layer.kernel.shape, strict=True)
        shared = math.prod(size for letter, size in named if letter in letters)
        return 2 * inputs * math.prod(layer.kernel.shape) // shared
    return None


def _recurrence(layer, layer_inputs, layer_outputs):
    """Return the FLOPs of all time steps; each multiplies by all kernels."""
    kernels = [
        math.prod(weight.shape)
        for weight in layer.weights
        if "kernel" in weight.path.split("/")[-1]
    ]
    positions = 1
    if type(layer).__name__.startswith("Conv") and len(layer_outputs[0].shape) > 3:
        positions = math.prod(layer_outputs[0].shape[2:-1])
    return 2 * sum(kernels) * layer_inputs[0].shape[1] * positions


def _attention(layer, layer_inputs):
    """Return the FLOPs of four projections, and of attention's two products."""
    queries = math.prod(layer_inputs[0].shape[1:-1])
    values = math.prod(
        (layer_inputs[1] if len(layer_inputs) > 1 else layer_inputs[0]).shape[1:-1]
    )
    flops = 0
    for part in (
        layer.query_dense,
        layer.key_dense,
        layer.value_dense,
        layer.output_dense,
    ):
        positions = (
            queries if part in (layer.query_dense, layer.output_dense) else values
        )
        flops += 2 * math.prod(part.kernel.shape) * positions
    heads, key_size = layer.query_dense.kernel.shape[-2:]
    return flops + 2 * queries * values * heads * (
        key_size + layer.value_dense.kernel.shape[-1]
    )


def checkpointed(
    layers: list[LayerCost], segments: int | None = None
) -> list[LayerCost]:
    """Return the same layers with activation checkpointing (Chen et al., 2016).

    Of each of some runs of layers, the segments, only what the next ones need is kept.
    The rest is computed again in the backward pass: one more forward pass, so that a
    step of three becomes one of four. One segment at a time is there as a whole
    meanwhile: the largest one is `recomputed`, and the peak is what is kept and that.

    Args:
        layers: what `layer_costs` returns.
        segments: how many, of equally many layers; None: cut so that the peak is least.

    Raises:
        ValueError: for nonsense.
    """
    check_layers(layers)
    crossing = _crossing(layers)
    if segments is None:
        edges = _edges_of_least_peak(layers, crossing)
    else:
        count = len(layers)
        segments = whole_number("segments", segments, 1, count, "the number of layers")
        each, more = divmod(count, segments)
        edges = [0]
        for index in range(segments):
            edges.append(edges[-1] + each + (index < more))
    saving = []
    for first, after in itertools.pairwise(edges):
        run = layers[first:after]
        inside = sum(layer.kept or 0 for layer in run)
        kept = min(crossing[after - 1], inside)  # a view alone keeps nothing
        for index, layer in enumerate(run, first):
            last = index == after - 1
            saving.append(
                replace(
                    layer,
                    flops=math.ceil(4 * layer.flops / 3),
                    kept=kept if last else 0,
                    recomputed=inside - kept if last else 0,
                )
            )
    return saving


def _crossing(layers):
    """Return, for each layer, how many values of it and the ones before are needed
    after it; of the last one, its outputs.
    """
    last_use = list(range(len(layers)))
    for index, layer in enumerate(layers):
        sources = layer.inputs if layer.inputs is not None else (index - 1,)
        for source in sources:
            if source >= 0:
                last_use[source] = max(last_use[source], index)
    alive, found, ends = 0, [], {}
    for index, layer in enumerate(layers):
        alive += layer.outputs
        ends.setdefault(last_use[index], []).append(layer.outputs)
        # what this layer takes for the last time is not needed after it
        own = layer.outputs if last_use[index] == index else 0
        alive -= sum(ends.pop(index, [])) - own
        found.append(alive)
        alive -= own
    return found


LIMITS = 48
"""How many sizes of the largest segment are tried, of those that there are."""


def _edges_of_least_peak(layers, crossing):
    """Return where segments begin, so that what is kept and the largest one together
    are least.

    For a largest segment of a given size, the cuts that keep least are found by dynamic
    programming.
    """
    sizes = [layer.kept or 0 for layer in layers]
    best, least = [0, len(layers)], math.inf
    for limit in _limits(sizes):
        edges = _fewest_kept(sizes, crossing, limit)
        kept = largest = 0
        for first, after in itertools.pairwise(edges):
            inside = sum(sizes[first:after])
            cut = min(crossing[after - 1], inside)
            kept, largest = kept + cut, max(largest, inside - cut)
        if kept + largest < least:
            least, best = kept + largest, edges
    return best


def _limits(sizes):
    """Return sizes that a largest segment may have, some where there are many."""
    smallest, whole = max(sizes), sum(sizes)
    if len(sizes) > 300:
        ratio = max(1, whole) / max(1, smallest)
        each = [smallest * ratio ** (step / (LIMITS - 1)) for step in range(LIMITS)]
        return [limit * (1 + 1e-9) for limit in each]
    runs = [itertools.accumulate(sizes[first:]) for first in range(len(sizes))]
    found = sorted({size for run in runs for size in run if size >= smallest})
    if len(found) <= LIMITS:
        return found
    return [found[step * (len(found) - 1) // (LIMITS - 1)] for step in range(LIMITS)]


def _fewest_kept(sizes, crossing, limit):
    """Return where segments of at most `limit` values begin that keep least."""
    cheapest, before = [0.0], [0]
    for after in range(1, len(sizes) + 1):
        inside, choice = 0, (math.inf, 0)
        for first in range(after - 1, -1, -1):
            inside += sizes[first]
            if inside > limit:
                break
            cut = min(crossing[after - 1], inside)
            choice = min(choice, (cheapest[first] + cut, first))
        cheapest.append(choice[0])
        before.append(choice[1])
    edges = [len(sizes)]
    while edges[-1]:
        edges.append(before[edges[-1]])
    return edges[::-1]


def check_layers(layers) -> None:
    """Raise ValueError unless this is a list of LayerCost that holds some."""
    if (
        not isinstance(layers, (list, tuple))
        or not layers
        or {type(layer) for layer in layers} != {LayerCost}
    ):
        raise ValueError(
            f"layers={layers!r}: must be a non-empty list of LayerCost (see "
            "layer_costs)"
        )


def measured_activations(
    model, batch_size: int, input_shape: tuple | list | None = None
) -> int:
    """Return the bytes that TensorFlow keeps of a forward pass for its backward pass.

    They are read off the graph of both. Counted is each tensor of floating point that
    the backward pass takes from the forward pass, once; not the inputs, and not the
    weights themselves (their copies in 16 bits are, in mixed precision).

    Args:
        model, input_shape: as in `layer_costs`.
        batch_size: examples.

    Raises:
        RuntimeError: on another backend, whose graphs hold no such list.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "activations are measured on TensorFlow, and Keras runs on "
            f"{keras.backend.backend()}"
        )
    import tensorflow as tf

    batch_size = whole_number("batch_size", batch_size, 1)
    examples = keras.tree.map_structure(
        lambda zeros: tf.TensorSpec((batch_size, *zeros.shape[1:]), zeros.dtype),
        _examples(model, input_shape),
    )

    @tf.function(autograph=False)
    def step(inputs):
        outputs = [
            tf.cast(value, "float32")
            for value in keras.tree.flatten(model(inputs, training=True))
        ]
        return tf.gradients(
            sum(map(tf.reduce_sum, outputs)),
            [weight.value for weight in model.trainable_weights],
        )

    return held_bytes(step.get_concrete_function(examples).graph)


def held_bytes(graph) -> int:
    """Return the bytes of the tensors that the operations of `tf.gradients` in this
    graph take from the rest of it.
    """

    def made_by(value):
        while value.op.type in ("IdentityN", "Identity", "Reshape"):
            value = value.op.inputs[
                value.value_index if value.op.type == "IdentityN" else 0
            ]
        return value

    operations = graph.get_operations()
    late = {
        operation.name for operation in operations if operation.name.startswith("grad")
    }
    layer_inputs = [
        made_by(value)
        for operation in operations
        if operation.name in late
        for value in operation.inputs
        if value.op.name not in late
    ]
    kept = {
        value.name: value.dtype.size * (value.shape.num_elements() or 0)
        for value in layer_inputs
        if value.dtype.is_floating
        and value.op.type not in ("ReadVariableOp", "Placeholder", "Const")
    }
    return sum(kept.values())
