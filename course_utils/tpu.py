"""Finding a TPU, learning why there is none, the device for which XLA compiles, and a
drawing of notebook 04.
"""

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from course_utils import devices
from course_utils.arguments import whole_number
from course_utils.language import counted, marked, translated as _
from course_utils.plots.style import (
    COLOURS,
    INK,
    MUTED,
    TRAVELS_INK,
    Figure,
    arrow,
    box,
    canvas,
    colour,
    label,
    styled,
)


class Accelerator(NamedTuple):
    """What was found.

    Attributes:
        strategy: a TensorFlow strategy, or None.
        num_replicas: how many replicas it has.
        what: what it really is, such as "8 logical CPUs".
        is_tpu: whether it is a TPU.
    """

    strategy: Any
    num_replicas: int
    what: str
    is_tpu: bool = False


NO_TPU_HERE = "No OpKernel was registered|tpu_node_interfaces.*platform"
"""TensorFlow without TPU kernels says the first, tensorflow-tpu on a machine without a
TPU the second.
"""
FAULTS = {
    "provide a TPU Name": marked(
        "no TPU was named: say tpu=…, 'local' where the TPU is in this machine"
    ),
    "already in use": marked(
        "another process holds the TPU: end it (on Colab: Runtime, Manage sessions), "
        "then restart"
    ),
    "libtpu.*(version|undefined symbol|not available in|has no attribute)": marked(
        "libtpu, the TPU's library, is of another version than TensorFlow: {remedy}, "
        "then restart"
    ),
    "libtpu": marked("libtpu, the TPU's library, is missing: {remedy}, then restart"),
    "Name or service not known|Could not lookup|urlopen|UNAVAILABLE|DEADLINE": marked(
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
            _(
                "TensorFlow is not installed: {remedy}, then restart; JAX works "
                "without it",
                remedy=devices.INSTALL_FOR_TPU,
            )
        )
        return Accelerator(None, 0, _("nothing: TensorFlow is not installed"))
    problem = devices.unfit_libtpu()
    if problem:
        print(problem)
        return Accelerator(None, 0, _("nothing: TensorFlow cannot be loaded"))
    import tensorflow as tf

    # Now: an attempt that fails fixes the devices.
    physical = tf.config.list_physical_devices("CPU")[0]
    parts = [tf.config.LogicalDeviceConfiguration()] * replicas
    devices.split(physical, replicas, parts)
    try:
        strategy = connect()
    except Exception as problem:  # each way of having no TPU has its own type of error
        print(
            _(
                "{replicas} logical CPUs in place of a TPU: {reason}",
                replicas=replicas,
                reason=_sentence(problem),
            )
        )
        names = [f"CPU:{i}" for i in range(replicas)]
        simple = tf.distribute.ReductionToOneDevice()
        strategy = tf.distribute.MirroredStrategy(names, simple)
        return Accelerator(
            strategy, replicas, _("{replicas} logical CPUs", replicas=replicas)
        )
    count = strategy.num_replicas_in_sync
    print(_("a TPU with {cores}", cores=counted(count, "core", "cores")))
    what = counted(count, "TPU core", "TPU cores")
    return Accelerator(strategy, count, what, is_tpu=True)


def _sentence(problem):
    """Return why there is no TPU, and what would help, in one sentence."""
    text = f"{type(problem).__name__}: {problem}"
    if re.search(NO_TPU_HERE, text):
        if "No OpKernel" in text and devices.tpu_in_machine():
            return _(
                "this TensorFlow has no TPU kernels: {remedy}, then restart",
                remedy=devices.INSTALL_FOR_TPU,
            )
        return _("there is none in this machine")
    for words, sentence in FAULTS.items():
        if re.search(words, text):
            return _(sentence, remedy=devices.INSTALL_FOR_TPU)
    return _("connecting failed ({reason})", reason=text.splitlines()[0][:200])


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
            _(
                "This TensorFlow compiles for TPUs only, and finds none: what "
                "follows runs without the compiler."
            )
        )
        return "CPU:0", False
    return "CPU:0", True


@styled()
def inside_a_tpu(title: str, travels: str, inside: dict) -> Figure:
    """Draw a host and a TPU chip: what the host sends, and what is on the chip.

    inside: `{"HBM": [(text, what), …], "vector unit": text, "matrix unit": text}`, what
        is a key of COLOURS. The matrix unit is drawn as the square grid that gives it
        its name, with fewer cells than it has.
    """
    from matplotlib.patches import Rectangle

    figure, axes = canvas(title, 3.3)
    box(axes, 0.1, 0.5, 1.9, 2.1, dashed=True)
    label(axes, 1.05, 2.37, _("host"), weight="bold")
    box(axes, 0.2, 1.6, 1.7, 0.5, "white", _("Python, TensorFlow"))
    box(axes, 0.2, 0.85, 1.7, 0.5, colour("inputs"), _("tf.data: batches"))
    arrow(axes, (1.9, 1.1), (2.98, 1.1), COLOURS["travels"], 2.6)
    label(axes, 2.42, 1.33, travels, size=9, color=TRAVELS_INK, weight="bold")
    box(axes, 2.85, 0.1, 4.25, 2.8)
    label(axes, 4.97, 2.7, _("TPU chip"), weight="bold")
    box(axes, 2.98, 0.25, 1.5, 2.25)
    label(axes, 3.73, 2.33, _("HBM: memory"), size=9.5)
    for k, (text, what) in enumerate(inside["HBM"]):
        box(axes, 3.08, 1.8 - 0.47 * k, 1.3, 0.38, colour(what), _(text))
    box(axes, 4.9, 1.9, 2.08, 0.6, colour("compute"))
    look = {"size": 9.5, "color": "white"}
    words = _("vector unit\n{what}", what=inside["vector unit"])
    label(axes, 5.94, 2.2, words, **look)
    box(axes, 4.9, 0.25, 2.08, 1.45)
    words = _("matrix unit\n{what}", what=inside["matrix unit"])
    label(axes, 6.36, 0.98, words, size=9.5)
    for row in range(12):
        for column in range(12):
            corner = 4.99 + 0.068 * column, 0.57 + 0.068 * row
            axes.add_patch(Rectangle(corner, 0.055, 0.055, facecolor=colour("compute")))
    for height in 2.2, 0.98:
        arrow(axes, (4.48, height), (4.9, height), arrowstyle="<|-|>")
    return figure


@styled()
def float_formats(formats: dict, title: str) -> Figure:
    """Draw formats of numbers bit by bit: `{name: (exponent, fraction)}`, each with a
    sign besides.
    """
    from matplotlib.patches import Rectangle

    figure, axes = canvas(title, 0.55 + 0.7 * len(formats))
    for row, (name, (exponent, fraction)) in enumerate(formats.items()):
        low = 0.7 * (len(formats) - row) - 0.45
        axes.text(0.04, low + 0.12, name, va="center", weight="bold", size=10.5)
        left = 1.02
        parts = (
            (_("sign"), 1, MUTED),
            (_("exponent: range"), exponent, INK),
            (_("fraction: precision"), fraction, "white"),
        )
        for what, bits, fill in parts:
            for bit in range(bits):
                place = left + 0.19 * bit, low
                look: dict[str, Any] = {"facecolor": fill, "edgecolor": INK}
                if fill == INK:
                    look["edgecolor"] = "white"
                axes.add_patch(Rectangle(place, 0.19, 0.24, lw=0.8, **look))
            words = f"{what}, {bits}" if row == 0 else str(bits)
            if fill == MUTED and row == 0:  # to the left, where there is room
                label(axes, left + 0.03, low + 0.37, what, size=9.5, ha="right")
            elif fill != MUTED:
                label(axes, left + 0.095 * bits, low + 0.37, words, size=9.5)
            left += 0.19 * bits
    return figure
