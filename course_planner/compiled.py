"""What the compiler makes of a training step: which exchanges, and of how many bytes.

Read from the program that XLA has compiled for Keras on JAX, on as many devices as this
process has. Simulated ones will do: `--xla_force_host_platform_device_count=8` in
XLA_FLAGS. On other devices the compiler may choose otherwise; and on CPUs it exchanges
bfloat16 numbers as float32.
"""

import dataclasses
import math
import re
from collections.abc import Callable

from course_utils.language import translated as _

EXCHANGES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
INSTRUCTION = re.compile(rf"= (.*?) ({'|'.join(EXCHANGES)})(-start)?\(")
ARRAY = re.compile(r"\b([a-z]+)(\d*)[a-z\d]*\[([\d,]*)\]")
"""A type such as f32[128,10] or bf16[] or pred[3]: its letters, bits and sizes."""
GROUPS = re.compile(r"replica_groups=(?:\{\{([\d,]+)\}|\[\d+,(\d+)\]|(\{\}))")
"""The first group, as a list of devices; or how many groups there are of which size; or
all."""
MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}")
"""Since JAX 0.10: the axes of a mesh with their sizes, and those that a group is
along."""
COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
LOOP = re.compile(r'while\(.*body=%?([\w.-]+).*"known_trip_count":\{"n":"(\d+)"')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange of a compiled step, in which a group of devices takes part.

    Attributes:
        kind: one of EXCHANGES.
        bytes: of its result on each device.
        devices: how many exchange with each other.
    """

    kind: str
    bytes: int
    devices: int

    @property
    def sent(self) -> float:
        """The bytes that a device sends at most, if the exchange goes round a ring.

        Source: Thakur, Rabenseifner & Gropp, Optimization of collective communication
            operations in MPICH, 2005.
        """
        others = self.devices - 1
        if self.kind == "all-reduce":
            return 2 * self.bytes * others / self.devices
        if self.kind == "reduce-scatter":  # its result is a share of what is added up
            return float(self.bytes * others)
        if self.kind == "collective-permute":
            return float(self.bytes)
        return self.bytes * others / self.devices


def collectives(build: Callable, distribution, batch: tuple) -> list[Collective]:
    """Return the exchanges of a compiled training step, in the program's order; those
    of a loop, such as a recurrent layer's, as many times as it turns.

    The model is built, and trained on the batch once, so that all its variables are
    there. Keras' distribution is afterwards what it was.

    Args:
        build: returns a new compiled Keras model.
        distribution: a `keras.distribution.DataParallel` or `ModelParallel`; None: on
            one device.
        batch: (inputs, targets) of one step, of all devices together, or (inputs,
            targets, weights): arrays, or dicts or lists of them.

    Raises:
        ValueError: where Keras is not on JAX, and for arguments that make no sense.
    """
    import keras

    _check(build, distribution, batch)
    if keras.backend.backend() != "jax":
        raise ValueError(
            _(
                "collectives: Keras is on {backend} here, and reads the steps "
                "that JAX compiles: set KERAS_BACKEND=jax before Keras is "
                "imported, or call it by run_in_process(…, "
                "env={{'KERAS_BACKEND': 'jax'}})",
                backend=keras.backend.backend(),
            )
        )
    import jax

    before = keras.distribution.distribution()
    keras.distribution.set_distribution(distribution)
    try:
        model = build()
        inputs, targets, *weights = batch
        options = {"sample_weight": weights[0]} if weights else {}
        size = len(jax.tree.leaves(batch)[0])
        model.fit(inputs, targets, batch_size=size, verbose=0, **options)
        variables = (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )
        state = tuple([variable.value for variable in group] for group in variables)
        # Keras asks for this, too: what a step returns lies as what it has taken.
        lies = tuple([value.sharding for value in group] for group in state)
        step = jax.jit(model.train_step, donate_argnums=0, out_shardings=(None, lies))
        data = jax.tree.map(lambda array: _placed(array, distribution), batch)
        text = step.lower(state, data).compile().as_text() or ""
    finally:
        keras.distribution.set_distribution(before)
    return read_collectives(text, jax.device_count())


def read_collectives(program: str, devices: int) -> list[Collective]:
    """Return the exchanges in the text of a program that XLA has compiled.

    Args:
        program: the optimized program, as `compiled.as_text()` gives it.
        devices: how many the program runs on: a group without a list has all.

    Raises:
        ValueError: for groups, or the start of an exchange, that are written in a way
            that is not known here.
    """
    found, times, computation = [], _times(program), ""
    for line in program.splitlines():
        if head := COMPUTATION.match(line):
            computation = head[1]
        instruction = INSTRUCTION.search(line)
        if not instruction:
            continue
        result, kind, start = instruction.groups()
        arrays = [_bytes_of(*each.groups()) for each in ARRAY.finditer(result)]
        if start and kind == "all-gather":
            # What this start returns has its operands first, then as many results.
            arrays = arrays[len(arrays) // 2 :]
        elif start and kind == "collective-permute":
            arrays = arrays[1:2]
        elif start and kind != "all-reduce":
            raise ValueError(
                _("program: what {kind}-start returns is not known here", kind=kind)
            )
        one = Collective(kind, sum(arrays), _size_of_group(line, devices))
        found += times.get(computation, 1) * [one]
    return found


def _times(program):
    """Return how often the body of each loop runs, where the compiler knows it."""
    callers, turns, computation = {}, {}, ""
    for line in program.splitlines():
        if head := COMPUTATION.match(line):
            computation = head[1]
        if loop := LOOP.search(line):
            callers[loop[1]], turns[loop[1]] = computation, int(loop[2])

    def times(body):  # a loop may stand in another one's body
        return turns[body] * times(callers[body]) if body in turns else 1

    return {body: times(body) for body in turns}


def _bytes_of(letters, bits, sizes):
    bits = 8 if letters == "pred" else int(bits)
    values = math.prod(int(size) for size in sizes.split(",") if size)
    return values * bits // 8


def _size_of_group(line, devices):
    mesh = MESH.search(line)
    if mesh:
        sizes = dict(re.findall(r"('[^']*')=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'[^']*'", mesh[2]))
    groups = GROUPS.search(line)
    if groups and (groups[1] or groups[2]):
        return len(groups[1].split(",")) if groups[1] else int(groups[2])
    if "replica_groups=" in line and not groups:
        raise ValueError(
            _("program: groups that are not known here: {groups}", groups=line.strip())
        )
    return devices


def _check(build, distribution, batch):
    if not callable(build):
        raise ValueError(
            _("build={build!r}: must be a function that returns a model", build=build)
        )
    if distribution is not None and not hasattr(distribution, "get_data_layout"):
        raise ValueError(
            _(
                "distribution={distribution!r}: must be a "
                "keras.distribution.DataParallel or ModelParallel, or None",
                distribution=distribution,
            )
        )
    if not isinstance(batch, tuple) or len(batch) not in (2, 3):
        raise ValueError(
            _(
                "batch: must be (inputs, targets) or (inputs, targets, "
                "weights), not {type}",
                type=type(batch).__name__,
            )
        )


def _placed(array, distribution):
    """Return a batch's array as this distribution lays it on the devices."""
    import jax.numpy as jnp
    import keras

    array = jnp.asarray(array)
    if distribution is None:
        return array
    layout = distribution.get_data_layout(array.shape)
    return keras.distribution.distribute_tensor(array, layout)
