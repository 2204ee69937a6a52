"""The multiplications of a call that no formula knows: read off TensorFlow's graph of
it, or JAX's.
"""

import math
from dataclasses import dataclass, field


@dataclass
class Products:
    """What was found in a graph.

    Attributes:
        flops: 2 for each multiply-add of matrix products and convolutions.
        unread: operations that hide others, or how often they run.
    """

    flops: int = 0
    unread: list[str] = field(default_factory=list)


def products(function, *examples) -> Products | None:
    """Return the products of one call, or None on a backend whose graphs cannot be
    read.

    function: takes the examples and nothing else. examples: tensors, or structures of
    them.
    """
    import keras

    found = Products()
    if keras.backend.backend() == "jax":
        import jax

        # A graph without values: a layer may otherwise keep a tracer in a variable.
        with keras.StatelessScope():
            _read_jaxpr(jax.make_jaxpr(function)(*examples).jaxpr, 1, found)
        return found
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.function(autograph=False)
        def call(*arguments):
            return function(*arguments)

        graph = call.get_concrete_function(*examples).graph
        for operation in graph.get_operations():
            _read_operation(operation, found)
        return found
    return None


def _read_jaxpr(jaxpr, times, found):
    """Add the products of JAX's intermediate representation, `times` each."""
    for equation in jaxpr.eqns:
        name, settings = equation.primitive.name, equation.params
        shapes = [value.aval.shape for value in equation.invars[:2]]
        outputs = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
        if name == "dot_general":
            (contracted, _), _ = settings["dimension_numbers"]
            size = math.prod(shapes[0][axis] for axis in contracted)
            found.flops += times * 2 * outputs * size
        elif name == "conv_general_dilated":
            dimension = settings["dimension_numbers"].rhs_spec[0]
            size = math.prod(shapes[1]) // shapes[1][dimension]
            found.flops += times * 2 * outputs * size
        elif name == "while":
            found.unread.append(name)
        more = times * settings.get("length", 1) if name == "scan" else times
        for setting in settings.values():
            for inner in setting if isinstance(setting, (list, tuple)) else [setting]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    _read_jaxpr(inner, more, found)


def _read_operation(operation, found):
    """Add the products of one operation of TensorFlow's graph."""
    kind = operation.type
    if "While" in kind or "PartitionedCall" in kind or kind in ("If", "Case"):
        found.unread.append(kind)
        return
    shapes = [tuple(value.shape) for value in operation.inputs[:2]]
    if kind in ("MatMul", "BatchMatMulV2", "BatchMatMulV3"):
        name = "transpose_a" if kind == "MatMul" else "adj_x"
        size = shapes[0][-2 if operation.get_attr(name) else -1]
    elif kind == "Einsum" and len(operation.inputs) == 2:
        found.flops += einsum_flops(operation.get_attr("equation").decode(), shapes)
        return
    elif kind in ("Conv2D", "Conv3D"):
        size = math.prod(shapes[1][:-1])
    elif kind == "DepthwiseConv2dNative":
        size = math.prod(shapes[1][:2])
    else:
        return
    found.flops += 2 * math.prod(operation.outputs[0].shape) * size


def einsum_flops(equation, shapes):
    """Return the FLOPs of a product of two: 2 for each combination of its letters."""
    sizes, whole = {}, 1
    terms = equation.split("->")[0].split(",")
    for term, shape in zip(terms, shapes, strict=True):
        letters = term.replace("...", "")
        at = term.find("...")
        if at >= 0:  # of both operands the larger one, as they are broadcast
            count = len(shape) - len(letters)
            whole = max(whole, math.prod(shape[at : at + count]))
            shape = shape[:at] + shape[at + count :]
        sizes |= dict(zip(letters, shape, strict=True))
    return 2 * whole * math.prod(sizes.values())
