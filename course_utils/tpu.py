"""Finding a TPU, learning why there is none, the device for which XLA compiles, and a
drawing of notebook 04.
"""

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from course_utils import devices
from course_utils.arguments import whole_number
from course_utils.plots.style import (
    COLOURS,
    Figure,
    arrow,
    box,
    canvas,
    colour,
    label,
    styled,
)
from course_utils.words import counted


class Accelerator(NamedTuple):
    """What was found.

    Attributes:
        strategy: a TensorFlow strategy, or None.
        num_replicas: how many replicas it has.
        what: what it really is, such as "8 logical CPUs".
    """

    strategy: Any
    num_replicas: int
    what: str


NO_TPU_HERE = "No OpKernel was registered|tpu_node_interfaces.*platform"
"""TensorFlow without TPU kernels says the first, tensorflow-tpu on a machine without a
TPU the second.
"""
FAULTS = {
    "provide a TPU Name": (
        "no TPU was named: say tpu=…, 'local' where the TPU is in this machine"
    ),
    "already in use": (
        "another process holds the TPU: end it (on Colab: Runtime, Manage sessions), "
        "then restart"
    ),
    "libtpu.*(version|undefined symbol|not available in|has no attribute)": (
        "libtpu, the TPU's library, is of another version than TensorFlow: "
        f"{devices.INSTALL_FOR_TPU}"
    ),
    "libtpu": f"libtpu, the TPU's library, is missing: {devices.INSTALL_FOR_TPU}",
    "Name or service not known|Could not lookup|urlopen|UNAVAILABLE|DEADLINE": (
        "no TPU of this name answers: check the name, the zone and the network"
    ),
}
"""What to say of errors with these words."""


def with_stand_in(connect: Callable, replicas: int = 8) -> Accelerator:
    """Connect a TPU, if there is one, and return it; else logical CPUs instead.

    Call it first: a TPU loses what was made before it is initialised, and TensorFlow's
    devices are fixed then. It prints one line: what was found, or why there is no TPU
    and what to do about it. Where TensorFlow is not installed, or would abort with the
    libtpu that is, the strategy is None.

    Args:
        connect: what connects and initialises the TPU, and returns its TPUStrategy.
        replicas: how many logical CPUs stand in for a TPU; a TPU has as many as it has.

    Raises:
        ValueError: for replicas that make no sense.
        RuntimeError: when it comes too late.
    """
    replicas = whole_number("replicas", replicas, 1)
    if not devices.installed("tensorflow"):
        print(
            f"TensorFlow is not installed: {devices.INSTALL_FOR_TPU}; JAX works "
            "without it"
        )
        return Accelerator(None, 0, "nothing: TensorFlow is not installed")
    problem = devices.unfit_libtpu()
    if problem:
        print(problem)
        return Accelerator(None, 0, "nothing: TensorFlow cannot be loaded")
    import tensorflow as tf

    # Now: an attempt that fails fixes the devices.
    physical = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration()] * replicas
    devices.split(physical, replicas, parts)
    try:
        strategy = connect()
    except Exception as problem:  # each way of having no TPU has its own type of error
        print(f"{replicas} logical CPUs in place of a TPU: {_sentence(problem)}")
        names = [f"CPU:{i}" for i in range(replicas)]
        simple = tf.distribute.ReductionToOneDevice()
        strategy = tf.distribute.MirroredStrategy(names, simple)
        return Accelerator(strategy, replicas, f"{replicas} logical CPUs")
    count = strategy.num_replicas_in_sync
    print(f"a TPU with {counted(count, 'core')}")
    return Accelerator(strategy, count, counted(count, "TPU core"))


def _sentence(problem):
    """Return why there is no TPU, and what would help, in one sentence."""
    text = f"{type(problem).__name__}: {problem}"
    if re.search(NO_TPU_HERE, text):
        if "No OpKernel" in text and devices.tpu_in_machine():
            return f"this TensorFlow has no TPU kernels: {devices.INSTALL_FOR_TPU}"
        return "there is none in this machine"
    for words, remedy in FAULTS.items():
        if re.search(words, text):
            return remedy
    return f"connecting failed ({text.splitlines()[0][:200]})"


@functools.cache
def xla_device() -> tuple[str, bool]:
    """Return where to try XLA, and whether it compiles there: ("TPU:0", True) if there
    is a TPU, else ("CPU:0", True).

    tensorflow-tpu compiles for TPUs only. Where it finds none this is ("CPU:0", False),
    and a line, once, says so.
    """
    import tensorflow as tf

    if tf.config.list_logical_devices("TPU"):
        return "TPU:0", True
    try:
        with tf.device("CPU:0"):
            tf.function(lambda x: x + 1, jit_compile=True)(tf.constant(1.0))
    # "could not find registered transfer manager for platform Host"
    except tf.errors.NotFoundError:
        print(
            "This TensorFlow compiles for TPUs only, and finds none: what follows "
            "runs without the compiler."
        )
        return "CPU:0", False
    return "CPU:0", True


@styled()
def inside_a_tpu(title: str, travels: str, inside: dict) -> Figure:
    """Draw a host and a TPU chip: what the host sends, and what is on the chip. inside:
    `{part: (text, what)}`, three parts.

    The last part is drawn as the grid that gives the matrix unit its name.
    """
    from matplotlib.patches import Rectangle

    figure, axes = canvas(title, 3.3)
    box(axes, 0.1, 0.3, 2.1, 2.4, dashed=True)
    label(axes, 1.15, 2.45, "host", weight="bold")
    for k, (text, what) in enumerate(
        (("Python, TensorFlow", "waiting"), ("tf.data: batches", "inputs"))
    ):
        box(axes, 0.22, 1.65 - 0.75 * k, 1.86, 0.5, colour(what), text)
    arrow(axes, (2.2, 1.15), (3.5, 1.15), COLOURS["travels"], 2.6)
    label(axes, 2.84, 1.42, travels, size=9, color=COLOURS["travels"], weight="bold")
    box(axes, 3.5, 0.1, 3.6, 2.8)
    label(axes, 5.3, 2.7, "TPU chip", weight="bold")
    for k, (name, (text, what)) in enumerate(inside.items()):
        bottom = (2.05, 1.4, 0.22)[k]
        box(
            axes,
            3.62,
            bottom,
            3.36,
            (0.44, 0.44, 1.02)[k],
            "white" if k == 2 else colour(what),
        )
        axes.text(
            3.72,
            bottom + (0.22, 0.22, 0.8)[k],
            f"{name}: {text}",
            va="center",
            size=9.3,
        )
    for row in range(4):
        for column in range(16):
            corner = 3.76 + 0.195 * column, 0.29 + 0.1 * row
            axes.add_patch(Rectangle(corner, 0.165, 0.075, facecolor=colour(what)))
    return figure
