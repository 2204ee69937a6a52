"""What each layer of a Keras model costs: weights, saved activations, FLOPs; counted,
and activations measured too.
"""

import contextlib
import functools
import inspect
import itertools
import math
import typing
from dataclasses import dataclass, replace

from course_planner.products import einsum_flops, products
from course_utils.arguments import one_of, whole_number
from course_utils.language import counted, translated as _

TENSOR_PARALLEL_SPLITS = ("kernel", "attention", "elementwise", "whole", "view")
ELEMENTWISE = ("BatchNormalization", "PReLU")
# they need all features, or have no use of a part
WHOLE = (
    "LayerNormalization",
    "GroupNormalization",
    "RMSNormalization",
    "Embedding",
    "ReversibleEmbedding",
    "Normalization",
    "UnitNormalization",
    "SpectralNormalization",
)
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


# What a backward pass takes again, by class of layer or operation. First those that
# take nothing of what they were given, and nothing of what they gave.
READ_NOTHING = (
    *("Add", "Subtract", "Average", "Concatenate", "Negative", "Mean", "Sum", "Cast"),
    *("AveragePooling1D", "AveragePooling2D", "AveragePooling3D"),
    *("GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D"),
    *("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D", "Pad"),
    *("Cropping1D", "Cropping2D", "Cropping3D"),
    *("UpSampling1D", "UpSampling2D", "UpSampling3D"),
    *("Embedding", "Rescaling", "Normalization", "Identity", "RepeatVector"),
    *("Permute", "Transpose", "GetItem", "Split", "Stack", "Squeeze", "ExpandDims"),
)
DROPOUTS = ("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D")
# activations whose derivative can be told from what they gave
READ_OUTPUTS = (
    *("relu", "relu6", "leakyrelu", "leaky_relu", "elu", "selu"),
    *("sigmoid", "tanh", "softmax", "exp", "exponential"),
)
# values for each unit and time step: gates, states, and what is made of them
KEPT_A_STEP = {"LSTM": 7, "GRU": 6, "SimpleRNN": 1}


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
        kept: saved activations, the values that the backward pass needs again, each
            counted where it was made; by default the outputs, of a view none.
        inputs: the indices of the layers whose outputs it takes; None: the one before.
        guess: whether the FLOPs are a guess, because what it computes is not known.
        frozen: weights that are not trained, scalars.
        units: what tensor parallel cuts, as units, filters or heads; None: outputs.
        recomputed: values that are there for a moment, while the backward pass computes
            its segment again (see `checkpointed`).
        segment: which one that is; None where nothing is computed again.
        passes: how many times the forward FLOPs a step takes: 3 with the backward pass,
            2 where only the gradient of the inputs is needed (a frozen layer), 1 before
            the first trained layer; one more where it is computed again.
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
    segment: int | None = None
    passes: int = 3

    def __post_init__(self):
        one_of(
            _("kind of layer {name!r}", name=self.name),
            self.kind,
            TENSOR_PARALLEL_SPLITS,
        )
        if self.kept is None:
            object.__setattr__(self, "kept", 0 if self.kind == "view" else self.outputs)
        for field in (
            "parameters",
            "outputs",
            "flops",
            "kept",
            "frozen",
            "recomputed",
            "passes",
        ):
            value = whole_number(
                _("{field} of layer {name!r}", field=field, name=self.name),
                getattr(self, field),
            )
            # NumPy integers become Python's, which never overflow
            object.__setattr__(self, field, value)


def layer_costs(model, input_shape: tuple | list | None = None) -> list[LayerCost]:
    """Return the layers of any Keras model, in the order in which they compute.

    Parameters are trainable scalars, each counted once. FLOPs are 2 for each
    multiply-add of the forward pass, without biases and activation functions;
    attention's two products with the sequence lengths; 0 for embeddings, normalization
    and layers without weights. Of a layer of the reader's own they are the products in
    the graph of a call; where that hides them, 2 for each weight: a guess, and marked.

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
            _(
                "model={model!r}: must be a built Keras model (give it an "
                "Input, or call it once)",
                model=model,
            )
        )
    with _states_put_back(model):
        calls = _trace_calls(model, _examples(model, input_shape))
        calls = _with_work(calls)
    seen, costs, producer_of = set(), [], {}
    for call, (flops, kind, guess) in calls:
        layer = call.layer
        own = [one for one in _weights(layer) if id(one) not in seen]
        frozen = getattr(layer, "non_trainable_weights", [])
        frozen = [one for one in frozen if id(one) not in seen]
        seen |= {id(weight) for weight in [*own, *frozen]}
        # what a layer within has put out is there once
        new = call.own_outputs
        costs.append(
            LayerCost(
                layer.name,
                _scalars(own),
                sum(math.prod(value.shape[1:]) for value in new),
                flops,
                kind,
                inputs=_producers(call.all_inputs, producer_of, len(costs)),
                guess=guess,
                frozen=_scalars(frozen),
                units=_units(layer),
            )
        )
        producer_of |= {id(value): len(costs) - 1 for value in new}
    every = [call for call, _ in calls]
    trained = _are_trained(every, costs)
    kept, passes = _kept(every, costs, trained), _passes(every, trained)
    costs = [
        replace(cost, kept=own, passes=often)
        for cost, own, often in zip(costs, kept, passes, strict=True)
    ]
    if not costs:
        raise ValueError(_("model={name!r}: has no layers", name=model.name))
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


def _producers(layer_inputs, producer_of, count):
    """Return the indices of the layers whose outputs these are; None: just the one
    before.

    count: of the layers before this one.
    """
    made = {
        producer_of[id(value)] for value in layer_inputs if id(value) in producer_of
    }
    known = all(id(value) in producer_of for value in layer_inputs) or not count
    before = {count - 1} if count else set()
    return None if known and made == before else tuple(sorted(made))


def _are_trained(calls, costs):
    """Return, for each layer, whether it or one before it has trained weights: before
    the first one there is no backward pass.
    """
    trained = []
    for index, call in enumerate(calls):
        # where it is not known what a layer takes, it may be of any earlier one
        sources = sources_of(costs, index) or range(index)
        before = any(trained[source] for source in sources)
        trained.append(bool(_weights(call.layer)) or before)
    return trained


def _passes(calls, trained):
    """Return how many times its forward FLOPs each layer takes in a step."""
    found = []
    for call, is_trained in zip(calls, trained, strict=True):
        frozen = not _weights(call.layer) and getattr(call.layer, "weights", [])
        found.append(1 if not is_trained else 2 if frozen else 3)
    return found


def _kept(calls, costs, trained):
    """Return how many values of each layer the backward pass takes again.

    An output is kept if its layer's own backward pass reads it, or that of a layer that
    takes it; a view's is the memory of what it views. What the model puts out is read
    by the loss.
    """
    every = [sources_of(costs, index) for index in range(len(costs))]
    taken = {source for sources in every for source in sources}
    reads = set(range(len(costs))) - taken
    inside = []
    for index, call in enumerate(calls):
        reads_inputs, reads_outputs, more = _reads(
            call.layer, call.inputs, call.outputs
        )
        if costs[index].kind == "kernel" and not _weights(call.layer):
            reads_inputs = False  # a frozen kernel's input: its gradient needs it alone
        if not trained[index]:
            reads_inputs = reads_outputs = False
            more = 0
        inside.append(more)
        if reads_outputs:
            reads.add(index)
        if reads_inputs:
            reads.update(every[index])
    for index in reversed(range(len(costs))):
        if costs[index].kind == "view" and index in reads:
            reads.update(every[index])
    return [
        more + cost.outputs * (index in reads and cost.kind != "view")
        for index, (cost, more) in enumerate(zip(costs, inside, strict=True))
    ]


def sources_of(layers: list[LayerCost], index: int) -> tuple[int, ...]:
    """Return the indices of the layers whose outputs this layer takes."""
    inputs = layers[index].inputs
    return inputs if inputs is not None else (index - 1,) if index else ()


def _reads(layer, layer_inputs, layer_outputs):
    """Return whether a layer's backward pass reads its inputs, whether its outputs, and
    how many values beside them.
    """
    name = _kind_of(layer)
    outputs = sum(math.prod(value.shape[1:]) for value in layer_outputs)
    if name == "TimeDistributed":
        return _reads(layer.layer, layer_inputs, layer_outputs)
    if name in READ_NOTHING or name in VIEWS:
        return False, False, 0
    if name in DROPOUTS:  # the mask
        return False, False, outputs
    if name in ATTENTION:
        return True, False, _inside_attention(layer, layer_inputs)
    if name in RECURRENT:
        return False, False, _inside_recurrence(layer, layer_inputs, layer_outputs)
    if name.lower() in READ_OUTPUTS:
        return False, True, 0
    activation = getattr(getattr(layer, "activation", None), "__name__", "linear")
    of_outputs, is_linear = activation in READ_OUTPUTS, activation == "linear"
    if name == "Activation":
        return not (is_linear or of_outputs), of_outputs, 0
    more = 0
    if name.startswith("SeparableConv"):  # what the first of its two kernels gave
        first = math.prod(layer.depthwise_kernel.shape[-2:])
        more = first * math.prod(layer_outputs[0].shape[1:-1])
    if not is_linear:  # it reads what it gave, or what came before it
        return True, of_outputs, more + outputs * (not of_outputs)
    pools = name.startswith(("MaxPooling", "GlobalMaxPooling"))
    unknown = not getattr(layer, "weights", []) and name not in ("Multiply", "Matmul")
    return True, pools or unknown, more


def _inside_attention(layer, layer_inputs):
    """Return how many values attention keeps: queries, keys and values, the weights of
    each pair of positions before and after the softmax, and what they add up to.
    """
    queries, values, heads, key_size, value_size, key_heads = _sizes(
        layer, layer_inputs
    )
    projected = heads * queries * (key_size + value_size)
    projected += key_heads * values * (key_size + value_size)
    return projected + 2 * heads * queries * values


def _inside_recurrence(layer, layer_inputs, layer_outputs):
    """Return how many values a recurrent layer keeps of all its time steps; of cells
    that are not Keras' own, as many as an LSTM's.
    """
    steps = layer_inputs[0].shape[1]
    inputs = math.prod(layer_inputs[0].shape[1:])
    if _kind_of(layer).startswith("Conv"):
        first = 2 if layer.return_sequences else 1
        state = math.prod(layer_outputs[0].shape[first:])
        return inputs + steps * state * KEPT_A_STEP["LSTM"]
    cell = getattr(layer, "cell", None)
    values = 0
    for one in getattr(cell, "cells", [cell]):
        kind = _kind_of(one).removesuffix("Cell")
        units = getattr(one, "units", layer_outputs[0].shape[-1])
        values += units * KEPT_A_STEP.get(kind, KEPT_A_STEP["LSTM"])
    return inputs + steps * values


def _scalars(weights):
    return sum(math.prod(weight.shape) for weight in weights)


def _units(layer):
    """Return what tensor parallel cuts of a layer; None where it is not known."""
    if _kind_of(layer) in ATTENTION:
        heads = (_dense(layer, part).kernel.shape[-2] for part in ("query", "value"))
        return math.gcd(*heads)  # with fewer heads of keys and values
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
                _(
                    "model={name!r}: call it once, so that its inputs are known",
                    name=model.name,
                )
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
            _(
                "input_shape={input_shape!r}: must name every size of model "
                "{name!r}'s {inputs}, which are {open_shapes}; such as (224, "
                "224, 3)",
                input_shape=input_shape,
                name=model.name,
                inputs=counted(len(leaves), "input", "inputs"),
                open_shapes=open_shapes,
            )
        )
    zeros = []
    for leaf, shape in zip(leaves, shapes, strict=True):
        if "string" in str(leaf.dtype):
            raise ValueError(
                _(
                    "model={name!r}: input {input!r} holds strings: give the "
                    "part of the model behind them, and look words up in the "
                    "dataset",
                    name=model.name,
                    input=leaf.name,
                )
            )
        # a stateful model has a batch size of its own
        zeros.append(np.zeros((leaf.shape[0] or 1, *shape), leaf.dtype))
    return keras.tree.pack_sequence_as(inputs, zeros)


@dataclass
class _Call:
    """One call of a layer, as a call of the model showed it.

    inside: the calls of other layers that it made.
    arguments: (positional, named), as given.
    """

    layer: typing.Any
    arguments: tuple
    outputs: list
    inside: list

    @functools.cached_property
    def inputs(self):
        """Return the tensors given, queries before values before masks."""
        positional, named = self.arguments
        if _kind_of(self.layer) in ATTENTION:
            call = inspect.signature(self.layer.call)
            known = {key: named[key] for key in named if key in call.parameters}
            given = list(call.bind(*positional, **known).arguments.values())
        else:
            given = self.arguments
        return _tensors(given)

    @functools.cached_property
    def own_weights(self):
        """Return the trained weights that no layer within this one has."""
        inner = {id(weight) for one in self.inside for weight in _weights(one.layer)}
        return [one for one in _weights(self.layer) if id(one) not in inner]

    @functools.cached_property
    def own_outputs(self):
        """Return the outputs that no layer within this one has given."""
        inner = {id(value) for one in self.inside for value in one.outputs}
        return [value for value in self.outputs if id(value) not in inner]

    @property
    def all_inputs(self):
        """Return its inputs, and what layers within it gave that none of them takes."""
        taken = {id(value) for one in self.inside for value in one.inputs}
        given = [value for one in self.inside for value in one.outputs]
        return self.inputs + [value for value in given if id(value) not in taken]

    @property
    def examples(self):
        """Return how many examples were given: one, or a stateful model's batch."""
        return self.inputs[0].shape[0] if self.inputs and self.inputs[0].shape else 1


def _tensors(structure):
    import keras

    # flattening sorts what is in a dict by name: so a list comes in its order
    parts = structure if isinstance(structure, list) else [structure]
    leaves = [leaf for part in parts for leaf in keras.tree.flatten(part)]
    return [leaf for leaf in leaves if hasattr(leaf, "shape")]


def _trace_calls(model, example):
    """Return a `_Call` of each layer that computes, as one call of the model shows
    them.
    """
    import keras

    calls, stack = [], []

    def watched(call, layer, *args, **named):
        if layer is model or (stack and stack[-1] is layer):
            return call(layer, *args, **named)
        # counted as one
        if stack and _kind_of(stack[-1]) in (*ATTENTION, *RECURRENT):
            return call(layer, *args, **named)
        stack.append(layer)
        before = len(calls)
        try:
            outputs = call(layer, *args, **named)
        finally:
            stack.pop()
        made = _Call(layer, (args, named), _tensors(outputs), calls[before:])
        if not made.inside or made.own_weights or _is_own(layer):
            calls.append(made)
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
                _(
                    "model={name!r}: must take its inputs as one argument ({problem})",
                    name=model.name,
                    problem=problem,
                )
            ) from problem
    if _is_own(model):
        calls.append(_Call(model, ((example,), {}), [], list(calls)))
    return [one for one in calls if type(one.layer).__name__ != "InputLayer"]


def _is_own(layer):
    """Return whether a layer's `call` is the reader's own."""
    computes = type(layer).call if hasattr(type(layer), "call") else None
    module = getattr(computes, "__module__", "keras.")
    return not module.startswith("keras.")


def _kind_of(layer):
    """Return the name of a layer's class; of one that only renames a class of Keras,
    that class's; and of attention also where the call is the reader's.
    """
    names = [
        base.__name__ for base in type(layer).__mro__ if base.__module__[:6] == "keras."
    ]
    if _is_own(layer):
        attention = [name for name in names if name in ATTENTION]
        return attention[0] if attention else type(layer).__name__
    return names[0] if names else type(layer).__name__


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


@contextlib.contextmanager
def _states_put_back(model):
    """Put back what a call may change: states, seeds, statistics."""
    import keras

    before = [
        (variable, keras.ops.copy(variable))
        for variable in model.non_trainable_variables
        if "string" not in str(variable.dtype)
    ]
    try:
        yield
    finally:
        for variable, value in before:
            variable.assign(value)


def _with_work(calls):
    """Return [(call, (FLOPs, kind, whether they are a guess)), …], without the layers
    around others that compute nothing themselves.
    """
    work, kept = {}, []
    for call in calls:
        if _is_own(call.layer):
            inside = sum(work[id(one)][0] for one in call.inside if id(one) in work)
            found = _own_work(call, inside)
        else:
            found = _work(call.layer, call.inputs, call.outputs)
        work[id(call)] = found
        if found[0] or found[2] or call.own_weights or call.own_outputs:
            kept.append((call, found))
    return kept


def _own_work(call, inside):
    """Return the work of a layer of the reader's own, besides its layers' `inside`.

    Its products are read off the graph of a call; where that cannot be read, 2 for each
    weight are guessed.
    """
    import keras

    own = call.own_weights
    leaves = keras.tree.flatten(call.arguments)
    at = [index for index, leaf in enumerate(leaves) if hasattr(leaf, "shape")]

    def computed(*tensors):
        given = list(leaves)
        for index, tensor in zip(at, tensors, strict=True):
            given[index] = tensor
        positional, named = keras.tree.pack_sequence_as(call.arguments, given)
        return _tensors(call.layer(*positional, **named))

    attention = _kind_of(call.layer) in ATTENTION
    kind = "attention" if attention else "whole" if own else "elementwise"
    try:
        found = products(computed, *(leaves[index] for index in at))
    except Exception:  # the reader's code, which may do what no graph can hold
        found = None
    if found is None or found.unread:
        if attention:
            return _attention(call.layer, call.inputs), kind, True
        return 2 * _scalars(own), kind, bool(own or not call.inside)
    return max(0, found.flops // call.examples - inside), kind, False


def _work(layer, layer_inputs, layer_outputs):
    """Return (FLOPs, kind, whether they are a guess) of one call of a layer."""
    name = _kind_of(layer)
    bases = {base.__name__ for base in type(layer).__mro__}
    outputs = math.prod(layer_outputs[0].shape[1:])
    if name in ("Matmul", "Dot", "Einsum"):
        return _product(layer, layer_inputs, outputs)
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
        return flops, "whole", False
    if name in RECURRENT:
        return _recurrence(layer, layer_inputs, layer_outputs)
    if name == "ReversibleEmbedding" and len(layer_inputs[0].shape) == 3:
        # back from vectors to words: a product with all of them
        return 2 * outputs * layer_inputs[0].shape[-1], "whole", False
    flops = _kernel_flops(layer, bases, layer_inputs, outputs)
    if flops is not None:
        # a depthwise kernel leaves each channel to itself
        apart = "BaseDepthwiseConv" in bases
        return flops, "elementwise" if apart else "kernel", False
    if not _weights(layer) or name in (*ELEMENTWISE, *WHOLE):
        kind = "view" if name in VIEWS else "whole" if name in WHOLE else "elementwise"
        return 0, kind, False
    return 2 * sum(math.prod(weight.shape) for weight in _weights(layer)), "whole", True


def _product(layer, layer_inputs, outputs):
    """Return the work of an operation that multiplies tensors."""
    shapes = [tuple(value.shape) for value in layer_inputs]
    if len(shapes) != 2:
        return 0, "whole", len(shapes) > 2
    if type(layer).__name__ == "Einsum":
        flops = einsum_flops(layer.subscripts, shapes) // (shapes[0][0] or 1)
        return flops, "whole", False
    return 2 * outputs * shapes[0][-1], "whole", False


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
    if _kind_of(layer) == "Dense":
        return 2 * math.prod(layer.kernel.shape) * outputs // layer.units
    if _kind_of(layer) == "EinsumDense":
        letters, kernel = layer.equation.split("->")[0].replace(".", "").split(",")
        named = zip(kernel, layer.kernel.shape, strict=True)
        shared = math.prod(size for letter, size in named if letter in letters)
        return 2 * inputs * math.prod(layer.kernel.shape) // shared
    return None


def _recurrence(layer, layer_inputs, layer_outputs):
    """Return the work of all time steps; each multiplies by all kernels. Of a cell of
    the reader's own, 2 for each weight are guessed.
    """
    guess = _is_own(getattr(layer, "cell", layer))
    kernels = [
        math.prod(weight.shape)
        for weight in layer.weights
        if guess or "kernel" in weight.path.split("/")[-1]
    ]
    steps, positions = layer_inputs[0].shape[1], 1
    if _kind_of(layer).startswith("Conv"):
        first = 2 if layer.return_sequences else 1
        positions = math.prod(layer_outputs[0].shape[first:-1])
    return 2 * sum(kernels) * steps * positions, "whole", guess


def _attention(layer, layer_inputs):
    """Return the FLOPs of four projections, and of attention's two products."""
    queries, values, heads, key_size, value_size, _ = _sizes(layer, layer_inputs)
    flops = 0
    for part, positions in (
        (_dense(layer, "query"), queries),
        (_dense(layer, "key"), values),
        (_dense(layer, "value"), values),
        (_dense(layer, "output"), queries),
    ):
        flops += 2 * math.prod(part.kernel.shape) * positions
    return flops + 2 * queries * values * heads * (key_size + value_size)


def _dense(layer, part):
    """Return attention's projection; the two classes of Keras name it differently."""
    for name in f"{part}_dense", f"_{part}_dense":
        if hasattr(layer, name):
            return getattr(layer, name)
    raise AttributeError(
        _("{name}: has no projection of {part}", name=layer.name, part=part)
    )


def _sizes(layer, layer_inputs):
    """Return (query positions, value positions, heads, size of a key, size of a value,
    heads of keys and values).
    """
    # masks, too, are inputs: values have as many dimensions as queries, and come second
    queries = math.prod(layer_inputs[0].shape[1:-1])
    values = math.prod(layer_inputs[min(1, len(layer_inputs) - 1)].shape[1:-1])
    heads, key_size = _dense(layer, "query").kernel.shape[-2:]
    key_heads, value_size = _dense(layer, "value").kernel.shape[-2:]
    return queries, values, heads, key_size, value_size, key_heads


def held_over_step(layers: list[LayerCost]) -> list[int]:
    """Return the values that are held of an example as a step goes on: after each layer
    forward, then, backward, while each layer's pass is made.

    A segment of `checkpointed` layers is computed again before its backward pass; its
    values are there until they have been used. `memory` plans with no less than the
    largest number: it lets nothing go before the largest segment's turn.
    """
    held, over_time = 0, []
    for layer in layers:
        held += layer.kept or 0
        over_time.append(held)
    runs = itertools.groupby(reversed(layers), key=lambda layer: layer.segment)
    for _segment, run in runs:
        run = list(run)
        again = run[0].segment is not None
        if again:
            held += sum(layer.recomputed - (layer.kept or 0) for layer in run)
        for layer in run:
            over_time.append(held)
            held -= layer.recomputed if again else layer.kept or 0
    return [*over_time, held]


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
    last_uses = _last_uses(layers)
    if segments is None:
        edges = _edges_of_least_peak(layers, last_uses)
    else:
        count = len(layers)
        segments = whole_number(
            "segments", segments, 1, count, _("the number of layers")
        )
        each, more = divmod(count, segments)
        edges = [0]
        for index in range(segments):
            edges.append(edges[-1] + each + (index < more))
    saving = []
    for segment, (first, after) in enumerate(itertools.pairwise(edges)):
        run = layers[first:after]
        crossing = sum(
            layer.outputs
            for index, layer in enumerate(run, first)
            if last_uses[index] >= after
        )
        kept = min(crossing, sum(layer.kept or 0 for layer in run))  # a view: nothing
        for index, layer in enumerate(run, first):
            saving.append(
                replace(
                    layer,
                    kept=kept if index == after - 1 else 0,
                    recomputed=layer.kept or 0,
                    segment=segment,
                    passes=layer.passes + 1,
                )
            )
    return saving


def _last_uses(layers):
    """Return, for each layer, the index of the last layer that takes its outputs; of
    those that none takes, the number of layers.
    """
    last_uses = [len(layers)] * len(layers)
    for index in range(len(layers)):
        for source in sources_of(layers, index):
            last_uses[source] = index
    return last_uses


LIMITS = 48
"""How many sizes of the largest segment are tried, of those that there are."""


def _edges_of_least_peak(layers, last_uses):
    """Return where segments begin, so that what is kept and the largest one together
    are least.

    For a largest segment of a given size, the cuts that keep least are found by dynamic
    programming.
    """
    sizes = [layer.kept or 0 for layer in layers]
    outputs = [layer.outputs for layer in layers]
    best, least = [0, len(layers)], math.inf
    for limit in _limits(sizes):
        edges = _fewest_kept(sizes, outputs, last_uses, limit)
        kept = largest = 0
        for first, after in itertools.pairwise(edges):
            inside = sum(sizes[first:after])
            run = range(first, after)
            crossing = sum(outputs[one] for one in run if last_uses[one] >= after)
            cut = min(crossing, inside)
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


def _fewest_kept(sizes, outputs, last_uses, limit):
    """Return where segments of at most `limit` values begin that keep least."""
    cheapest, before = [0.0], [0]
    for after in range(1, len(sizes) + 1):
        inside, crossing, choice = 0, 0, (math.inf, 0)
        for first in range(after - 1, -1, -1):
            inside += sizes[first]
            if inside > limit:
                break
            crossing += outputs[first] * (last_uses[first] >= after)
            cut = min(crossing, inside)
            choice = min(choice, (cheapest[first] + cut, first))
        cheapest.append(choice[0])
        before.append(choice[1])
    edges = [len(sizes)]
    while edges[-1]:
        edges.append(before[edges[-1]])
    return edges[::-1]


def check_layers(layers) -> None:
    """Raise ValueError unless this is a list of LayerCost that holds some, each of
    which takes the outputs of earlier ones.
    """
    if (
        not isinstance(layers, (list, tuple))
        or not layers
        or {type(layer) for layer in layers} != {LayerCost}
    ):
        raise ValueError(
            _(
                "layers={layers!r}: must be a non-empty list of LayerCost (see "
                "layer_costs)",
                layers=layers,
            )
        )
    for index, layer in enumerate(layers):
        for source in layer.inputs or ():
            if not 0 <= source < index:
                raise ValueError(
                    _(
                        "layers: inputs={inputs!r} of layer {name!r}: must be "
                        "indices of the {index} layers before it",
                        inputs=layer.inputs,
                        name=layer.name,
                        index=index,
                    )
                )


def measured_activations(
    model, batch_size: int, input_shape: tuple | list | None = None
) -> int:
    """Return the bytes that TensorFlow keeps of a forward pass for its backward pass.

    They are read off the graph of both, for which recurrent layers are unrolled: a loop
    would hide what it keeps. Counted is each tensor of floating point that
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
            _(
                "activations are measured on TensorFlow, and Keras runs on {backend}",
                backend=keras.backend.backend(),
            )
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

    with contextlib.ExitStack() as unrolled:
        for layer in model._flatten_layers():
            if getattr(layer, "unroll", True) is False:
                unrolled.enter_context(_replaced(layer, "unroll", True))
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
