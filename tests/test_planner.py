"""course_utils.planner against hand-computed cases, measured bytes and a ring that really runs."""

import dataclasses
import math
from itertools import combinations, pairwise
from pathlib import Path

import nbformat
import numpy as np
import pytest

from course_utils import planner
from course_utils.planner import LayerCost, Memory

ROOT = Path(__file__).resolve().parent.parent
CONV = 3 * 3 * 1 * 32 + 32  # 320
HIDDEN = 13 * 13 * 32 * 128 + 128  # 692,352
LOGITS = 128 * 10 + 10  # 1,290
ALL = CONV + HIDDEN + LOGITS  # 693,962
OUTPUTS = 26 * 26 * 32 + 13 * 13 * 32 + 5408 + 128 + 10  # 21,632 + 5,408 + 5,408 + 128 + 10 = 32,586
LAYERS = [
    LayerCost("conv", CONV, 26 * 26 * 32, 2 * 26 * 26 * 32 * 9),
    LayerCost("pool", 0, 13 * 13 * 32, 0),
    LayerCost("flatten", 0, 5408, 0),
    LayerCost("hidden", HIDDEN, 128, 2 * 5408 * 128),
    LayerCost("logits", LOGITS, 10, 2 * 128 * 10),
]
SEEN = [
    dataclasses.replace(each, kind="view", kept=0) if each.name == "flatten" else each for each in LAYERS
]  # as in the model
FLOPS = 389_376 + 1_384_448 + 2_560  # 1,776,384
SPEED = {"flops_per_second": 1e9, "bandwidth": 1e8, "latency": 1e-3}
MIB = 2**20


@pytest.fixture(scope="module")
def model():
    from course_utils.model import build_model

    return build_model(seed=0)


# The model, counted and measured


def test_layer_costs_of_the_course_model(model):
    assert planner.layer_costs(model) == SEEN
    assert (693_962, 32_586, sum(layer.flops for layer in LAYERS)) == (ALL, OUTPUTS, FLOPS)


def test_layer_costs_of_strides_positions_and_frozen_layers():
    import keras

    small = keras.Sequential(
        [
            keras.Input((9, 8, 4)),
            keras.layers.Conv2D(6, (3, 2), strides=2, padding="valid", groups=2, use_bias=False, name="grouped"),
            keras.layers.Dense(5, name="per_position"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(7, name="frozen", trainable=False),
        ]
    )
    assert planner.layer_costs(small) == [
        LayerCost("grouped", 3 * 2 * 2 * 6, 4 * 4 * 6, 2 * (4 * 4 * 6) * (3 * 2 * 2)),
        LayerCost("per_position", 6 * 5 + 5, 4 * 4 * 5, 2 * (4 * 4) * 6 * 5),
        LayerCost("norm", 5 + 5, 4 * 4 * 5, 0, "elementwise"),  # gamma and beta; the moving averages are not trained
        LayerCost("frozen", 0, 4 * 4 * 7, 2 * (4 * 4) * 5 * 7),
    ]


@pytest.mark.parametrize(
    "name, shape",
    [
        ("SeparableConv2D", (8, 8, 3)), ("Conv2DTranspose", (8, 8, 3)), ("DepthwiseConv2D", (8, 8, 3)),
        ("Conv1D", (8, 3)), ("LayerNormalization", (8,)), ("EinsumDense", (8,)),
    ],
)  # fmt: skip
def test_layer_costs_refuses_what_it_does_not_know(name, shape):
    import keras

    arguments = {"EinsumDense": ("ab,bc->ac", 5), "LayerNormalization": (), "DepthwiseConv2D": (3,)}.get(name, (4, 3))
    layer = getattr(keras.layers, name)(*arguments, name="odd")
    with pytest.raises(ValueError, match=f"what layer 'odd' computes is not known here, since it is a {name}: write"):
        planner.layer_costs(keras.Sequential([keras.Input(shape), layer]))


@pytest.mark.parametrize(
    "name, make",
    [
        ("sgd", lambda o: o.SGD()),
        ("momentum", lambda o: o.SGD(momentum=0.9)),
        ("adam", lambda o: o.Adam()),
    ],
)
def test_memory_equals_the_measured_bytes(model, name, make):
    import keras

    optimizer = make(keras.optimizers)
    optimizer.build(model.trainable_variables)
    weights = sum(v.numpy().nbytes for v in model.trainable_variables)
    slots = sum(
        v.numpy().nbytes for v in optimizer.variables if v.path.split("/")[-1] not in ("iteration", "learning_rate")
    )
    held = planner.memory(planner.layer_costs(model), "one device", 1, 64, name)[0]
    assert (held.weights, held.optimizer) == (weights, slots)
    assert weights == 4 * 693_962 and slots == {"sgd": 0, "momentum": 1, "adam": 2}[name] * weights


def test_activations_equal_the_measured_bytes(model):
    import keras

    every = keras.Model(model.inputs, [layer.output for layer in model.layers])
    found = dict(zip(SEEN, every([np.zeros((6, 28, 28, 1), "float32")]), strict=True))
    measured = sum(np.asarray(a).nbytes for layer, a in found.items() if layer.name != "flatten")  # it is pool's
    assert planner.memory(SEEN, "one device", 1, 6)[0].activations == measured == 6 * (32_586 - 5_408) * 4


# Bytes per device


def bytes_of(parameters, activations, slots=2, size=4):
    return Memory(size * parameters, size * parameters, slots * size * parameters, size * activations)


@pytest.mark.parametrize(
    "strategy, devices, cuts, expected",
    [
        ("one device", 1, None, [(ALL, 64 * OUTPUTS)]),
        ("one device", 3, None, [(ALL, 64 * OUTPUTS), (0, 0), (0, 0)]),
        ("data parallel", 4, None, [(ALL, 16 * OUTPUTS)] * 4),
        # the largest count must be least: 692,672 | 1,290 rather than 320 | 693,642
        ("layers split", 2, None, [(CONV + HIDDEN, 64 * (OUTPUTS - 10)), (LOGITS, 64 * (128 + 10))]),
        ("layers split", 2, [3], [(CONV, 64 * (21632 + 5408 + 5408)), (HIDDEN + LOGITS, 64 * (5408 + 128 + 10))]),
        (
            "layers split",
            3,
            (1, 3),
            [(CONV, 64 * 21632), (0, 64 * (21632 + 5408 + 5408)), (HIDDEN + LOGITS, 64 * (5408 + 128 + 10))],
        ),
        ("layers split", 1, None, [(ALL, 64 * OUTPUTS)]),
        # conv, pool, flatten by columns: split; hidden by rows: whole; logits by columns: split
        ("tensor split", 2, None, [(160 + 346_176 + 645, 64 * (10816 + 2704 + 2704 + 128 + 5))] * 2),
        # 320 = 107 + 107 + 106, 692,352 = 3 x 230,784, 1,290 = 3 x 430; outputs 21,632 = 7,211 + 7,211 + 7,210,
        # 5,408 = 1,803 + 1,803 + 1,802, 10 = 4 + 3 + 3
        (
            "tensor split",
            3,
            None,
            [
                (107 + 230_784 + 430, 64 * (7211 + 1803 + 1803 + 128 + 4)),
                (107 + 230_784 + 430, 64 * (7211 + 1803 + 1803 + 128 + 3)),
                (106 + 230_784 + 430, 64 * (7210 + 1802 + 1802 + 128 + 3)),
            ],
        ),
        ("tensor split", 1, None, [(ALL, 64 * OUTPUTS)]),
    ],
)
def test_memory_by_hand(strategy, devices, cuts, expected):
    held = planner.memory(LAYERS, strategy, devices, 64, cuts=cuts)
    assert held == [bytes_of(*pair) for pair in expected]
    assert held[0].total == held[0].weights + held[0].gradients + held[0].optimizer + held[0].activations


@pytest.mark.parametrize("devices", [1, 2, 3, 4, 5, 6, 7])
def test_default_cut_is_the_best_of_all_cuts(devices):
    sizes = [5, 0, 9, 2, 2, 7, 4]

    def largest(cuts):
        edges = [0, *cuts, len(sizes)]
        return max(sum(sizes[a:b]) for a, b in pairwise(edges))

    layers = [LayerCost(str(i), size, 1, 1) for i, size in enumerate(sizes)]
    weights = [m.weights // 4 for m in planner.memory(layers, "layers split", devices, 1)]
    assert len(weights) == devices and sum(weights) == sum(sizes)
    assert max(weights) == min(map(largest, combinations(range(1, len(sizes)), devices - 1)))


# Bytes on the wire


def run_ring(elements, devices):
    """All-reduce by a ring that really copies; returns the bytes each device sent and what each ends with."""
    held = [np.array_split(np.arange(elements, dtype="float32") + 100 * d, devices) for d in range(devices)]
    sent = [0] * devices
    for phase in ("reduce-scatter", "all-gather"):
        for step in range(devices - 1):
            chunks = [(d - step + (phase == "all-gather")) % devices for d in range(devices)]
            messages = [held[d][c].copy() for d, c in enumerate(chunks)]
            for d, (c, message) in enumerate(zip(chunks, messages, strict=True)):
                sent[d] += message.nbytes
                to = held[(d + 1) % devices]
                to[c] = to[c] + message if phase == "reduce-scatter" else message
    return sent, [np.concatenate(chunks) for chunks in held]


@pytest.mark.parametrize("elements, devices", [(12, 4), (10, 4), (11, 4), (3, 4), (0, 3), (7, 2), (5, 1)])
def test_ring_bytes_equal_a_ring_that_runs(elements, devices):
    sent, results = run_ring(elements, devices)
    total = sum(np.arange(elements, dtype="float32") + 100 * d for d in range(devices))
    assert all(np.array_equal(result, total) for result in results)
    assert planner.all_reduce_bytes(elements, devices, "ring") == sent


@pytest.mark.parametrize(
    "algorithm, elements, devices, expected",
    [
        ("ring", 8, 4, [48] * 4),  # 2 x 3/4 x 32 bytes
        ("ring", 10, 4, [60, 64, 60, 56]),  # chunks 3, 3, 2, 2: 2 x 40 less 4 x (3 + 2, 2 + 2, 2 + 3, 3 + 3)
        ("gather", 10, 4, [120, 40, 40, 40]),  # the root sends the sum three times
        ("all-to-all", 10, 4, [120] * 4),
        ("gather", 10, 1, [0]),
        ("all-to-all", 10, 1, [0]),
        ("ring", 10, 1, [0]),
    ],
)
def test_all_reduce_bytes_by_hand(algorithm, elements, devices, expected):
    sent = planner.all_reduce_bytes(elements, devices, algorithm)
    assert sent == expected and all(type(x) is int for x in sent)
    assert planner.all_reduce_bytes(elements, devices, algorithm, 2) == [x // 2 for x in expected]


@pytest.mark.parametrize(
    "strategy, devices, options, expected",
    [
        ("one device", 3, {}, [0, 0, 0]),
        ("data parallel", 2, {}, [4 * ALL] * 2),  # 2 x 1/2 x S
        ("data parallel", 4, {"algorithm": "all-to-all"}, [3 * 4 * ALL] * 4),
        ("data parallel", 2, {"bytes_per_value": 2}, [2 * ALL] * 2),
        ("layers split", 2, {"cuts": [3]}, [64 * 5408 * 4] * 2),  # 1.32 MiB each way
        ("layers split", 3, {"cuts": [1, 3]}, [64 * 21632 * 4, 64 * (21632 + 5408) * 4, 64 * 5408 * 4]),
        # all-reduce of hidden's output (64 x 128 = 8,192) and of its gradient, 8,192 x 4 bytes each on 2 devices;
        # all-gather of the 640 logits: half of them
        ("tensor split", 2, {}, [2 * 8192 * 4 + 320 * 4] * 2),
        # 640 = 214 + 213 + 213; 8,192 = 2,731 + 2,731 + 2,730
        (
            "tensor split",
            3,
            {},
            [
                4 * (2 * (2 * 8192 - 2731 - 2730) + 640 - 213),
                4 * (2 * (2 * 8192 - 2730 - 2731) + 640 - 213),
                4 * (2 * (2 * 8192 - 2731 - 2731) + 640 - 214),
            ],
        ),
        ("tensor split", 1, {}, [0]),
    ],
)
def test_wire_bytes_by_hand(strategy, devices, options, expected):
    assert planner.wire_bytes(LAYERS, strategy, devices, 64, **options) == expected


@pytest.mark.parametrize(
    "matrices, sums, gathered",
    [
        ("c", 0, 7),
        ("cr", 1, 0),
        ("crc", 2, 7),
        ("crcr", 3, 0),  # four matrices of a block: Megatron's f and g
    ],
)
def test_tensor_split_needs_one_sum_per_pair_and_direction(matrices, sums, gathered):
    layers = [LayerCost(str(i), 49, 7, 98) for i, _ in enumerate(matrices)]
    sent = planner.wire_bytes(layers, "tensor split", 7, 1)  # sum: 2 x 6/7 x 28 bytes; gather: half
    assert sent == [sums * 48 + (gathered > 0) * 24] * 7


# Seconds


@pytest.mark.parametrize(
    "strategy, devices, options, compute, communication",
    [
        ("one device", 1, {}, 3 * FLOPS * 64 / 1e9, 0),
        ("data parallel", 1, {}, 3 * FLOPS * 64 / 1e9, 0),
        ("data parallel", 4, {}, 3 * FLOPS * 16 / 1e9, 6e-3 + 1.5 * 4 * ALL / 1e8),  # 2 x 3 messages, 2 x 3/4 x S
        ("layers split", 2, {"cuts": [3]}, 3 * FLOPS * 64 / 1e9, 2 * (1e-3 + 64 * 5408 * 4 / 1e8)),
        ("tensor split", 4, {}, 3 * FLOPS * 16 / 1e9, 15e-3 + (2 * 1.5 * 8192 * 4 + 0.75 * 640 * 4) / 1e8),
    ],
)
def test_step_time_by_hand(strategy, devices, options, compute, communication):
    step = planner.step_time(LAYERS, strategy, devices, 64, **SPEED, **options)
    assert (step.compute, step.communication) == pytest.approx((compute, communication), rel=1e-12)
    assert step.total == step.compute + step.communication
    assert step.communication_share == pytest.approx(communication / (compute + communication))


@pytest.mark.parametrize(
    "stages, micro_batches, share",
    [
        (1, 1, 0),
        (1, 9, 0),
        (2, 1, 1 / 2),
        (4, 1, 3 / 4),
        (4, 4, 3 / 7),
        (4, 13, 3 / 16),
    ],
)
def test_pipeline_idle_share(stages, micro_batches, share):
    assert planner.pipeline_idle_share(stages, micro_batches) == pytest.approx(share)


# Advice

ONE = planner.memory(LAYERS, "one device", 1, 64)[0].total  # 4 x (4 x 693,962 + 64 x 32,586) = 19,445,408


def unwrapped(advice):
    """What it prints, with each reason on one line again."""
    return str(advice).replace("\n  ", " ")


@pytest.mark.parametrize(
    "room, devices, batch, strategy, needed",
    [
        (14 * MIB, 4, 64, "data parallel", 4),  # 10.59 of state + 7.96 / 4 = 12.58; on 2: 14.57
        (14 * MIB, 9, 63, "data parallel", 3),  # 3 is the first divisor of 63 above 1: 10.59 + 2.61
        (14 * MIB, 3, 64, "ZeRO-1", 2),  # data parallel would need 4; (5.29 + (5.29 + 7.96) / 2 = 11.92
        (6 * MIB, 8, 64, "ZeRO-2", 8),  # 2.65 + (7.94 + 7.96) / 8 = 4.63; ZeRO-1 keeps 5.29 and needs 1.65 more
        (int(2.9 * MIB), 8, 64, "ZeRO-3", 8),  # (10.59 + 7.96) / 8 = 2.32
        (int(10.65 * MIB), 4, 1, "layers split", 3),  # one example cannot be divided; hidden alone is 10.56
        (6 * MIB, 8, 1, "tensor split", 2),
        (6 * MIB, 3, 64, "nothing fits", 4),
        (14 * MIB, 1, 64, "nothing fits", 2),
        (11 * MIB, 12, 36, "data parallel", 12),  # 10.59 + 4.48 / 12 = 10.96; the divisor before, 9: 11.09
        (64 * 128 * 4, 8, 64, "nothing fits", None),  # as much as hidden's whole output alone
    ],
)
def test_recommend(room, devices, batch, strategy, needed):
    advice = planner.recommend(LAYERS, room, devices, batch)
    assert (advice.strategy, advice.devices_needed) == (strategy, needed)
    text = unwrapped(advice)
    assert all(reason in text for reason in advice.reasons) and "MiB" in text
    assert max(map(len, str(advice).splitlines())) <= 90
    assert ("With at most 27 examples at a time" in text.replace("\n  ", " ")) == (
        room == 14 * MIB
    )  # (14 - 10.59) x 64 / 7.96
    if strategy == "nothing fits":
        assert text.startswith(
            f"Nothing fits: {needed} devices at least." if needed else "Nothing fits: whatever the number of devices."
        )
    else:
        held = planner.memory(LAYERS, strategy, needed, batch)
        assert max(m.total for m in held) <= room and needed <= devices
        assert text.startswith(f"{strategy[0].upper()}{strategy[1:]}: {needed} devices at least.")


# ZeRO: the ring cut in half, on a ring that really runs


def halves(flat, record):
    """Reduce-scatter, then all-gather, on one array a device: what each owns in between, and what each ends with."""
    n = len(flat)
    chunks = [np.array_split(each.copy(), n) for each in flat]
    owned = None
    for half, shift in (("reduce", 0), ("gather", 1)):
        for step in range(n - 1):
            chosen = [(d + shift - step) % n for d in range(n)]
            arriving = [chunks[d][chosen[d]].copy() for d in range(n)]
            for d in range(n):
                record[d] += arriving[d].nbytes
                there = chunks[(d + 1) % n]
                there[chosen[d]] = there[chosen[d]] + arriving[d] if half == "reduce" else arriving[d]
        owned = owned or [chunks[d][(d + 1) % n].copy() for d in range(n)]
    return owned, [np.concatenate(each) for each in chunks]


@pytest.mark.parametrize("devices", [2, 3, 4, 5])
def test_zero_is_the_ring_cut_in_half(devices):
    parameters, batch = 23, 60
    layers = [LayerCost("a", 20, 4, 1), LayerCost("b", 3, 2, 1)]
    sent = [0] * devices
    owned, whole = halves([np.arange(parameters, dtype="float32") + d for d in range(devices)], sent)
    part = [each.nbytes for each in owned]
    assert all(np.array_equal(each, whole[0]) for each in whole) and sum(part) == 4 * parameters
    for strategy in "ZeRO-1", "ZeRO-2":
        assert planner.wire_bytes(layers, strategy, devices, batch) == sent
    gathered = [0] * devices
    halves([np.zeros(parameters, "float32")] * devices, gathered)
    again = [both - 4 * parameters + part[d] for d, both in enumerate(gathered)]  # less its first half: all but its own
    assert planner.wire_bytes(layers, "ZeRO-3", devices, batch) == [a + b for a, b in zip(sent, again, strict=True)]
    full, activations = 4 * parameters, 4 * 6 * batch // devices
    for strategy, (w, g) in {"ZeRO-1": (0, 0), "ZeRO-2": (0, 1), "ZeRO-3": (1, 1)}.items():
        held = planner.memory(layers, strategy, devices, batch)
        assert held == [Memory(each if w else full, each if g else full, 2 * each, activations) for each in part]


def test_zero_takes_the_time_of_its_halves():
    times = {s: planner.step_time(LAYERS, s, 4, 64, **SPEED) for s in ("data parallel", *planner.ZERO)}
    assert times["ZeRO-1"] == times["ZeRO-2"] == times["data parallel"]
    assert times["ZeRO-3"].communication == pytest.approx(1.5 * times["data parallel"].communication)
    with pytest.raises(ValueError, match=r"^algorithm='gather': must be 'ring'"):
        planner.wire_bytes(LAYERS, "ZeRO-2", 4, 64, "gather")


def test_overlap_hides_communication_behind_the_backward_pass():
    step = planner.StepTime(compute=3.0, communication=1.0)
    assert step.overlapped(1) == step.total == 4
    assert step.overlapped(4) == pytest.approx(3.25)  # only the last quarter is left after the backward pass
    slow = planner.StepTime(compute=3.0, communication=8.0)
    assert slow.overlapped(4) == pytest.approx(1.5 + 8)  # the network is busy from the first bucket on
    assert planner.StepTime(0.0, 8.0).overlapped(4) == 8
    with pytest.raises(ValueError, match=r"^buckets=0: must be"):
        step.overlapped(0)


# Kinds of layers


def test_a_tensor_split_leaves_normalization_with_its_features():
    wide = [
        LayerCost("dense", 16 * 16, 16, 1),
        LayerCost("norm", 32, 16, 0, "elementwise"),
        LayerCost("out", 16 * 4, 4, 1),
    ]
    (held, _), narrow = planner.memory(wide, "tensor split", 2, 1), [wide[0], wide[2]]
    assert held.weights == 4 * (128 + 16 + 32)
    assert (
        planner.wire_bytes(wide, "tensor split", 2, 1) == planner.wire_bytes(narrow, "tensor split", 2, 1) == [16, 16]
    )
    after = [wide[0], wide[2], LayerCost("norm", 8, 4, 0, "elementwise")]  # where the output is whole, it is whole
    assert planner.memory(after, "tensor split", 2, 1)[1].weights == 4 * (128 + 32 + 8)


def test_a_layer_may_keep_more_than_it_puts_out():
    block = planner.LayerCost("block", 12, 10, 100, kept=160)
    held = planner.memory([block, block], "layers split", 2, 3)
    assert [each.activations for each in held] == [3 * 4 * 160, 3 * 4 * (160 + 10)]
    assert planner.wire_bytes([block, block], "layers split", 2, 3) == [3 * 4 * 10] * 2
    with pytest.raises(ValueError, match="kept of layer 'block'=-1"):
        planner.LayerCost("block", 12, 10, 100, kept=-1)


def test_checkpointed_keeps_the_last_output_of_each_segment_and_computes_once_more():
    blocks = [planner.LayerCost(f"block {i}", 12, 10, 99, kept=160) for i in range(5)]
    two = planner.checkpointed(blocks, 2)
    assert [(one.name, one.parameters, one.kept) for one in two] == [
        (f"block {i}", 12, 10 * (i in (2, 4))) for i in range(5)
    ]
    each = planner.checkpointed(blocks, 5)
    assert [(one.name, one.kept, one.flops) for one in each] == [(f"block {i}", 10, 132) for i in range(5)]
    rates = {"flops_per_second": 1e3, "bandwidth": 1e3, "latency": 0}
    plain, again = (planner.step_time(costs, "one device", 1, 6, **rates).compute for costs in (blocks, each))
    assert (plain, again) == (3 * 5 * 99 * 6 / 1e3, 4 * 5 * 99 * 6 / 1e3)
    assert [planner.memory(costs, "one device", 1, 6)[0].activations for costs in (blocks, two)] == [19200, 480]
    for segments in (0, 6, 1.5):
        with pytest.raises(ValueError, match=f"segments={segments}: must be a whole number from 1 to 5"):
            planner.checkpointed(blocks, segments)


def test_notebook_00s_transformer_sends_what_megatron_says():
    """Four all-reduces of the activations in each block, two forward and two backward."""
    blocks, width, tokens, texts, devices = 24, 2048, 2048, 16, 8
    names = {"planner": planner}
    path = ROOT / "notebooks" / "00_data_vs_model_parallelism.ipynb"
    source = next(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.id == "transformer")
    exec(source.split("\nprint(")[0], names)
    layers = names["transformer"](blocks, width)
    sent = planner.wire_bytes(layers, "tensor split", devices, texts)[0]
    expected = 4 * blocks * 2 * (devices - 1) / devices * tokens * width * texts * 4
    assert sent == pytest.approx(expected, rel=1 / (4 * blocks))  # the first layer needs no gradient of its input
    assert sum(layer.parameters for layer in layers) == 12 * blocks * width**2
    assert sum(layer.flops for layer in layers) == 24 * blocks * tokens * width**2


# Nonsense


def call(function, **changes):
    arguments = {
        "memory": dict(layers=LAYERS, strategy="data parallel", devices=2, global_batch_size=64),
        "wire_bytes": dict(layers=LAYERS, strategy="data parallel", devices=2, global_batch_size=64),
        "step_time": dict(layers=LAYERS, strategy="data parallel", devices=2, global_batch_size=64, **SPEED),
        "recommend": dict(layers=LAYERS, device_memory_bytes=MIB, devices=2, global_batch_size=64),
        "all_reduce_bytes": dict(elements=4, devices=2),
        "pipeline_idle_share": dict(stages=2, micro_batches=2),
        "amdahl": dict(serial_share=0.5, devices=2),
        "gustafson": dict(serial_share=0.5, devices=2),
        "LayerCost": dict(name="x", parameters=1, outputs=1, flops=1),
    }[function]
    return getattr(planner, function)(**(arguments | changes))


EVERY = ("memory", "wire_bytes", "step_time", "recommend")
NOT_COUNTS = [0, -1, 2.0, True, math.nan, math.inf, "2", None]
NOT_RATES = [0, -1.0, True, math.nan, math.inf, "fast", None]
NONSENSE = [
    *((f, "devices", v) for f in (*EVERY, "all_reduce_bytes", "amdahl", "gustafson") for v in NOT_COUNTS),
    *((f, "global_batch_size", v) for f in EVERY for v in NOT_COUNTS),
    *((f, "bytes_per_value", v) for f in (*EVERY, "all_reduce_bytes") for v in (0, -4, 4.0, True)),
    *((f, "layers", v) for f in EVERY for v in ([], None, "conv", [1], [LAYERS[0], None])),
    *((f, "strategy", v) for f in EVERY[:3] for v in ("mirrored", "Data parallel", None, 2, ["one device"])),
    *((f, "optimizer", v) for f in ("memory", "recommend") for v in ("rmsprop", None, 2)),
    *((f, "algorithm", v) for f in ("wire_bytes", "all_reduce_bytes") for v in ("tree", None)),
    *(("all_reduce_bytes", "elements", v) for v in NOT_COUNTS if v != 0),
    *(("step_time", name, v) for name in ("flops_per_second", "bandwidth") for v in NOT_RATES),
    *(("step_time", "latency", v) for v in NOT_RATES if v != 0),
    *(("recommend", "device_memory_bytes", v) for v in NOT_RATES),
    *(("pipeline_idle_share", name, v) for name in ("stages", "micro_batches") for v in NOT_COUNTS),
    *((f, "serial_share", v) for f in ("amdahl", "gustafson") for v in (-0.1, 1.1, math.nan, True, "0.5")),
    *(("LayerCost", name, v) for name in ("parameters", "outputs", "flops") for v in NOT_COUNTS if v != 0),
]


@pytest.mark.parametrize("function, name, value", NONSENSE)
def test_nonsense_is_refused(function, name, value):
    with pytest.raises(ValueError) as error:
        call(function, **{name: value})
    text = str(error.value)
    assert text.startswith(name) and repr(value) in text and "must be" in text
