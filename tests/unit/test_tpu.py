"""Finding a TPU, with TensorFlow's ways to one faked; where XLA compiles."""

import types

import pytest
import tensorflow as tf

from course_exercises import tpu_strategy
from course_utils import devices
from course_utils.tpu import with_stand_in, xla_device
from tools.cells import source_of


@pytest.fixture
def connect_tpu():
    """The function that notebook 04 defines, before it calls it."""
    space = {}
    exec(source_of("04_tpu_strategy", "connect").partition("\ntpu = ")[0], space)
    return lambda replicas: with_stand_in(space["connect_tpu"], replicas)


@pytest.fixture
def ways(monkeypatch):
    """Fake TensorFlow's ways to a TPU, and return what was asked of it.

    `ways(fault, at)` has one of them raise.
    """

    def fake(fault=None, at="initialize", cores=8, accelerators=()):
        asked = []

        def step(name, result=None):
            def take(*args, **named):
                asked.append((name, *args, *named.values()))
                if fault is not None and at == name:
                    raise fault
                return result

            return take

        strategy = types.SimpleNamespace(num_replicas_in_sync=cores)
        monkeypatch.setattr(
            tf.distribute.cluster_resolver,
            "TPUClusterResolver",
            step("resolve", "the resolver"),
        )
        monkeypatch.setattr(
            tf.config, "experimental_connect_to_cluster", step("connect")
        )
        monkeypatch.setattr(
            tf.tpu.experimental, "initialize_tpu_system", step("initialize")
        )
        monkeypatch.setattr(tf.distribute, "TPUStrategy", step("strategy", strategy))
        monkeypatch.setattr(
            devices.glob,
            "glob",
            lambda pattern: list(accelerators) * (pattern[:10] == "/dev/accel"),
        )
        return asked

    monkeypatch.delenv("TPU_NAME", raising=False)
    return fake


@pytest.mark.parametrize("cores, what", [(8, "8 TPU cores"), (1, "1 TPU core")])
def test_a_tpu_is_initialised_before_anything_else(
    ways, connect_tpu, capsys, cores, what
):
    asked = ways(cores=cores)
    found = connect_tpu(4)
    assert (found.strategy.num_replicas_in_sync, found.num_replicas, found.what) == (
        cores,
        cores,
        what,
    )
    resolver = "the resolver"
    assert asked == [
        ("resolve", "local"),
        *((name, resolver) for name in ("connect", "initialize", "strategy")),
    ]
    assert capsys.readouterr().out == f"a TPU with {what.replace('TPU ', '')}\n"


@pytest.mark.parametrize("named, asked_for", [(None, "local"), ("mine", "mine")])
def test_which_tpu_is_asked_for(ways, connect_tpu, monkeypatch, named, asked_for):
    asked = ways()
    if named:
        monkeypatch.setenv("TPU_NAME", named)
    connect_tpu(4)
    assert asked[0] == ("resolve", asked_for)


NO_KERNEL = (
    "TPUs not found in the cluster. Failed in initialization: "
    "No OpKernel was registered to support Op"
)
NO_PLATFORM = (
    "Graph execution error:\n\n"
    "RET_CHECK failure (learning/google/xla/tpu_node_interfaces.cc:432) *platform \n"
)
HELD = (
    "The TPU is already in use by process with pid 7. "
    "Not attempting to load libtpu.so in this process."
)
FAULTS = [
    (
        tf.errors.NotFoundError(None, None, NO_KERNEL),
        "initialize",
        (),
        "there is none in this machine",
    ),
    (
        tf.errors.NotFoundError(None, None, NO_KERNEL),
        "initialize",
        ["/dev/accel0"],
        "this TensorFlow has no TPU kernels",
    ),
    (
        tf.errors.InternalError(None, None, NO_PLATFORM),
        "initialize",
        (),
        "there is none in this machine",
    ),
    (
        ValueError("Please provide a TPU Name to connect to."),
        "resolve",
        (),
        "no TPU was named: say tpu=…, 'local'",
    ),
    (
        tf.errors.AbortedError(None, None, HELD),
        "connect",
        (),
        "another process holds the TPU: end it",
    ),
    (
        RuntimeError("Failed to open libtpu.so: cannot open shared object"),
        "initialize",
        (),
        "library, is missing: pip",
    ),
    (
        AttributeError("module 'libtpu' has no attribute 'get_library_path'"),
        "connect",
        (),
        "is of another version than",
    ),
    (
        OSError("libtpu.so: undefined symbol: TpuInit"),
        "connect",
        (),
        "is of another version than TensorFlow: pip install",
    ),
    (
        OSError("<urlopen error [Errno -2] Name or service not known>"),
        "connect",
        (),
        "no TPU of this name answers",
    ),
    (
        KeyError("something new"),
        "strategy",
        (),
        "connecting failed (KeyError: 'something new')",
    ),
]


@pytest.mark.parametrize("fault, at, accelerators, words", FAULTS)
def test_every_way_of_having_no_tpu_is_one_sentence(
    ways, connect_tpu, capsys, fault, at, accelerators, words
):
    ways(fault, at, accelerators=accelerators)
    found = connect_tpu(4)
    said = capsys.readouterr().out
    assert (
        said.startswith("4 logical CPUs in place of a TPU: ")
        and words in said
        and said.count("\n") == 1
    )
    assert (found.num_replicas, found.what) == (4, "4 logical CPUs")
    assert found.strategy.num_replicas_in_sync == 4 and isinstance(
        found.strategy, tf.distribute.MirroredStrategy
    )


def test_no_tpu_here(connect_tpu, capsys):
    """TensorFlow's own resolver, on this machine."""
    found = connect_tpu(4)
    assert (
        found.what == "4 logical CPUs"
        and "4 logical CPUs in place of a TPU: " in capsys.readouterr().out
    )
    assert (
        float(
            found.strategy.reduce(
                "SUM", found.strategy.run(lambda: tf.ones([])), axis=None
            )
        )
        == 4
    )


def test_tpu_asked_for_too_late_or_wrongly(ways, connect_tpu):
    ways()
    with pytest.raises(
        RuntimeError,
        match=(
            "3 logical CPU devices were asked for, but TensorFlow already runs with 4"
        ),
    ):
        connect_tpu(3)
    with pytest.raises(ValueError, match="replicas=0: must be a whole number"):
        connect_tpu(0)


@pytest.fixture
def fresh_look():
    xla_device.cache_clear()
    yield
    xla_device.cache_clear()


def test_where_xla_compiles(fresh_look, monkeypatch, capsys):
    assert xla_device() == ("CPU:0", True)
    xla_device.cache_clear()
    monkeypatch.setattr(
        tf.config,
        "list_logical_devices",
        lambda kind=None: ["one"] if kind == "TPU" else [],
    )
    assert xla_device() == ("TPU:0", True) and capsys.readouterr().out == ""


def test_a_tensorflow_that_compiles_for_tpus_only(fresh_look, monkeypatch, capsys):
    """tensorflow-tpu without a TPU is said once.

    Exercises do not call right what they could not compile.
    """
    function = tf.function

    def refuses(body, jit_compile=None, **more):
        def call(*_):
            raise tf.errors.NotFoundError(
                None,
                None,
                "could not find registered transfer manager for platform Host",
            )

        return call if jit_compile else function(body, **more)

    monkeypatch.setattr(tf, "function", refuses)
    assert xla_device() == xla_device() == ("CPU:0", False)
    assert capsys.readouterr().out.count("compiles for TPUs only") == 1
    tpu_strategy.mean_of_first(
        lambda losses, n: tf.cumsum(losses)[n - 1] / tf.cast(n, "float32")
    )
    assert (
        "not solved yet. The numbers are right; whether it compiles needs"
        in capsys.readouterr().out
    )
    tpu_strategy.mean_of_first(lambda losses, n: losses[0])
    assert "it should return 3.0" in capsys.readouterr().out
