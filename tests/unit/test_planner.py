"""course_planner by hand-computed cases, measured bytes and a ring that runs."""

import dataclasses
import math
import re
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest

import course_planner as planner
from course_planner import LayerCost, Memory, Plan

ROOT = Path(__file__).resolve().parents[2]
CONV = 3 * 3 * 1 * 32 + 32  # 320
HIDDEN = 13 * 13 * 32 * 128 + 128  # 692,352
LOGITS = 128 * 10 + 10  # 1,290
ALL = CONV + HIDDEN + LOGITS  # 693,962
OUTPUTS = (
    26 * 26 * 32 + 13 * 13 * 32 + 5408 + 128 + 10
)  # 21,632 + 5,408 + 5,408 + 128 + 10 = 32,586
LAYERS = [
    LayerCost("conv", CONV, 26 * 26 * 32, 2 * 26 * 26 * 32 * 9),
    LayerCost("pool", 0, 13 * 13 * 32, 0),
    LayerCost("flatten", 0, 5408, 0),
    LayerCost("hidden", HIDDEN, 128, 2 * 5408 * 128),
    LayerCost("logits", LOGITS, 10, 2 * 128 * 10),
]
SEEN = [  # as in the model
    dataclasses.replace(LAYERS[0], units=32),
    dataclasses.replace(LAYERS[1], kind="elementwise"),
    dataclasses.replace(LAYERS[2], kind="view", kept=0),
    dataclasses.replace(LAYERS[3], units=128),
    dataclasses.replace(LAYERS[4], units=10),
]
FLOPS = 389_376 + 1_384_448 + 2_560  # 1,776,384
SPEED = {"flops_per_second": 1e9, "bandwidth": 1e8, "latency": 1e-3}


@pytest.fixture(scope="module")
def model():
    from course_utils.model import build_model

    return build_model(seed=0)


# The model, counted and measured


def test_layer_costs_of_the_course_model(model):
    assert planner.layer_costs(model) == SEEN
    assert (693_962, 32_586, sum(layer.flops for layer in LAYERS)) == (
        ALL,
        OUTPUTS,
        FLOPS,
    )


def test_layer_costs_of_strides_positions_and_frozen_layers():
    import keras

    small = keras.Sequential(
        [
            keras.Input((9, 8, 4)),
            keras.layers.Conv2D(
                6,
                (3, 2),
                strides=2,
                padding="valid",
                groups=2,
                use_bias=False,
                name="grouped",
            ),
            keras.layers.Dense(5, name="per_position"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(7, name="frozen", trainable=False),
        ]
    )
    assert planner.layer_costs(small) == [
        LayerCost(
            "grouped", 3 * 2 * 2 * 6, 4 * 4 * 6, 2 * (4 * 4 * 6) * (3 * 2 * 2), units=6
        ),
        LayerCost("per_position", 6 * 5 + 5, 4 * 4 * 5, 2 * (4 * 4) * 6 * 5, units=5),
        # gamma and beta; moving averages; the gradient of a frozen Dense reads its
        # kernel alone
        LayerCost("norm", 5 + 5, 4 * 4 * 5, 0, "elementwise", frozen=5 + 5, kept=0),
        LayerCost(
            "frozen",
            0,
            4 * 4 * 7,
            2 * (4 * 4) * 5 * 7,
            frozen=5 * 7 + 7,
            units=7,
            passes=2,
        ),
    ]
    held = planner.memory(planner.layer_costs(small), "one device", 1, 1)[0]
    assert held.weights == 4 * small.count_params(), "not trained, and there"
    assert held.optimizer == 2 * held.gradients == 8 * (72 + 35 + 10)
    assert (
        sum(
            one.weights
            for one in planner.memory(planner.layer_costs(small), "ZeRO-3", 3, 3)
        )
        == held.weights
    )


def test_a_frozen_trunk_does_not_fit():
    """114 MiB on a device of 64 MiB; it has neither gradients nor states."""
    trunk = [
        LayerCost("trunk", 0, 100, 10**9, frozen=30_000_000),
        LayerCost("head", 1000, 10, 2000),
    ]
    advice = planner.recommend(
        trunk, planner.Machine(1, 1, 64 * 2**20, 1e12, 1e9, 1e9), 8
    )
    assert advice.devices is None
    assert (
        planner.recommend(
            trunk, planner.Machine(1, 1, 130 * 2**20, 1e12, 1e9, 1e9), 8
        ).devices
        == 1
    )


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
        v.numpy().nbytes
        for v in optimizer.variables
        if v.path.split("/")[-1] not in ("iteration", "learning_rate")
    )
    held = planner.memory(
        planner.layer_costs(model), "one device", 1, 64, optimizer=name
    )[0]
    assert (held.weights, held.optimizer) == (weights, slots)
    assert (
        weights == 4 * 693_962
        and slots == {"sgd": 0, "momentum": 1, "adam": 2}[name] * weights
    )


def test_activations_equal_the_measured_bytes(model):
    import keras

    every = keras.Model(model.inputs, [layer.output for layer in model.layers])
    found = dict(zip(SEEN, every([np.zeros((6, 28, 28, 1), "float32")]), strict=True))
    measured = sum(
        np.asarray(a).nbytes for layer, a in found.items() if layer.name != "flatten"
    )  # it is pool's
    assert (
        planner.memory(SEEN, "one device", 1, 6)[0].activations
        == measured
        == 6 * (32_586 - 5_408) * 4
    )


# Bytes per device


def bytes_of(parameters, activations, slots=2, size=4):
    return Memory(
        size * parameters,
        size * parameters,
        slots * size * parameters,
        size * activations,
    )


@pytest.mark.parametrize(
    "parallelism, devices, cuts, expected",
    [
        ("one device", 1, None, [(ALL, 64 * OUTPUTS)]),
        ("one device", 3, None, [(ALL, 64 * OUTPUTS), (0, 0), (0, 0)]),
        ("data parallel", 4, None, [(ALL, 16 * OUTPUTS)] * 4),
        # the largest count must be least: 692,672 | 1,290 rather than 320 | 693,642
        (
            "pipeline parallel",
            2,
            None,
            [(CONV + HIDDEN, 64 * (OUTPUTS - 10)), (LOGITS, 64 * (128 + 10))],
        ),
        (
            "pipeline parallel",
            2,
            [3],
            [
                (CONV, 64 * (21632 + 5408 + 5408)),
                (HIDDEN + LOGITS, 64 * (5408 + 128 + 10)),
            ],
        ),
        (
            "pipeline parallel",
            3,
            (1, 3),
            [
                (CONV, 64 * 21632),
                (0, 64 * (21632 + 5408 + 5408)),
                (HIDDEN + LOGITS, 64 * (5408 + 128 + 10)),
            ],
        ),
        ("pipeline parallel", 1, None, [(ALL, 64 * OUTPUTS)]),
        # conv, pool, flatten by columns: split; hidden by rows: whole; logits by
        # columns: split
        (
            "tensor parallel",
            2,
            None,
            [(160 + 346_176 + 645, 64 * (10816 + 2704 + 2704 + 128 + 5))] * 2,
        ),
        # 320 = 107 + 107 + 106, 692,352 = 3 x 230,784, 1,290 = 3 x 430;
        # outputs 21,632 = 7,211 + 7,211 + 7,210, 5,408 = 1,803 + 1,803 + 1,802,
        # 10 = 4 + 3 + 3
        (
            "tensor parallel",
            3,
            None,
            [
                (107 + 230_784 + 430, 64 * (7211 + 1803 + 1803 + 128 + 4)),
                (107 + 230_784 + 430, 64 * (7211 + 1803 + 1803 + 128 + 3)),
                (106 + 230_784 + 430, 64 * (7210 + 1802 + 1802 + 128 + 3)),
            ],
        ),
        ("tensor parallel", 1, None, [(ALL, 64 * OUTPUTS)]),
    ],
)
def test_memory_by_hand(parallelism, devices, cuts, expected):
    held = planner.memory(LAYERS, parallelism, devices, 64, cuts=cuts)
    assert held == [bytes_of(*pair) for pair in expected]
    assert (
        held[0].total
        == held[0].weights + held[0].gradients + held[0].optimizer + held[0].activations
    )


@pytest.mark.parametrize("devices", [1, 2, 3, 4, 5, 6, 7])
def test_default_cut_is_the_best_of_all_cuts(devices):
    sizes = [5, 0, 9, 2, 2, 7, 4]

    def largest(cuts):
        edges = [0, *cuts, len(sizes)]
        return max(sum(sizes[a:b]) for a, b in pairwise(edges))

    layers = [LayerCost(str(i), size, 1, 1) for i, size in enumerate(sizes)]
    weights = [
        m.weights // 4 for m in planner.memory(layers, "pipeline parallel", devices, 1)
    ]
    assert len(weights) == devices and sum(weights) == sum(sizes)
    assert max(weights) == min(
        map(largest, combinations(range(1, len(sizes)), devices - 1))
    )


# Bytes on the wire


def halves(flat, record):
    """Reduce-scatter, then all-gather, on one array a device.

    What each owns in between, and what each ends with.
    """
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
                there[chosen[d]] = (
                    there[chosen[d]] + arriving[d] if half == "reduce" else arriving[d]
                )
        owned = owned or [chunks[d][(d + 1) % n].copy() for d in range(n)]
    return owned, [np.concatenate(each) for each in chunks]


@pytest.mark.parametrize(
    "algorithm, elements, devices, expected",
    [
        ("ring", 8, 4, [48] * 4),  # 2 x 3/4 x 32 bytes
        (
            "ring",
            10,
            4,
            [60, 64, 60, 56],
        ),  # chunks 3, 3, 2, 2: 2 x 40 less 4 x (3 + 2, 2 + 2, 2 + 3, 3 + 3)
        ("gather", 10, 4, [120, 40, 40, 40]),  # the root sends the sum three times
        ("gather", 10, 1, [0]),
        ("ring", 10, 1, [0]),
    ],
)
def test_all_reduce_bytes_by_hand(algorithm, elements, devices, expected):
    sent = planner.all_reduce_bytes(elements, devices, algorithm)
    assert sent == expected and all(type(x) is int for x in sent)
    assert planner.all_reduce_bytes(elements, devices, algorithm, 2) == [
        x // 2 for x in expected
    ]


@pytest.mark.parametrize(
    "parallelism, devices, options, expected",
    [
        ("one device", 3, {}, [0, 0, 0]),
        ("data parallel", 2, {}, [4 * ALL] * 2),  # 2 x 1/2 x S
        ("data parallel", 4, {"algorithm": "gather"}, [3 * 4 * ALL] + [4 * ALL] * 3),
        ("data parallel", 2, {"precision": "mixed, master copies"}, [2 * ALL] * 2),
        (
            "pipeline parallel",
            2,
            {"cuts": [3]},
            [64 * 5408 * 4] * 2,
        ),  # 1.32 MiB each way
        (
            "pipeline parallel",
            3,
            {"cuts": [1, 3]},
            [64 * 21632 * 4, 64 * (21632 + 5408) * 4, 64 * 5408 * 4],
        ),
        # all-reduce of hidden's output (64 x 128 = 8,192) and of its gradient,
        # 8,192 x 4 bytes each on 2 devices; all-gather of the 640 logits: half of them
        ("tensor parallel", 2, {}, [2 * 8192 * 4 + 320 * 4] * 2),
        # 640 = 214 + 213 + 213; 8,192 = 2,731 + 2,731 + 2,730
        (
            "tensor parallel",
            3,
            {},
            [
                4 * (2 * (2 * 8192 - 2731 - 2730) + 640 - 213),
                4 * (2 * (2 * 8192 - 2730 - 2731) + 640 - 213),
                4 * (2 * (2 * 8192 - 2731 - 2731) + 640 - 214),
            ],
        ),
        ("tensor parallel", 1, {}, [0]),
    ],
)
def test_communication_volume_by_hand(parallelism, devices, options, expected):
    assert (
        planner.communication_volume(LAYERS, parallelism, devices, 64, **options)
        == expected
    )


@pytest.mark.parametrize(
    "matrices, sums, gathered",
    [
        ("c", 0, 7),
        ("cr", 1, 0),
        ("crc", 2, 7),
        ("crcr", 3, 0),  # four matrices of a block: Megatron's f and g
    ],
)
def test_tensor_parallel_needs_one_sum_per_pair_and_direction(matrices, sums, gathered):
    layers = [LayerCost(str(i), 49, 7, 98) for i, _ in enumerate(matrices)]
    sent = planner.communication_volume(
        layers, "tensor parallel", 7, 1
    )  # sum: 2 x 6/7 x 28 bytes; gather: half
    assert sent == [sums * 48 + (gathered > 0) * 24] * 7


# Seconds


@pytest.mark.parametrize(
    "parallelism, devices, options, compute, communication",
    [
        ("one device", 1, {}, 3 * FLOPS * 64 / 1e9, 0),
        ("data parallel", 1, {}, 3 * FLOPS * 64 / 1e9, 0),
        (
            "data parallel",
            4,
            {},
            3 * FLOPS * 16 / 1e9,
            6e-3 + 1.5 * 4 * ALL / 1e8,
        ),  # 2 x 3 messages, 2 x 3/4 x S
        (
            "pipeline parallel",
            2,
            {"cuts": [3]},
            3 * FLOPS * 64 / 1e9,
            2 * (1e-3 + 64 * 5408 * 4 / 1e8),
        ),
        (
            "tensor parallel",
            4,
            {},
            3 * FLOPS * 16 / 1e9,
            15e-3 + (2 * 1.5 * 8192 * 4 + 0.75 * 640 * 4) / 1e8,
        ),
    ],
)
def test_step_time_by_hand(parallelism, devices, options, compute, communication):
    step = planner.step_time(LAYERS, parallelism, devices, 64, **SPEED, **options)
    assert (step.compute, step.communication) == pytest.approx(
        (compute, communication), rel=1e-12
    )
    assert step.total == step.compute + step.communication
    assert step.communication_share == pytest.approx(
        communication / (compute + communication)
    )


# ZeRO: the ring cut in half, on a ring that really runs


def test_zero_takes_the_time_of_its_halves():
    times = {
        s: planner.step_time(LAYERS, s, 4, 64, **SPEED)
        for s in ("data parallel", *planner.ZERO)
    }
    assert times["ZeRO-1"] == times["ZeRO-2"] == times["data parallel"]
    assert times["ZeRO-3"].communication == pytest.approx(
        1.5 * times["data parallel"].communication
    )
    with pytest.raises(ValueError, match=r"^algorithm='gather': must be 'ring'"):
        planner.communication_volume(LAYERS, "ZeRO-2", 4, 64, "gather")


# Kinds of layers


def test_a_tensor_parallel_leaves_normalization_with_its_features():
    wide = [
        LayerCost("dense", 16 * 16, 16, 1),
        LayerCost("norm", 32, 16, 0, "elementwise"),
        LayerCost("out", 16 * 4, 4, 1),
    ]
    (held, _), narrow = (
        planner.memory(wide, "tensor parallel", 2, 1),
        [wide[0], wide[2]],
    )
    assert held.weights == 4 * (128 + 16 + 32)
    assert (
        planner.communication_volume(wide, "tensor parallel", 2, 1)
        == planner.communication_volume(narrow, "tensor parallel", 2, 1)
        == [16, 16]
    )
    after = [
        wide[0],
        wide[2],
        LayerCost("norm", 8, 4, 0, "elementwise"),
    ]  # where the output is whole, it is whole
    assert planner.memory(after, "tensor parallel", 2, 1)[1].weights == 4 * (
        128 + 32 + 8
    )


def test_a_layer_may_keep_more_than_it_puts_out():
    block = planner.LayerCost("block", 12, 10, 100, kept=160)
    held = planner.memory([block, block], "pipeline parallel", 2, 3)
    assert [each.activations for each in held] == [3 * 4 * 160, 3 * 4 * (160 + 10)]
    assert (
        planner.communication_volume([block, block], "pipeline parallel", 2, 3)
        == [3 * 4 * 10] * 2
    )
    with pytest.raises(ValueError, match="kept of layer 'block'=-1"):
        planner.LayerCost("block", 12, 10, 100, kept=-1)


def test_checkpointed_keeps_the_last_output_of_each_segment_and_computes_once_more():
    blocks = [planner.LayerCost(f"block {i}", 12, 10, 99, kept=160) for i in range(5)]
    two = planner.checkpointed(blocks, 2)
    assert [(one.name, one.parameters, one.kept) for one in two] == [
        (f"block {i}", 12, 10 * (i in (2, 4))) for i in range(5)
    ]
    each = planner.checkpointed(blocks, 5)
    assert [(one.name, one.kept, one.passes) for one in each] == [
        (f"block {i}", 10, 4) for i in range(5)
    ]
    rates = {"flops_per_second": 1e3, "bandwidth": 1e3, "latency": 0}
    plain, again = (
        planner.step_time(costs, "one device", 1, 6, **rates).compute
        for costs in (blocks, each)
    )
    assert (plain, again) == (3 * 5 * 99 * 6 / 1e3, 4 * 5 * 99 * 6 / 1e3)
    peak = (
        10 + 10 + (3 * 160 - 10)
    )  # two outputs are kept, and the larger segment is there once more
    assert [
        planner.memory(costs, "one device", 1, 6)[0].activations
        for costs in (blocks, two)
    ] == [19200, 24 * peak]
    for segments in (0, 6, 1.5):
        with pytest.raises(
            ValueError, match=f"segments={segments}: must be a whole number from 1 to 5"
        ):
            planner.checkpointed(blocks, segments)


def test_a_transformer_sends_what_megatron_says():
    """Four all-reduces of the activations in each block.

    Two are forward and two backward.
    """
    blocks, width, tokens, texts, devices = 24, 2048, 2048, 16, 8
    layers = planner.transformer(blocks, width)
    sent = planner.communication_volume(layers, "tensor parallel", devices, texts)[0]
    expected = 4 * blocks * 2 * (devices - 1) / devices * tokens * width * texts * 4
    assert sent == pytest.approx(
        expected, rel=1 / (4 * blocks)
    )  # the first layer needs no gradient of its input
    assert sum(layer.parameters for layer in layers) == 12 * blocks * width**2
    matrices, pairs = 24 * blocks * tokens * width**2, 4 * blocks * tokens**2 * width
    assert sum(layer.flops for layer in layers) == matrices + pairs
    assert sum(layer.kept for layer in layers) == 16 * blocks * tokens * width
    assert planner.Plan(layers, texts, tensor=devices).cuts_evenly()
    assert not planner.Plan(layers, texts, tensor=3).cuts_evenly()


def test_buckets_lose_on_many_devices():
    """On a ring at 1,024 devices, and on pipelined trees from 256 on.

    Sanders, Speck and Träff, 2009.
    """
    resnet = [LayerCost("ResNet-50", 25_600_000, 0, 8_200_000_000)]
    rates = {"flops_per_second": 50e12, "bandwidth": 12.5e9, "latency": 10e-6}

    def milliseconds(devices, algorithm):
        step = planner.step_time(
            resnet, "data parallel", devices, 4096, **rates, algorithm=algorithm
        )
        return [
            round(1000 * seconds, 1) for seconds in (step.total, step.overlapped(4))
        ]

    assert milliseconds(256, "tree") == [29.2, 30.8] and milliseconds(1024, "tree") == [
        23.9,
        29.2,
    ]
    (ring_128, in_four_128), (ring, in_four) = (
        milliseconds(n, "ring") for n in (128, 1024)
    )
    assert in_four_128 < ring_128 and in_four > 2 * ring
    tree = planner.step_time(
        resnet, "data parallel", 1024, 4096, **rates, algorithm="tree"
    )
    size, latency = (
        102.4e6 / 12.5e9,
        10e-6,
    )  # a broadcast by the paper's section 4, twice: down, and up
    paper = size + 2 * latency * 10 + math.sqrt(8 * latency * size * 10)
    assert tree.communication == pytest.approx(2 * paper)
    assert planner.all_reduce_bytes(10, 1024, "tree") == [
        80
    ] * 1024 and planner.all_reduce_bytes(10, 1, "tree") == [0]


# Other models, and the papers' numbers


PAPERS = {
    "VGG16": 15.5,
    "ResNet50": 3.86,
    "MobileNetV2": 0.300,
    "EfficientNetB0": 0.39,
    "ConvNeXtTiny": 4.5,
}


@pytest.mark.parametrize("name", PAPERS)
def test_billions_of_multiply_adds_as_the_papers_say(name):
    import keras

    model = getattr(keras.applications, name)(weights=None)
    layers = planner.layer_costs(model)
    assert sum(layer.flops for layer in layers) / 2e9 == pytest.approx(
        PAPERS[name], rel=0.05
    )
    assert sum(layer.parameters for layer in layers) == sum(
        math.prod(w.shape) for w in model.trainable_weights
    )
    plain = name == "VGG16"
    if not plain:
        with pytest.raises(
            ValueError,
            match=(
                r"^layers: pipeline parallel needs a chain, "
                r"and '\w+' takes more than the"
            ),
        ):
            planner.memory(layers, "pipeline parallel", 2, 8)
    assert planner.memory(layers, "ZeRO-3", 2, 8)[0].weights == pytest.approx(
        2 * model.count_params(), abs=8
    )


# Narayanan et al., 2021 (Megatron-LM on clusters of GPUs), table 1: billions of
# weights, width, blocks, tensor and pipeline sizes, GPUs, batch, TFLOP/s for each GPU.
# 2,048 tokens, 51,200 words, A100 of 80 GB.
MEGATRON = [
    (1.7, 2304, 24, 1, 1, 32, 512, 137),
    (3.6, 3072, 30, 2, 1, 64, 512, 138),
    (7.5, 4096, 36, 4, 1, 128, 512, 142),
    (18.4, 6144, 40, 8, 1, 256, 1024, 135),
    (39.1, 8192, 48, 8, 2, 512, 1536, 138),
    (76.1, 10240, 60, 8, 4, 1024, 1792, 140),
    (145.6, 12288, 80, 8, 8, 1536, 2304, 148),
    (310.1, 16384, 96, 8, 16, 1920, 2160, 155),
    (529.6, 20480, 105, 8, 35, 2520, 2520, 163),
    (1008.0, 25600, 128, 8, 64, 3072, 3072, 163),
]


def megatron(width, blocks, tensor, pipeline, devices, batch):
    """Micro-batches of one text; activations are computed again."""
    data = devices // (tensor * pipeline)
    return Plan(
        planner.transformer(blocks, width, vocabulary=51_200, recomputed=True),
        batch,
        data=data,
        tensor=tensor,
        pipeline=pipeline,
        micro_batches=batch // data,
        precision="mixed, master copies",
    )


@pytest.mark.parametrize("row", MEGATRON, ids=lambda row: f"{row[0]} billion")
def test_what_megatron_trained_fits_and_has_its_flops(row):
    billions, width, blocks, *sizes, rate = row
    plan = megatron(width, blocks, *sizes)
    weights = (
        sum(layer.parameters for layer in plan.layers) - 51_200 * width
    )  # theirs share one matrix of words
    assert weights == pytest.approx(1e9 * billions, rel=0.01, abs=0.06e9)
    held = plan.largest_memory().total
    assert held <= 80e9, f"{held / 1e9:.1f} GB"
    batch, tokens, words = sizes[-1], 2048, 51_200  # their formula (3)
    share = 1 + tokens / (6 * width) + words / (16 * blocks * width)
    flops = batch * sum(layer.passes * layer.flops for layer in plan.layers)
    assert flops == pytest.approx(
        96 * batch * tokens * blocks * width**2 * share, rel=0.05
    )
    step = plan.step_time(planner.Rates(1e12 * rate, 1e30, 0))
    balanced = flops / (1e12 * rate) / plan.devices
    assert step.compute - step.bubble == pytest.approx(balanced)
    bubble = planner.bubble_fraction(plan.pipeline, plan.micro_batches)
    assert step.bubble / step.compute >= bubble - 1e-9


@pytest.mark.parametrize(
    "row, devices, batch, rate, billions_of_tokens, days",
    [
        ((12288, 96, 8, 8), 1024, 1536, 140, 300, 34),  # GPT-3
        ((25600, 128, 8, 64), 3072, 3072, 163, 450, 84),
    ],
)
def test_megatrons_own_durations(row, devices, batch, rate, billions_of_tokens, days):
    """By their achieved rate, which has bubbles and sending in it."""
    plan = megatron(*row, devices, batch)
    step = plan.step_time(planner.Rates(1e12 * rate, 1e30, 0))
    steps = 1e9 * billions_of_tokens / (2048 * batch)
    assert steps * (step.compute - step.bubble) / 86_400 == pytest.approx(days, rel=0.1)


def test_a_plan_of_three_kinds_by_hand():
    """Eight blocks of two matrices, on 2 replicas x 2 parts x 2 stages.

    With ZeRO-1, and four micro-batches of one example.
    """
    block = [
        LayerCost("up", 400, 40, 800, kept=50),
        LayerCost("down", 400, 10, 800, kept=20),
    ]
    plan = Plan(block * 8, 8, data=2, tensor=2, pipeline=2, zero=1, micro_batches=4)
    own = 4 * 2 * 400 // 2  # weights: four blocks, half of each matrix
    first, last = plan.memory_on(0), plan.memory_on(2)
    assert len(plan.memory()) == 8 and plan.largest_memory() == first
    assert first == Memory(
        4 * own, 4 * own, 8 * own // 2, 4 * 2 * 4 * (25 + 20)
    )  # two micro-batches in flight
    assert last == Memory(
        4 * own, 4 * own, 8 * own // 2, 4 * (10 + 4 * (25 + 20))
    )  # one, and what it received
    gradients = 4 * own  # both halves of a ring of two: half of them each
    sums = [
        4 + 3,
        4 + 4,
    ]  # a forward one in each block, and a backward one but in the first
    inside = [
        4 * 4 * 10 * each for each in sums
    ]  # four micro-batches, 10 values of 4 bytes, once around two
    assert plan.bytes_sent()[0] == gradients + inside[0] + 4 * 4 * 10
    assert plan.bytes_sent()[2] == gradients + inside[1] + 4 * 4 * 10
    rates = planner.Rates(
        100, 10, 2, bandwidth_inside_layers=1000, bandwidth_between_stages=20
    )
    step = plan.step_time(rates)
    slot = 3 * 4 * 1600 / 2 / 100  # of a micro-batch at a stage
    assert step.compute == pytest.approx(
        (4 + 2 - 1) * slot
    ) and step.bubble == pytest.approx(slot)
    cut, data = 2 * (4 + 2 - 2) * 2, 2 * 2
    assert step.latency == pytest.approx(cut + data + 2 * 2 * (7 + 8 + 3 * 8))
    across = 2 * (4 + 2 - 2) * 40 / 20
    assert step.transfer == pytest.approx(
        across + gradients / 10 + 40 * (7 + 8 + 3 * 8) / 1000
    )


def test_micro_batches_need_no_accumulator_and_send_once():
    whole, parts = (Plan(LAYERS, 8, data=2, micro_batches=n) for n in (1, 4))
    assert parts.memory()[0].activations == whole.memory()[0].activations // 4
    assert (
        parts.memory()[0].accumulator == 0 and parts.bytes_sent() == whole.bytes_sent()
    )
    one, four = (
        Plan(LAYERS, 8, data=2, zero=3, micro_batches=n).bytes_sent()[0] for n in (1, 4)
    )
    assert four == 4 * one, "gathered, and its gradients scattered, for each"
    with pytest.raises(
        ValueError,
        match=r"multiple of devices \(2\) x micro_batches \(3\): 12 would do",
    ):
        Plan(LAYERS, 8, data=2, micro_batches=3)
    with pytest.raises(
        ValueError, match=r"^zero=4: must be a whole number from 0 to 3"
    ):
        Plan(LAYERS, 8, zero=4)


def test_figure_1_of_the_zero_paper():
    """7.5 billion weights, 64 devices, Adam: gigabytes without activations.

    In 16-bit numbers with master copies.
    """
    model = [LayerCost("7.5 billion", 7_500_000_000, 0, 1)]
    held = {}
    for parallelism in ("data parallel", *planner.ZERO):
        one = planner.memory(
            model, parallelism, 64, 64, precision="mixed, master copies"
        )[0]
        held[parallelism] = one.total / 1e9
    assert held == pytest.approx(
        {"data parallel": 120, "ZeRO-1": 31.4, "ZeRO-2": 16.6, "ZeRO-3": 1.9}, rel=0.014
    )


@pytest.mark.parametrize(
    "precision, sizes",
    [
        ("float32", (4, 4, 8, 4)),
        ("mixed_bfloat16", (4, 4, 8, 2)),
        ("mixed, master copies", (2, 2, 12, 2)),
    ],
)
def test_bytes_of_each_precision(precision, sizes):
    layer = LayerCost("one", 1000, 10, 1)
    weights, gradients, states, activation = sizes
    held = planner.memory([layer], "one device", 1, 7, precision=precision)[0]
    assert held == Memory(
        1000 * weights, 1000 * gradients, 1000 * states, 70 * activation
    )


def transformer(blocks=2, width=16, heads=2, words=50):
    import keras
    from keras import layers as L

    inputs = keras.Input((None,), dtype="int32")
    x = L.Embedding(words, width)(inputs)
    for _ in range(blocks):
        normal = L.LayerNormalization()(x)
        x = x + L.MultiHeadAttention(heads, width // heads)(normal, normal)
        x = L.Add()(
            [x, L.Dense(width)(L.Dense(4 * width, "gelu")(L.LayerNormalization()(x)))]
        )
    return keras.Model(inputs, x)


def test_an_ordinary_transformer_gets_megatrons_cut():
    """Four all-reduces of the activations in each block, but for the first.

    That one is after the embedding's weights.
    """
    blocks, width, tokens, batch, devices = 3, 16, 12, 8, 4
    layers = planner.layer_costs(transformer(blocks, width), (tokens,))
    sent = planner.communication_volume(layers, "tensor parallel", devices, batch)
    assert (
        sent
        == [4 * blocks * 2 * (devices - 1) * tokens * width * batch * 4 // devices]
        * devices
    )
    flops = sum(layer.flops for layer in layers)
    assert flops == blocks * (
        2 * 12 * width**2 * tokens + 4 * tokens**2 * width
    )  # projections, MLP; the two products
    held = planner.memory(layers, "tensor parallel", devices, batch)[0].weights
    whole = (
        50 * width + blocks * 4 * width
    )  # the embedding and the norms, on each device
    split = blocks * (12 * width**2 + 9 * width)
    assert held == pytest.approx(4 * (whole + split / devices), abs=4 * 4 * blocks)
    with pytest.raises(
        ValueError,
        match=r"^input_shape=None: must name every size .* which are \[\(None,\)\]",
    ):
        planner.layer_costs(transformer())


def test_layers_of_every_kind():
    import keras
    from keras import layers as L

    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            L.SeparableConv2D(6, 3, use_bias=False, name="separable"),
            L.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False, name="depthwise"),
            L.Conv2DTranspose(4, 2, strides=2, use_bias=False, name="transpose"),
            L.Reshape((16, 16), name="reshape"),
            L.Bidirectional(L.LSTM(5, return_sequences=True)),
            L.EinsumDense("abc,cd->abd", (None, 7), name="einsum"),
            L.TimeDistributed(L.Dense(3, use_bias=False), name="times"),
            L.GRU(2, name="gru"),
        ]
    )
    flops = {layer.name: layer.flops for layer in planner.layer_costs(model)}
    assert flops == {
        "separable": 2 * 36 * (3 * 3 * 3 + 3 * 6),
        "depthwise": 2 * 16 * 3 * 3 * 12,
        "transpose": 2 * 16 * 12 * 2 * 2 * 4,
        "reshape": 0,
        "forward_lstm": 2 * 16 * 4 * 5 * (16 + 5),
        "backward_lstm": 2 * 16 * 4 * 5 * (16 + 5),
        "einsum": 2 * 16 * 10 * 7,
        "times": 2 * 16 * 7 * 3,
        "gru": 2 * 16 * 3 * 2 * (3 + 2),
    }


def test_graphs_of_every_kind():
    import keras
    from keras import layers as L

    class Own(L.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(shape[-1],))

        def call(self, x):
            return x * self.scale

    class Subclass(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = L.Dense(4), L.Dense(2)

        def call(self, x):
            return self.second(self.first(x))

    one, two, shared = keras.Input((4,)), keras.Input((4,)), L.Dense(4)
    nested = keras.Sequential([keras.Input((4,)), L.Dense(4), L.Dense(4)])
    both = shared(one) + shared(nested(two))
    model = keras.Model([one, two], [Own(name="own")(both), L.Dense(3)(both)])
    layers = planner.layer_costs(model)
    assert (
        sum(layer.parameters for layer in layers)
        == sum(math.prod(w.shape) for w in model.trainable_weights)
        == 79
    )
    assert sum(layer.flops for layer in layers) == 2 * (
        4 * 16 + 12
    )  # shared computes twice; own multiplies no matrix
    assert not [layer.name for layer in layers if layer.guess]
    layers[0] = dataclasses.replace(layers[0], name="own", guess=True)
    said = planner.recommend(layers, planner.MACHINES["4 x T4"], 8)
    assert "own: their FLOPs are guessed" in str(said).replace("\n  ", " ")
    called = Subclass()
    with pytest.raises(ValueError, match="must be a built Keras model"):
        planner.layer_costs(called)
    called(np.zeros((2, 3)))
    assert [
        (layer.parameters, layer.flops) for layer in planner.layer_costs(called)
    ] == [(16, 24), (10, 16)]
    for layer in called.layers:
        assert layer.__class__.__call__ is keras.layers.Layer.__call__, "as before"


def stacks():
    """Common sequences of layers, and how far from the graph the count may be."""
    import keras
    from keras import layers as L

    class Residual(L.Layer):
        def build(self, shape):
            self.convolution = L.Conv2D(shape[-1], 3, padding="same")
            self.convolution.build(shape)

        def call(self, x):
            return x + keras.ops.relu(self.convolution(x))

    head, image = [L.Flatten(), L.Dense(4)], (8, 8, 3)
    dense = {
        name: ([L.Dense(32, name), L.Dense(4)], (16,), 0)
        for name in ("linear", "relu", "tanh", "elu", "swish")
    }
    return dense | {
        "dropout": ([L.Dense(32), L.Dropout(0.5), L.Dense(4)], (16,), 0),
        "normalized": (
            [L.Dense(32), L.LayerNormalization(), L.Dense(4)],
            (16,),
            0.36,
        ),  # TensorFlow keeps x - mean, too
        "largest": ([L.Conv2D(8, 3), L.MaxPooling2D(), *head], image, 0),
        "average": ([L.Conv2D(8, 3), L.AveragePooling2D(2), *head], image, 0),
        "of all": ([L.Conv2D(8, 3), L.GlobalAveragePooling2D(), L.Dense(4)], image, 0),
        "padded": (
            [L.Conv2D(8, 3), L.ZeroPadding2D(), L.Conv2D(4, 3), *head],
            image,
            0,
        ),
        "softmax": ([L.Dense(32), L.Dense(10), L.Softmax(), L.Dense(4)], (16,), 0),
        "separable": (
            [
                L.SeparableConv2D(8, 3, activation="relu"),
                L.SeparableConv2D(8, 3),
                *head,
            ],
            image,
            0,
        ),
        "stacked": ([L.RNN([L.LSTMCell(32), L.LSTMCell(4)]), L.Dense(4)], (12, 5), 0.1),
        "lstm": ([L.LSTM(8), L.Dense(4)], (12, 5), 0.05),
        "gru": ([L.GRU(8), L.Dense(4)], (12, 5), 0.05),
        "attention": ([L.Dense(16), Attends(), L.Dense(4)], (12, 16), 0.1),
        "frozen first": (
            [L.Dense(32, trainable=False), L.Dense(8), L.Dense(4)],
            (16,),
            0,
        ),
        # the graph has the gradient of the frozen kernel, which nothing runs
        "frozen between": (
            [L.Dense(8), L.Dense(32, trainable=False), L.Dense(4)],
            (16,),
            0.21,
        ),
        "own": (
            [L.Conv2D(8, 3, padding="same"), Residual(), Residual(), *head],
            image,
            0.25,
        ),
    }


def Attends():
    import keras

    class SelfAttention(keras.layers.Layer):
        def build(self, shape):
            self.attention = keras.layers.MultiHeadAttention(2, 8)
            self.attention.build(shape, shape)

        def call(self, x):
            return self.attention(x, x)

    return SelfAttention()


@pytest.mark.parametrize("name", range(20))
def test_what_is_kept_is_what_tensorflows_graph_keeps(name):
    import keras

    name, (stack, shape, tolerance) = list(stacks().items())[name]
    model = keras.Sequential([keras.Input(shape), *stack])
    layers = planner.layer_costs(model)
    counted = (
        sum(layer.kept for layer in layers) - layers[-1].kept
    )  # but for what the loss reads
    assert counted == pytest.approx(
        planner.measured_activations(model, 3) / 4 / 3, rel=tolerance, abs=0
    ), name


def layers_of_their_own():
    """Attention by hand and in a loop, a cell, a model.

    Each is (layer, input shape, FLOPs or None for a guess).
    """
    import keras
    from keras import layers as L

    class ByHand(L.Layer):
        """One head, 16 wide, three projections of its own."""

        def __init__(self, product):
            super().__init__()
            self.query, self.key, self.value = (
                L.Dense(16, use_bias=False) for _ in range(3)
            )
            self.product = product

        def call(self, x):
            q, k, v = self.query(x), self.key(x), self.value(x)
            if self.product == "@":
                return keras.ops.softmax(q @ keras.ops.transpose(k, (0, 2, 1))) @ v
            weights = keras.ops.softmax(keras.ops.einsum("...qd,...kd->...qk", q, k))
            return keras.ops.einsum("bqk,bkd->bqd", weights, v)

    class Renamed(L.MultiHeadAttention):
        pass

    class Overridden(L.MultiHeadAttention):
        def call(self, query, value, key=None):
            return super().call(query, value) + 1

    class Cell(L.Layer):
        state_size = 4

        def build(self, shape):
            self.matrix = self.add_weight(shape=(shape[-1], 4))

        def call(self, x, states):
            return x @ self.matrix, states

    class InLoop(L.Layer):
        def build(self, shape):
            self.matrix = self.add_weight(shape=(16, 16))

        def call(self, x):
            def body(i, y):
                return i + 1, y @ self.matrix

            return keras.ops.while_loop(lambda i, y: i < 3, body, (0, x))[1]

    heads = 131_072
    projections, pairs = 3 * 2 * 32 * 16 * 16, 2 * 2 * 32 * 32 * 16
    return [
        (ByHand("@"), (32, 16), projections + pairs),
        (ByHand("einsum"), (32, 16), projections + pairs),
        (Renamed(4, 4), (32, 16), heads),
        (Overridden(4, 4), (32, 16), heads),
        (L.ConvLSTM2D(4, 3, padding="same"), (5, 8, 6, 3), 483_840),
        (
            L.ConvLSTM2D(4, 3, padding="same", return_sequences=True),
            (5, 8, 6, 3),
            483_840,
        ),
        (L.RNN(Cell()), (7, 5), None),
        (InLoop(), (32, 16), None),
    ]


@pytest.mark.parametrize("case", range(8))
def test_what_is_rare_is_exact_or_marked(case):
    import keras

    layer, shape, flops = layers_of_their_own()[case]
    inputs = keras.Input(shape)
    given = (
        (inputs, inputs)
        if isinstance(layer, keras.layers.MultiHeadAttention)
        else (inputs,)
    )
    layers = planner.layer_costs(keras.Model(inputs, layer(*given)))
    assert any(one.guess for one in layers) == (flops is None)
    if flops:
        assert sum(one.flops for one in layers) == flops
    else:
        assert sum(one.flops for one in layers) > 0


def test_attention_in_every_ordinary_form():
    import keras
    from keras import layers as L

    def flops(build, *shapes):
        inputs = [keras.Input(shape) for shape in shapes]
        return sum(
            one.flops
            for one in planner.layer_costs(keras.Model(inputs, build(*inputs)))
        )

    assert (
        flops(
            lambda x, m: L.MultiHeadAttention(4, 4)(x, value=x, attention_mask=m),
            (32, 16),
            (32, 32),
        )
        == 131_072
    )
    assert flops(lambda x: L.MultiHeadAttention(4, 4)(x, x), (32, 16)) == 131_072
    assert flops(lambda x: L.GroupQueryAttention(4, 4, 2)(x, x), (32, 16)) == 114_688
    across = (
        2 * 16 * 16 * (32 + 8 + 8 + 32) + 2 * 2 * 32 * 8 * 16
    )  # 32 queries, 8 keys and values
    assert (
        flops(
            lambda x, y: L.MultiHeadAttention(4, 4)(key=y, query=x, value=y),
            (32, 16),
            (8, 16),
        )
        == across
    )
    if hasattr(L, "ReversibleEmbedding"):
        words = L.ReversibleEmbedding(100, 16)
        ids = keras.Input((32,), dtype="int32")
        model = keras.Model(ids, words(words(ids), reverse=True))
        layers = planner.layer_costs(model)
        assert sum(one.flops for one in layers) == 102_400 and not any(
            one.guess for one in layers
        )


def test_strings_are_refused_and_states_put_back():
    import keras
    from keras import layers as L

    text = keras.Input((), dtype="string", name="text")
    model = keras.Model(
        text,
        L.Embedding(9, 4)(
            L.TextVectorization(9, output_sequence_length=3)(text[:, None])
        ),
    )
    with pytest.raises(
        ValueError,
        match="input 'text' holds strings: give the part of the model behind them",
    ):
        planner.layer_costs(model)
    stateful = keras.Sequential(
        [keras.Input(batch_shape=(2, 3, 4)), L.LSTM(5, stateful=True), L.Dense(1)]
    )
    stateful(np.ones((2, 3, 4), "float32"))
    before = [variable.numpy() for variable in stateful.non_trainable_variables]
    (lstm, dense) = planner.layer_costs(stateful)
    assert lstm.flops == 2 * 3 * 4 * 5 * (4 + 5) and dense.flops == 10
    for variable, value in zip(stateful.non_trainable_variables, before, strict=True):
        assert np.array_equal(variable.numpy(), value)
    assert any(value.any() for value in before)


def test_layers_take_what_comes_before_them():
    layers = [
        LayerCost("a", 1, 1, 1),
        LayerCost("b", 1, 1, 1, inputs=(5,)),
        LayerCost("c", 1, 1, 1),
    ]
    with pytest.raises(
        ValueError,
        match=r"^layers: inputs=\(5,\) of layer 'b': must be indices of the 1 layers",
    ):
        planner.memory(layers, "one device", 1, 1)


@pytest.mark.parametrize("bad", [3, None, "model"])
def test_layer_costs_of_no_model(bad):
    with pytest.raises(ValueError, match=r"^model=.*: must be a built Keras model"):
        planner.layer_costs(bad)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_measured_activations(policy):
    """In float32 what is counted.

    In 16 bits half of it, and the copies of the weights.
    """
    import keras

    from course_utils.model import build_model

    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy(policy)
        model = build_model()
    finally:
        keras.config.set_dtype_policy(before)
    measured = planner.measured_activations(model, 6)
    counted = (
        planner.memory(SEEN, "one device", 1, 6, precision=policy)[0].activations
        - 6 * 10 * 4
    )  # not the loss's
    if policy == "float32":
        assert measured == counted
    else:
        assert measured > counted and measured == pytest.approx(
            counted + 2 * 693_962, rel=0.02
        )


# Advice


T4, HOSTS = (
    planner.MACHINES["4 x T4"],
    planner.Machine(4, 8, 16 * 2**30, 65e12, 16e9, 6e9, price_per_hour=36),
)
HEAVY = [
    LayerCost(f"layer {i}", 10_000_000, 1_000_000, 10**11) for i in range(8)
]  # 80 million weights, 1.2 GiB of state
LARGE = [
    LayerCost(f"layer {i}", 250_000_000, 100_000, 10**11) for i in range(8)
]  # 2 billion weights, 30 GiB


@pytest.mark.parametrize(
    "layers, machine, batch, use, devices, changes",
    [
        (LAYERS, T4, 64, "no strategy", 1, 0),
        (
            HEAVY,
            planner.MACHINES["8 x A100"],
            64,
            "tf.distribute.MirroredStrategy",
            8,
            0,
        ),
        (HEAVY, planner.MACHINES["v5e-8"], 64, "tf.distribute.TPUStrategy", 8, 0),
        (HEAVY, HOSTS, 64, "tf.distribute.MultiWorkerMirroredStrategy", 32, 0),
        (
            HEAVY,
            planner.Machine(1, 1, 16 * 2**30, 65e12, 1e9, 1e9),
            1024,
            "no strategy",
            1,
            1,
        ),  # accumulate
        (
            LARGE,
            HOSTS,
            32,
            "keras.distribution.ModelParallel on JAX, kernels cut along the batch",
            8,
            0,
        ),  # inside a host
        (
            LARGE,
            T4,
            1,
            "keras.distribution.ModelParallel on JAX, kernels cut along the model",
            4,
            0,
        ),
        ([LayerCost("one", 10**12, 1, 1)], T4, 4, "nothing", None, 0),
    ],
)
def test_recommendations_name_a_class(layers, machine, batch, use, devices, changes):
    advice = planner.recommend(layers, machine, batch)
    assert (advice.use[: len(use)], advice.devices, len(advice.changes)) == (
        use,
        devices,
        changes,
    ), str(advice)
    if devices:
        assert advice.memory.total <= 0.9 * machine.memory
        assert advice.throughput == pytest.approx(batch / advice.step.total)
        assert 0 < advice.efficiency <= 1.001 and ("examples/s" in str(advice))
    assert max(map(len, str(advice).splitlines())) <= 72
    said = str(advice).replace("\n ", "")
    assert (
        "Left out: the input, what the framework keeps for itself, work space" in said
    )
    small = bool(advice.memory) and advice.memory.total < 2**30
    assert ("(on an H100, for a small model: 0.2 GB" in said) == small


def test_the_least_change_comes_first():
    """A batch that fits, then in parts, then in 16 bits, then computed again."""
    said = []
    for values in 2**20, 2**27, 2**28, 2**31:
        layers = [
            LayerCost(f"{i}", 1000, 100, 10**9, kept=values if i < 15 else 10)
            for i in range(16)
        ]
        alone = planner.Machine(1, 1, 16 * 2**30, 65e12, 1e9, 1e9)
        advice = planner.recommend(layers, alone, 4)
        said.append(tuple(change.split()[0] for change in advice.changes))
    assert (
        said
        == [(), ("accumulate",), ("accumulate", "set"), ("accumulate", "recompute")]
        and advice.devices == 1
    )


def test_segments_are_cut_where_the_peak_is_least():
    """By hand, against all ways to cut.

    A cut within a block that is skipped keeps both of its inputs.
    """
    sizes = [7, 3, 9, 1, 8, 2, 6]
    layers = [
        LayerCost(f"{i}", 1, outputs=i + 1, flops=3, kept=size)
        for i, size in enumerate(sizes)
    ]

    def peak(edges):
        runs = [range(a, b) for a, b in pairwise(edges)]
        kept = [min(run[-1] + 1, sum(sizes[i] for i in run)) for run in runs]
        return sum(kept) + max(
            sum(sizes[i] for i in run) - k for run, k in zip(runs, kept, strict=True)
        )

    best = min(
        peak([0, *inner, 7]) for n in range(7) for inner in combinations(range(1, 7), n)
    )
    held = planner.memory(planner.checkpointed(layers), "one device", 1, 1)[
        0
    ].activations
    assert held == 4 * best < 4 * sum(sizes)
    skips = [
        LayerCost("a", 1, 10, 3),
        LayerCost("b", 1, 10, 3),
        LayerCost("sum", 0, 10, 0, inputs=(0, 1)),
    ]
    skips += [LayerCost("c", 1, 10, 3)]
    assert [one.kept for one in planner.checkpointed(skips, 4)] == [10, 10, 10, 10]
    assert [one.kept for one in planner.checkpointed(skips, 2)] == [0, 20, 0, 10]


def test_an_accumulator_is_held_and_each_part_sends():
    """As large as the trained weights in float32; Keras' own has these bytes.

    It is divided as the optimizer's values are.
    """
    import keras

    model = keras.Sequential(
        [keras.Input((200,)), keras.layers.Dense(200), keras.layers.Dense(1)]
    )
    sizes = []
    for steps in None, 4:
        optimizer = keras.optimizers.Adam(gradient_accumulation_steps=steps)
        optimizer.build(model.trainable_variables)
        sizes.append(sum(math.prod(variable.shape) for variable in optimizer.variables))
    whole = planner.memory(LAYERS, "data parallel", 2, 8)[0]
    parts = planner.memory(LAYERS, "data parallel", 2, 8, accumulation_steps=4)[0]
    assert sizes[1] - sizes[0] == model.count_params() and parts.accumulator == 4 * ALL
    assert parts.total - whole.total == 4 * ALL - 3 * whole.activations / 4
    assert "accumulator 2.65 MiB = " in str(parts) and "accumulator" not in str(whole)
    divided = planner.memory(LAYERS, "ZeRO-1", 2, 8, accumulation_steps=4)
    assert sum(one.accumulator for one in divided) == 4 * ALL
    for name in "data parallel", "ZeRO-3":
        one, four = (
            planner.step_time(LAYERS, name, 2, 8, **SPEED, accumulation_steps=n)
            for n in (1, 4)
        )
        assert (
            four.communication == pytest.approx(4 * one.communication)
            and four.compute == one.compute
        )
    with pytest.raises(
        ValueError,
        match=(
            r"must be a multiple of devices .2. x accumulation_steps .3.: "
            r"12 would do"
        ),
    ):
        planner.memory(LAYERS, "data parallel", 2, 9, accumulation_steps=3)
    with pytest.raises(
        ValueError,
        match=(
            r"global_batch_size=8: must be a multiple of accumulation_steps .3.: "
            r"9 would do"
        ),
    ):
        planner.memory(LAYERS, "one device", 1, 8, accumulation_steps=3)


@pytest.mark.parametrize("machine", planner.MACHINES)
def test_accumulation_is_advised_only_where_the_table_shows_it(machine):
    """docs/compatibility.md, by the classes that the advice names."""
    page = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    works, strategy = {}, ""
    for line in page.splitlines():
        if line.startswith("| ") and line.count("|") == 8:
            name, way, *_, accumulates = (
                cell.strip() for cell in line.strip("|").split("|")
            )
            strategy = name or strategy
            works.setdefault(re.sub(r"[`,].*", "", strategy.strip("`")), {})[way] = (
                accumulates == "✓"
            )
    kept = [
        LayerCost(f"{i}", 1_000_000, 100, 10**11, kept=300_000_000) for i in range(4)
    ]
    advice = planner.recommend(kept, planner.MACHINES[machine], 4096)
    assert advice.devices > 1 and advice.changes[0].startswith("accumulate")
    choices = advice.use.replace(", its own loop", " loop").split(", or ")
    for choice in choices:
        name = re.search(r"[\w.]*?(\w+Strategy|keras\.distribution\.\w+)", choice)[1]
        assert works[name]["custom loop" if "loop" in choice else "`fit`"], choice
    assert not works["MirroredStrategy"]["`fit`"], "why the loop is one's own"


@pytest.mark.parametrize(
    "billions", [1, 10, *(pytest.param(n, marks=pytest.mark.slow) for n in (100, 300))]
)
def test_what_is_advised_fits(billions):
    """Blocks as in notebook 05.

    Whatever is advised, no device is fuller than nine tenths.
    """
    width = round((billions * 1e9 / (12 * 128**2)) ** (1 / 3)) * 128
    values = 2048 * width
    block = [
        LayerCost(
            "up", 8 * width**2, 4 * values, 10**12, kept=8 * values, units=width // 128
        ),
        LayerCost(
            "down", 4 * width**2, values, 10**12, kept=2 * values, units=width // 128
        ),
    ]
    advised = []
    for hosts, gib in (1, 16), (1, 80), (8, 80), (8, 192):
        machine = planner.Machine(hosts, 8, gib * 2**30, 500e12, 450e9, 50e9)
        for layers in (
            block * (width // 128),
            planner.checkpointed(block * (width // 128), width // 128),
        ):
            advice = planner.recommend(layers, machine, 512)
            advised.append(advice.devices)
            assert (
                advice.devices is None or advice.memory.total <= 0.9 * machine.memory
            ), str(advice)
    assert any(advised)


def test_what_is_cut_divides():
    """GPT-3's 96 heads and 12,288 units are both divided by 48.

    39 divides neither, though memory would allow it.
    """
    block = [
        LayerCost("attention", 4 * 12288**2, 12288, 10**9, "attention", units=96),
        LayerCost("up", 4 * 12288**2, 4 * 12288, 10**9, units=4 * 12288),
        LayerCost("down", 4 * 12288**2, 12288, 10**9, units=12288),
    ]
    said = str(planner.recommend(block * 96, planner.MACHINES["8 x A100"], 8)).replace(
        "\n  ", " "
    )
    (count,) = re.findall(r"tensor parallel would need (\d+)", said)
    assert 96 % int(count) == 0
    small = [
        LayerCost("up", 100, 12, 10, units=6),
        LayerCost("down", 100, 12, 10, units=6),
    ]
    plans = [Plan(small, 1, tensor=n) for n in (2, 3, 4, 5, 6)]
    assert [plan.cuts_evenly() for plan in plans] == [True, True, False, False, True]


def test_a_batch_that_no_number_of_devices_divides():
    said = str(planner.recommend(HEAVY, T4, 37)).replace("\n  ", " ")
    assert (
        "No number of devices from 2 to 4 divides a batch of 37: "
        "40 examples would do for all of them."
    ) in said


def test_a_share_of_the_batch_without_an_accumulator():
    """One device holds one example, and no accumulator.

    Eight hold their shares of the batch.
    """
    layers = [
        LayerCost(f"{i}", 10_000_000, 1000, 10**9, kept=8_000_000 * (i == 0))
        for i in range(8)
    ]
    machine = planner.Machine(1, 8, 16 * 80_000_000 + 50 * 2**20, 1e12, 1e11, 1e11)
    advice = planner.recommend(layers, machine, 8, headroom=1)
    assert (advice.parallelism, advice.devices, advice.changes) == (
        "data parallel",
        8,
        (),
    )
    assert "not the accumulator beside it that 8 need" in str(advice).replace(
        "\n  ", " "
    )


def test_peaks_belong_to_a_precision():
    peaks = {
        name: [machine.peak(kind) / 1e12 for kind in PEAK_KINDS]
        for name, machine in planner.MACHINES.items()
    }
    assert peaks == {
        "4 x T4": [8.1, 65, 65],
        "8 x A100": [156, 312, 312],  # float32 is TF32 there
        "8 x H100": [495, 989, 989],
        "v5e-8": [197, 197, 197],
    }
    assert planner.MACHINES["8 x A100"].flops["float32"] == 19.5e12
    own = dataclasses.replace(T4, flops={"float16": 1e12})
    with pytest.raises(
        ValueError,
        match=(
            r"^precision='float32': must be "
            r"one that the machine's flops name .float16.$"
        ),
    ):
        planner.recommend(HEAVY, own, 64)
    with pytest.raises(ValueError, match=r"^flops='float64': must be"):
        dataclasses.replace(T4, flops={"float64": 1e12})


PEAK_KINDS = ("float32", "mixed_bfloat16", "mixed_float16")


def test_rings_share_a_hosts_link():
    """2 hosts of 8: a ring of all has the whole link.

    Eight rings of one device a host have an eighth each.
    """
    machine = planner.Machine(2, 8, 1e9, 1e12, 300, 80)
    found = [machine.bandwidth(*ring) for ring in ((8,), (16,), (2, 8), (4, 4), (2, 4))]
    assert found == [300, 80, 10, 20, 300]
    rates = machine.rates(Plan(LAYERS, 64, data=2, tensor=4, pipeline=2))
    assert (
        rates.bandwidth,
        rates.bandwidth_inside_layers,
        rates.bandwidth_between_stages,
    ) == (10, 300, 300)


@pytest.fixture(scope="module")
def measured_models():
    from benchmarks import planned

    return planned.costs_of_models()


def test_speed_and_memory_held_against_gpus(measured_models):
    """What was fitted on an H100 holds on an H200.

    docs/gpu.md and the README have the same numbers.
    """
    from benchmarks import planned

    for card, name, precision, batch, speed, measured in planned.speeds(
        measured_models
    ):
        ratio = speed / measured
        if name == "ResNet50":
            assert 1 / 1.5 < ratio < 1.5, (card, precision, batch)
        elif batch in (128, 8192):
            assert 1 / 3 < ratio < 3, (card, precision, batch)
    for card, name, precision, batch, size, measured in planned.peaks(measured_models):
        if name == "ResNet50":
            assert size == pytest.approx(measured, rel=0.25), (card, precision, batch)
    assert planned.page(measured_models).strip() in (
        ROOT / "course_planner" / "README.md"
    ).read_text(encoding="utf-8")
    gpu = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    for kind in "speed", "peak":
        for *row, measured in planned.stored_rows(kind):
            assert f" {measured:,} " in gpu, row


# What a sceptical reader found


def test_what_is_computed_again_is_divided_as_it_was():
    """At tensor 8 a block keeps 4 + 12 / 8 values for each token and unit.

    Korthikanti et al., 2022, without dropout.
    """
    width, tokens, sizes = 1024, 64, {}
    for recomputed in False, True:
        layers = planner.transformer(1, width, tokens, recomputed=recomputed)
        sizes[recomputed] = Plan(layers, 1, tensor=8).largest_memory().activations / (
            4 * width * tokens
        )
    assert sizes == {False: 5.5, True: 5.5}, "one block is there as a whole either way"
    four = [
        Plan(planner.transformer(4, width, tokens, recomputed=r), 1, tensor=8)
        for r in (False, True)
    ]
    assert [
        plan.largest_memory().activations / (4 * width * tokens) for plan in four
    ] == [22, 4 + 4.5]


def test_a_forward_pass_that_is_computed_again_adds_up_again():
    """Four sums in a block, two of them forward.

    Six when it is computed again (ZeRO, 2020, section 8).
    """
    width, tokens, blocks = 1024, 64, 3
    sent = {}
    for recomputed in False, True:
        layers = planner.transformer(blocks, width, tokens, recomputed=recomputed)
        sent[recomputed] = (
            sum(Plan(layers, 2, tensor=8).bytes_sent()) / 14 / (4 * 2 * width * tokens)
        )
    assert sent[True] - sent[False] == 2 * blocks
    assert sent[True] == pytest.approx(6 * blocks, abs=1)


def test_a_long_skip_is_kept_once():
    layers = [LayerCost("in", 1, 100, 1)] + [
        LayerCost(f"{i}", 1, 10, 1) for i in range(6)
    ]
    layers += [LayerCost("out", 1, 10, 1, inputs=(0, 6))]
    kept = [layer.kept for layer in planner.checkpointed(layers, 4)]
    assert kept == [0, 110, 0, 10, 0, 10, 0, 10]


def test_frozen_layers_take_less_time():
    """1, 2 or 3 times the forward pass.

    Before the first trained layer, behind it, trained.
    """
    import keras
    from keras import layers as L

    stack = [
        L.Dense(8, trainable=False),
        L.Dense(8),
        L.Dense(8, trainable=False),
        L.ReLU(),
        L.Dense(2),
    ]
    layers = planner.layer_costs(keras.Sequential([keras.Input((4,)), *stack]))
    assert [layer.passes for layer in layers] == [1, 3, 2, 3, 3]
    step = Plan(layers, 5).step_time(planner.Rates(1, 1e9, 0))
    assert step.compute == 5 * 2 * (4 * 8 + 3 * 64 + 2 * 64 + 3 * 16)


def test_an_update_moves_what_is_held():
    """Adam in float32: 40 bytes for each weight."""
    layers = [LayerCost("wide", 10**9, 1, 1)]
    rates = planner.Rates(1e15, 1e9, 0, memory_bandwidth=1e12)
    assert Plan(layers, 1).step_time(rates).compute == pytest.approx(0.04)
    assert Plan(layers, 4, data=4, zero=1).step_time(rates).compute == pytest.approx(
        0.024 + 0.016 / 4
    )
    parts = Plan(layers, 4, accumulation_steps=4).step_time(rates)
    assert parts.compute == pytest.approx(0.04), "one update"


def test_new_weights_are_gathered_once():
    layers = [LayerCost("wide", 800, 1, 1)]
    one, parts = (
        Plan(layers, 64, data=8, zero=1, accumulation_steps=n) for n in (1, 8)
    )
    assert (one.bytes_sent()[0], parts.bytes_sent()[0]) == (2 * 2800, 9 * 2800)
    rates = planner.Rates(1, 2800, 0)
    assert [plan.step_time(rates).transfer for plan in (one, parts)] == [2, 9]


def test_zero_3_in_numbers_that_divide_and_with_room_for_a_layer():
    layers = [LayerCost(f"{i}", 4096**2, 4096, 10**9, units=4096) for i in range(64)]
    machine = planner.Machine(1, 8, 4 * 2**30, 50e12, 50e9, 5e9)
    advice = planner.recommend(layers, machine, 6)
    assert advice.parallelism != "ZeRO-3", "6 does not divide 4,096"
    assert planner.recommend(layers, machine, 8).devices == 8
    table = [
        LayerCost("words", 5_000_000 * 1024, 1024, 0, "whole"),
        LayerCost("out", 10240, 10, 20480),
    ]
    said = planner.recommend(table, planner.MACHINES["v5e-8"], 8)
    assert said.parallelism != "ZeRO-3", "the table is whole for a moment"


def test_tensor_parallel_needs_what_all_features_decide():
    dense = LayerCost("dense", 256, 16, 512)
    for layer in (
        LayerCost("normal", 32, 16, 0, "whole"),
        LayerCost("lstm", 512, 16, 1024, "whole"),
        LayerCost("product", 0, 16, 512, "whole"),
    ):
        with pytest.raises(
            ValueError, match="such a layer must stand after two kernels"
        ):
            Plan([dense, layer], 2, tensor=2)
        assert Plan([dense, dense, layer], 2, tensor=2).split[2] == (False, False)
    whole = Plan([LayerCost("lstm", 512, 16, 1024, "whole")], 8, tensor=4)
    assert whole.step_time(planner.Rates(1024, 1e9, 0)).compute == 3 * 8, (
        "each device computes all of it"
    )


def test_kinds_of_layers_by_what_they_mix():
    import keras
    from keras import layers as L

    image, text = keras.Input((8, 8, 4)), keras.Input((6, 16))
    costs = planner.layer_costs(
        keras.Model(
            [image, text],
            [
                L.DepthwiseConv2D(3, name="depthwise")(image),
                L.LayerNormalization(name="normal")(text),
                L.Attention(name="attention")([text, text]),
                L.GroupQueryAttention(16, 8, 2, name="grouped")(text, text),
            ],
        )
    )
    found = {cost.name: (cost.kind, cost.units) for cost in costs}
    assert (
        found["depthwise"][0] == "elementwise"
        and found["normal"][0] == found["attention"][0] == "whole"
    )
    assert found["grouped"] == ("attention", 2), (
        "two heads of keys and values cannot be cut in eight"
    )


def test_a_machine_that_knows_one_format():
    wide = [LayerCost(f"{i}", 10, 10_000_000, 10**9) for i in range(40)]
    advice = planner.recommend(
        wide, planner.Machine(1, 2, 2**30, {"float32": 8e12}, 16e9, 6e9), 1
    )
    assert not any("mixed" in change for change in advice.changes)
    with pytest.raises(
        ValueError, match=r"^flops=\{\}: must be a number, or name a peak"
    ):
        dataclasses.replace(T4, flops={})


def test_products_are_named_where_no_single_kind_fits():
    eight = [LayerCost(f"{i}", 10**10, 10**6, 10**12, units=8) for i in range(8)]
    machine = planner.Machine(8, 8, 24 * 2**30, 1e14, 1e11, 1e10)
    said = str(planner.recommend(eight, machine, 7)).replace("\n  ", " ")
    assert (
        "No single kind fits. tensor 8 x pipeline 8 would, in 7 micro-batches, at"
        in said
    )
    chain = [
        LayerCost(f"{i}", 10**9, 10**6, 10**12, units=1) for i in range(8)
    ]  # units of one cannot be cut
    advice = planner.recommend(
        chain, planner.Machine(1, 8, 20 * 2**30, 1e14, 1e11, 1e11), 32
    )
    assert (
        advice.parallelism == "pipeline parallel"
        and advice.changes[0] == "cut the batch into 32 micro-batches"
    )


def test_a_step_of_a_small_model_is_not_for_free():
    """It starts, and launches.

    So no plan says 13 million examples/s of 64 examples a step.
    """
    advice = planner.recommend(SEEN, planner.MACHINES["4 x T4"], 64)
    assert advice.step.total > 0.4e-3 and advice.throughput < 64 / 0.4e-3


def test_zero_2_is_named_where_it_would_fit():
    layers = [
        LayerCost(f"{i}", 100_000_000, 1000, 10**11) for i in range(16)
    ]  # 24 GiB of weights and states
    said = str(
        planner.recommend(
            layers, planner.Machine(1, 8, 16 * 2**30, 65e12, 16e9, 6e9), 64
        )
    ).replace("\n  ", " ")
    assert (
        "ZeRO-3 on" in said
        and "ZeRO-2 would fit as well, and send less: no class of Keras offers it."
        in said
    )
    assert "ZeRO-2" not in str(
        planner.recommend(LARGE, dataclasses.replace(T4, memory=12 * 2**30), 4)
    ), "there it would not"


def test_hours_and_money():
    priced = dataclasses.replace(HOSTS, price_per_hour=36)
    advice = planner.recommend(HEAVY, priced, 64, examples=90 * 1_281_167)
    assert advice.duration == pytest.approx(90 * 1_281_167 / advice.throughput)
    assert advice.cost == pytest.approx(36 * advice.duration / 3600)
    said = str(advice).replace("\n  ", " ")
    assert re.search(
        (
            r"115,305,030 examples take [\d.]+ (minutes|hours|days), "
            r"and cost [\d,.]+ at your price\."
        ),
        said,
    )
    unpriced = planner.recommend(
        HEAVY, dataclasses.replace(HOSTS, price_per_hour=None), 64, examples=10
    )
    assert (
        unpriced.cost is None
        and "10 examples take" in str(unpriced)
        and "cost" not in str(unpriced)
    )
    with pytest.raises(ValueError, match=r"^examples=0: must be"):
        planner.recommend(HEAVY, HOSTS, 64, examples=0)


def test_cost_headroom_and_what_would_do():
    advice = planner.recommend(HEAVY, HOSTS, 64)
    assert advice.cost == pytest.approx(36 / 3600 * advice.step.total / 64 * 1e6)
    assert f"A million examples cost {advice.cost:,.2f}, at your price." in str(advice)
    half = dataclasses.replace(
        planner.MACHINES["8 x A100"],
        memory=16 * (80_000_000 + 1000) + 4 * 1_000_000 * 8,
    )
    assert planner.recommend(HEAVY, half, 8, headroom=1).parallelism == "data parallel"
    assert planner.recommend(HEAVY, half, 8).parallelism == "ZeRO-3", (
        "nine tenths of it are too little"
    )
    layers = [LayerCost(f"layer {i}", 10**9, 100_000, 10**11) for i in range(48)]
    said = str(planner.recommend(layers, planner.MACHINES["8 x A100"], 8)).replace(
        "\n  ", " "
    )
    assert said.startswith("Nothing fits.") and re.search(
        r"pipeline parallel would need 1\d\.", said
    )
    assert (
        "Does not fit on your 8 devices; "
        "ZeRO-3 would not fit on more either: 8 examples divide"
    ) in said


# Nonsense


def call(function, **changes):
    arguments = {
        "memory": dict(
            layers=LAYERS, parallelism="data parallel", devices=2, global_batch_size=64
        ),
        "communication_volume": dict(
            layers=LAYERS, parallelism="data parallel", devices=2, global_batch_size=64
        ),
        "step_time": dict(
            layers=LAYERS,
            parallelism="data parallel",
            devices=2,
            global_batch_size=64,
            **SPEED,
        ),
        "recommend": dict(
            layers=LAYERS, machine=planner.MACHINES["4 x T4"], global_batch_size=64
        ),
        "all_reduce_bytes": dict(elements=4, devices=2),
        "bubble_fraction": dict(stages=2, micro_batches=2),
        "Machine": dict(
            hosts=1,
            devices_per_host=8,
            memory=1e9,
            flops=1e12,
            bandwidth_inside=1e9,
            bandwidth_between=1e9,
        ),
        "LayerCost": dict(name="x", parameters=1, outputs=1, flops=1),
    }[function]
    return getattr(planner, function)(**(arguments | changes))


NONSENSE = [
    ("memory", "devices", 0),
    ("all_reduce_bytes", "devices", 2.0),
    ("step_time", "global_batch_size", -1),
    ("communication_volume", "precision", "float64"),
    ("all_reduce_bytes", "bytes_per_value", True),
    ("memory", "layers", []),
    ("recommend", "layers", [LAYERS[0], None]),
    ("memory", "parallelism", "Data parallel"),
    ("recommend", "optimizer", "rmsprop"),
    ("all_reduce_bytes", "algorithm", "star"),
    ("all_reduce_bytes", "elements", -1),
    ("step_time", "bandwidth", 0),
    ("step_time", "latency", math.nan),
    ("recommend", "machine", "A100"),
    ("recommend", "headroom", 1.1),
    ("Machine", "memory", -1),
    ("Machine", "hosts", 0),
    ("bubble_fraction", "stages", 0),
]


@pytest.mark.parametrize("function, name, value", NONSENSE)
def test_nonsense_is_refused(function, name, value):
    with pytest.raises(ValueError) as error:
        call(function, **{name: value})
    text = str(error.value)
    assert text.startswith(name) and repr(value) in text and "must be" in text


def test_what_is_held_layer_by_layer_through_a_step():
    layers = [planner.LayerCost(f"layer {k}", 1, outputs=1, flops=1) for k in range(6)]
    assert planner.held_over_step(layers) == [1, 2, 3, 4, 5, 6, 6, 5, 4, 3, 2, 1, 0]
    in_two = planner.checkpointed(layers, 2)
    # one value of each three is kept; the three are there again before their backward
    # pass
    assert planner.held_over_step(in_two) == [0, 0, 1, 1, 1, 2, 4, 3, 2, 3, 2, 1, 0]
    peak = planner.memory(in_two, "one device", 1, 1)[0].activations
    assert 4 * max(planner.held_over_step(in_two)) == peak
