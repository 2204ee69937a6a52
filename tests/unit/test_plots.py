"""Every drawing: what it says, and what its colours mean.

No text is cut off or hidden by another.
"""

import itertools

import numpy as np
import pytest
from matplotlib import rc_context, rcParams, rcParamsDefault
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Text

import course_launcher as launcher
import course_planner as planner
from course_planner import Memory
from course_utils import plots, tpu
from course_utils.plots import style
from course_utils.plots.style import COLOURS, MUTED

LOSS = {"training": [1.9, 0.8, 0.4, 0.3, 0.2], "test": [1.2, 0.6, 0.5, 0.4, 0.35]}
ACCURACY = {
    "training": [0.4, 0.8, 0.9, 0.93, 0.95],
    "test": [0.6, 0.85, 0.9, 0.91, 0.92],
}
SPEEDS = {
    "NumPy arrays, batch 32": (4000, 3800, 4300),
    "tf.data, batch 32": (5200, 5100, 5300),
    "+ cache and prefetch": (6100, 5500, 6400),
    "+ an epoch per call": (12345, 12000, 13000),
}
SIZES = (32, 64, 128, 256, 512)
SWEEP = {
    name: {n: (start + 5 * n, start + 4 * n, start + 6 * n) for n in SIZES}
    for name, start in (("one step per call", 4000), ("an epoch per call", 7000))
}
REFERENCE = {"NumPy arrays, batch 32": 4000}
ROWS = {
    "worker 0": [(0, 5, "compute"), (5, 3, "waiting")],
    "worker 1": [(0, 7, "compute"), (7, 1, "travels")],
}
WORDS = {"compute": "train on it", "waiting": "wait for it", "travels": "all-reduce"}
RUNS = {
    "never stopped": [2 / (i + 1) for i in range(60)],
    "resumed with optimizer": {i: 2 / i for i in range(25, 61)},
    "resumed, weights only": {i: 2.5 / i for i in range(25, 61)},
}
RESUMED = {"never stopped": "underlay", "resumed, weights only": "wrong"}
MEMORY = {
    "one device": Memory(2775848, 2775848, 5551696, 16684032),
    "data parallel": Memory(2775848, 2775848, 5551696, 4171008),
}
COUNTS = [2**k for k in range(11)]
GROWING = {
    "the course's model": {n: n**-0.5 for n in COUNTS},
    "ResNet-50's size": {n: n**0.7 for n in COUNTS},
}
SHARES = {name: {n: i / 10 for i, n in enumerate(COUNTS)} for name in GROWING}
ALL_REDUCE = "all-reduce: 2.6 MiB of gradients from each device, averaged, back to each"
OWN = [
    ("weights: a copy", "weights"),
    ("optimizer: a copy", "optimizer"),
    ("its part of the data", "inputs"),
]
OVER = "all-reduce: 2.6 MiB of gradients over the network"
EVERY = [[2 * i, 2 * i + 1] for i in range(8)]
LESS = [[[0, 1], [2, 3]], [[0, 4], [5]]]
STEP = [
    "forward: activations",
    "backward: gradients",
    "optimizer: moments",
    "update: new weights",
]
CODE = [
    "model(images, training=True)",
    "tape.gradient(loss, …)",
    "model.trainable_variables",
]


def story(count):
    """A made-up ring: its numbers are as long as real ones, and mean nothing."""
    start = [[10**d * (c + 1) for c in range(count)] for d in range(count)]
    end = [[int("1" * count) * (c + 1) for c in range(count)]] * count
    steps = [
        (f"step {i}", end if i else start, list(range(count)))
        for i in range(2 * count - 2)
    ]
    return [*steps, ("the sum, on all", end, None)]


def both_schedules():
    """GPipe's and 1F1B's, by the clock, of four stages and eight micro-batches."""
    orders = {"GPipe": lambda stage: "f" * 8 + "b" * 8}
    orders["1F1B"] = lambda stage: (
        "f" * (4 - stage) + "bf" * (4 + stage) + "b" * (4 - stage)
    )
    return {
        name: schedule([list(order(stage)) for stage in range(4)])
        for name, order in orders.items()
    }


def schedule(todo):
    run, kept = planner.PipelineRun(4), [0] * 4
    inbox = {(stage, way): [] for stage in range(4) for way in "fb"}
    inbox[0, "f"] = [(str(number), 0) for number in range(8)]
    while any(todo):
        for stage, passes in enumerate(todo):
            if not passes or not inbox[stage, passes[0]]:
                continue
            way = passes.pop(0)
            number, sent = inbox[stage, way].pop(0)
            start, length = max(run.clock[stage], sent), 1 if way == "f" else 2
            run.clock[stage] = start + length
            run.spans[stage].append(
                (start, length, "forward" if way == "f" else "backward", number)
            )
            kept[stage] += 1 if way == "f" else -1
            run.peak_in_flight[stage] = max(run.peak_in_flight[stage], kept[stage])
            receiver = (
                (min(stage + 1, 3), "f" if stage < 3 else "b")
                if way == "f"
                else (stage - 1, "b")
            )
            if receiver[0] >= 0:
                inbox[receiver].append((number, run.clock[stage]))
    return run


def devices(count):
    return [f"CPU:{i}" for i in range(count)]


def lines(*args, **kwargs):
    return lambda title: plots.lines(args[0], title, *args[1:], **kwargs)


def bars(values, unit, **kwargs):
    return lambda title: plots.bars(values, unit, title, **kwargs)


def step(names, examples, *more, **kwargs):
    return lambda title: plots.training_step(names, examples, title, *more, **kwargs)


INSIDE = {
    "HBM": [
        ("weights", "weights"),
        ("optimizer", "optimizer"),
        ("activations", "activations"),
    ],
    "vector unit": "8 × 128 lanes",
    "matrix unit": "128 × 128\nmultiply-adds",
}
X, W = np.arange(12).reshape(2, 6), np.arange(24).reshape(6, 4) % 5
SHAPES = {"x": (2, 6), "first": (6, 4), "second": (4, 3)}
ZERO = {"data parallel": 10.59, "ZeRO-1": 6.62, "ZeRO-2": 4.63, "ZeRO-3": 2.65}
DIGITS = [[np.eye(8) * (d + k) for k in range(3)] for d in range(4)]
FOUR = [0.0889, 0.0883, -0.0368, 0.0578]
CUTS = {"data": (), "tensor": (None, "model"), "sharded": ("batch", None)}
CUT = {
    "one device": {"weights": 50, "activations": 950},
    "ZeRO": {"weights": 20, "activations": 30},
}
ERRORS = {
    "a/kernel": {"right": 1e-5, "naive": 31.0},
    "a/bias": {"right": 2e-5, "naive": 17.0},
}
WEIGHTS = 693_962 * 4
NUMBERED = {
    "stage 0": [(0, 9, "waiting"), *((k, 1, "compute", f"n{k}") for k in range(4))]
}
WAITED = {m: 3 / (m + 3) for m in range(1, 33)}

# title: (the drawing, texts that must be there besides)
CASES = {
    "Two processes share nothing but what they send": (
        lambda title: launcher.drawings.workers(
            {f"worker {i}": OWN for i in range(2)}, title, OVER, "a shared folder"
        ),
        ["worker 0", "worker 1", *(text for text, _ in OWN), OVER, "a shared folder"],
    ),
    "Whoever reads everything twice trains twice on it": (
        lambda title: launcher.drawings.shards(
            {"OFF": [EVERY] * 2, "DATA": [EVERY[::2], EVERY[1::2]], "less": LESS},
            16,
            title,
        ),
        [
            "OFF",
            "worker 0",
            "worker 1",
            "15",
            "8 steps · 16 examples twice",
            "4 steps",
            "2 steps · 1 example twice · never: 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
        ],
    ),
    "A TPU multiplies matrices; the host must keep it fed": (
        lambda title: tpu.inside_a_tpu(title, "batches", INSIDE),
        [
            "host",
            "TPU chip",
            "batches",
            "HBM: memory",
            "weights",
            "vector unit\n8 × 128 lanes",
            "tf.data: batches",
        ],
    ),
    "step on 1": (step(["CPU:1"], 128), ["CPU:1", "128 examples", *STEP, *CODE]),
    "step on 2": (
        step(devices(2), 64, WEIGHTS),
        [*devices(2), "64 examples", *STEP, "batch's gradient", ALL_REDUCE],
    ),
    "step on 4 shards": (
        step(devices(4), [64, 32, 16, 16], WEIGHTS, optimizer=False),
        [
            *devices(4),
            "64 examples",
            "32 examples",
            "16 examples",
            "new weights",
            ALL_REDUCE,
        ],
    ),
    "step on 8": (
        step(devices(8), list(range(1001, 1009)), WEIGHTS),
        [
            "CPU:0",
            "CPU:1",
            "…\n5 more",
            "CPU:7",
            "1001 examples",
            "1002 examples",
            "1008 examples",
            ALL_REDUCE,
        ],
    ),
    "step with numbers": (
        step(
            devices(4),
            32,
            WEIGHTS,
            numbers={"gradients": [f"{i}.0071" for i in range(4)]},
        ),
        [*devices(4), "0.0071", "3.0071", "new weights", ALL_REDUCE],
    ),
    "The ring: in each step every device sends one chunk to the next": (
        lambda title: planner.drawings.ring(
            story(4), title, "Each arrow is one\nchunk: 4 bytes."
        ),
        ["step 0", "the sum, on all", "sum of 4", "1111", "4000"],
    ),
    "By columns the results stand side by side, by rows they are added": (
        lambda title: planner.drawings.split_layer(X, W, title),
        [
            "device 0",
            "device 1",
            *(f"{n}" for n in (X @ W).flat),
            "by columns: all of x, half of W",
            "all-gather: the two halves side by side",
            "all-reduce: the two parts added up, number by number",
        ],
    ),
    "Two layers split, and one all-reduce each way": (
        lambda title: planner.drawings.layers_in_a_row(SHAPES, (24, 48), title),
        [
            "forward",
            "backward: gradients",
            "all-\nreduce:\n24\nbytes\neach",
            "all-\nreduce:\n48\nbytes\neach",
            "first\ncolumns, 6 × 2",
            "second\nrows, 2 × 3",
        ],
    ),
    "Each ZeRO lets go of one thing more": (
        lambda title: planner.drawings.zero(ZERO, ZERO, title),
        [
            *ZERO,
            *(f"each has {size:.2f} MiB" for size in ZERO.values()),
            "each sends 2.65",
            "device\n3",
            "let go",
        ],
    ),
    "Four gradients, one mean": (
        lambda title: planner.drawings.data_parallel_step(
            DIGITS, FOUR, 0.0712, 0.05, title
        ),
        [
            "+0.0889",
            "+0.0883",
            "−0.0368",
            "+0.0578",
            "+0.0496",
            "0.0712",
            "0.0687",
            "all-reduce: the mean of the four, back to each",
        ],
    ),
    "Both end together; 1F1B keeps less": (
        lambda title: planner.drawings.pipelines(
            both_schedules(), title, "time, in forward passes"
        ),
        [
            "GPipe",
            "1F1B",
            "9 of 33 = 27 %",
            "6 + 3 = 9",
            "stage 3",
            "kept at once",
            "not needed",
            "32",
        ],
    ),
    "Where a kernel lies": (
        lambda title: planner.drawings.pieces(CUTS, 8, title),
        [*CUTS, "whole", "columns", "rows", "0", "7"],
    ),
    "bfloat16 keeps the range": (
        lambda title: tpu.float_formats(
            {"float32": (8, 23), "bfloat16": (8, 7), "float16": (5, 10)}, title
        ),
        [
            "float32",
            "exponent: range, 8",
            "fraction: precision, 23",
            "8",
            "7",
            "5",
            "10",
        ],
    ),
    "Who gets what is left over": (
        lambda title: launcher.drawings.slices(
            {7: [2, 2, 2, 1], 2: [1, 1, 0, 0]}, title
        ),
        ["left over", "7", "2", "replica 3"],
    ),
    "pictures in a grid": (
        lambda title: plots.images(
            {"one": [np.eye(4)] * 4, "other": [np.eye(4)] * 4}, title, list("abcd")
        ),
        ["one", "other", "a", "d"],
    ),
    "First what fits, then what is slow": (
        planner.drawings.decision,
        [
            "Does it fit on one?\n(accumulate, check-\npoint, bfloat16)",
            "data parallel\n(02, 03, 04)",
            "yes",
            "no",
        ],
    ),
    "curves": (
        lines(
            {"training": [1.9, 0.8, 0.4], "test": [1.2, 0.6, 0.5]},
            "epoch",
            "loss (nats)",
        ),
        ["epoch", "1", "2", "3", "loss (nats)", "training", "test"],
    ),
    "two panels": (
        lines(
            [LOSS, ACCURACY],
            "epoch",
            ["loss (nats)", "accuracy"],
            ylim=[None, (None, 1)],
        ),
        ["epoch", "5", "loss (nats)", "accuracy", "training", "test"],
    ),
    "twelve curves": (
        lines(
            {f"{n} updates old": [n, n + 1] for n in range(12)},
            "updates",
            "loss (nats)",
        ),
        [f"{n} updates old" for n in range(12)],
    ),
    "speeds": (
        lines(
            SWEEP,
            "global batch size (examples)",
            "examples/s",
            log="x",
            across=REFERENCE,
        ),
        [
            *SWEEP,
            *REFERENCE,
            "global batch size (examples)",
            "examples/s",
            *map(str, SIZES),
            "8,000",
        ],
    ),
    "On paper: the larger the work per byte, the further it scales": (
        lines(
            [GROWING | {"ideal": dict(zip(COUNTS, COUNTS, strict=True))}, SHARES],
            "devices",
            ["times as fast as one device", "communication's share"],
            log=["xy", "x"],
            ylim=[None, (0, 1.03)],
            across=[None, {"half of the step": 0.5}],
            looks={"ideal": "reference"},
            names=["speed-up", "share"],
        ),
        [
            *GROWING,
            "ideal",
            "1,024",
            "256",
            "half of the step",
            "devices",
            "0.1",
            "1,000",
            "speed-up",
            "share",
        ],
    ),
    "under 1 MiB": (
        lines({"ring": {2: 0.001, 1024: 0.002}}, "devices", "MiB", log="xy"),
        ["ring", "MiB", "0.001", "0.002"],
    ),
    "formula and points": (
        lines(
            {"(p − 1)/(m + p − 1)": WAITED, "measured": {1: 0.76, 16: 0.17}},
            "micro-batches m",
            "share of time a stage waits",
            log="x",
            ylim=(0, 1),
            looks={"measured": "points"},
        ),
        ["measured", "(p − 1)/(m + p − 1)", "micro-batches m", "16"],
    ),
    "parameter server": (
        launcher.drawings.parameter_server,
        [
            "coordinator",
            "parameter server",
            "worker 0",
            "worker 1",
            "weights",
            "gradients",
        ],
    ),
    "bars": (bars(SPEEDS, "examples/s"), [*SPEEDS, "examples/s", "4,000", "12,345"]),
    "stacked bars": (
        bars(
            {name: each.mib for name, each in MEMORY.items()},
            "MiB on the fullest device",
        ),
        [
            *MEMORY,
            "26.5",
            "14.6",
            "activations",
            "optimizer",
            "MiB on the fullest device",
        ],
    ),
    "bars side by side": (
        bars(
            ERRORS,
            "error, % of the true gradient's length",
            stacked=False,
            looks={"naive": "wrong"},
        ),
        ["right", "naive", "a/kernel", "31", "1e-05"],
    ),
    "bars cut off": (
        bars(CUT, "GiB", across={"what a device has": 80}),
        ["what a device has", "1,000 …", "50", "weights"],
    ),
    "timeline": (
        lambda title: plots.timeline(ROWS, title, WORDS),
        [*ROWS, *WORDS.values(), "milliseconds"],
    ),
    "timeline with numbers": (
        lambda title: plots.timeline(NUMBERED, title, WORDS, "seconds"),
        ["stage 0", "n0", "n3", "seconds"],
    ),
    (
        "Of eight replicas on two cores each waits for the others most of the time, "
        "and the more so the more there are"
    ): (
        bars({"a": 0.4, "b": 0.0123}, "ms"),
        ["0.4", "0.0123"],
    ),
    "resumed after 8": (
        lines(RUNS, "step", "loss (nats)", looks=RESUMED, at={"stopped": 8.5}),
        [*RUNS, "stopped", "step"],
    ),
    "resumed after 55": (
        lines(RUNS, "step", "loss (nats)", looks=RESUMED, at={"stopped": 55.5}),
        [*RUNS, "stopped", "step"],
    ),
}
FRENCH = {  # a word that the drawing brings, where it brings words of its own
    "step on 1": "passe avant\u202f: activations",
    "Each ZeRO lets go of one thing more": "libéré",
    "Both end together; 1F1B keeps less": "gardés",
    "parameter server": "serveur de paramètres",
    "stacked bars": "poids",
    "First what fits, then what is slow": "oui",
    "timeline": "millisecondes",
}
BOXED = {"step on 1", "step on 2", "step on 8", "step with numbers", *list(CASES)[:5]}


def draw(name):
    return CASES[name][0](name)


def drawn(name):
    """A case's figure, and the texts that drawing it put on the page.

    Each has its box in pixels.
    """
    figure, texts = draw(name), {}

    def note(text, *args, **kwargs):
        if text.get_text().strip() and text.get_visible():
            texts[text] = None
        return plain(text, *args, **kwargs)

    plain = Text.draw
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", note)
        figure.canvas.draw()
    return figure, {text: text.get_window_extent() for text in texts}


def outside(texts, page):
    return [
        text.get_text()
        for text, box in texts.items()
        if box.x0 < page.x0 or box.y0 < page.y0 or box.x1 > page.x1 or box.y1 > page.y1
    ]


def overlapping(texts):
    def overlap(a, b):
        return (
            min(a.x1, b.x1) - max(a.x0, b.x0) > 0
            and min(a.y1, b.y1) - max(a.y0, b.y0) > -2
        )

    pairs = itertools.combinations(texts.items(), 2)
    return [
        (a.get_text(), b.get_text())
        for (a, box), (b, other) in pairs
        if overlap(box, other)
    ]


def wider_than_their_box(figure, texts):
    """Texts that reach over a side of the narrowest box that their middle is in."""
    boxes = [figure.bbox, *(patch.get_window_extent() for patch in patches(figure))]
    return [
        text.get_text()
        for text, extent in texts.items()
        if text.get_text() not in (ALL_REDUCE, OVER)  # in a band across all of them
        for middle in [((extent.x0 + extent.x1) / 2, (extent.y0 + extent.y1) / 2)]
        for box in [
            min(
                (box for box in boxes if box.contains(*middle)),
                key=lambda box: box.width,
            )
        ]
        if extent.x0 < box.x0 or extent.x1 > box.x1
    ]


@pytest.mark.parametrize("name", CASES)
def test_says_what_it_was_given_inside_the_figure_readably_and_leaves_no_trace(
    name, defaults
):
    figure, texts = drawn(name)
    assert (
        isinstance(figure, Figure) and figure.get_suptitle().replace("\n", " ") == name
    )
    assert {*CASES[name][1]} <= {text.get_text() for text in texts}
    assert not outside(texts, figure.bbox) and not overlapping(texts)
    assert name not in BOXED or not wider_than_their_box(figure, texts)
    smallest = min(
        text.get_size() * figure.dpi / 72 * min(1, 700 / figure.bbox.width)
        for text in texts
    )
    assert smallest > 11  # pixels, in a page of 700
    assert not pale(figure, texts)
    assert dict(rcParams) == defaults  # matplotlib's settings are as before


@pytest.mark.parametrize("name", CASES)
def test_french_words_fit_too(name, monkeypatch):
    monkeypatch.setenv("COURSE_LANGUAGE", "fr")
    figure, texts = drawn(name)
    told = {text.get_text() for text in texts}
    assert name not in FRENCH or FRENCH[name] in told
    assert not outside(texts, figure.bbox) and not overlapping(texts)
    assert name not in BOXED or not wider_than_their_box(figure, texts)


def pale(figure, texts):
    """Texts that do not stand out from what is drawn behind them: less than 4.5 : 1."""
    found = []
    for text, extent in texts.items():
        middle = (extent.x0 + extent.x1) / 2, (extent.y0 + extent.y1) / 2
        behind = "white"
        for axes in figure.axes:
            for patch in sorted(axes.patches, key=lambda patch: patch.get_zorder()):
                solid = patch.get_facecolor()[3] > 0
                if solid and patch.get_window_extent().contains(*middle):
                    behind = (
                        np.array(patch.get_facecolor()[:3]) * patch.get_facecolor()[3]
                    )
                    behind = behind + 1 - patch.get_facecolor()[3]
            for spans in axes.collections:  # of a timeline
                for path in spans.get_paths() if len(spans.get_facecolor()) else ():
                    if path.get_extents(spans.get_transform()).contains(*middle):
                        behind = spans.get_facecolor()[0][:3]
        if style.contrast(text.get_color(), behind) < 4.5:
            found.append((text.get_text(), text.get_color(), to_hex(behind)))
    return found


@pytest.fixture
def defaults():
    with rc_context({name: rcParamsDefault[name] for name in style.STYLE}):
        yield dict(rcParams)


# colours


def patches(figure):
    return [
        patch for patch in figure.axes[0].patches if isinstance(patch, FancyBboxPatch)
    ]


def filled(figure):
    """The colours of the boxes that are not white.

    Each comes with the text in its middle.
    """
    middles = {
        tuple(np.round(text.get_position(), 6)): text.get_text()
        for text in figure.axes[0].texts
    }
    found = []
    for patch in patches(figure):
        if patch.get_facecolor() != (1, 1, 1, 1):
            middle = (
                patch.get_x() + patch.get_width() / 2,
                patch.get_y() + patch.get_height() / 2,
            )
            found.append(
                (middles[tuple(np.round(middle, 6))], hexed(patch.get_facecolor()))
            )
    return found


def hexed(colour):
    return to_hex(colour).upper()


def colours(*whats):
    return [COLOURS[what] for what in whats]


@pytest.mark.parametrize("count", [1, 2])
def test_step_colours(count):
    boxes = filled(drawn(f"step on {count}")[0])
    alone = colours("inputs", "activations", "gradients", "optimizer", "weights")
    several = colours(
        "inputs", "activations", "gradients", "gradients", "optimizer", "weights"
    )
    expected = alone if count == 1 else 2 * several + [COLOURS["travels"]]
    assert [colour for _, colour in boxes] == expected
    assert [text for text, _ in boxes if text in STEP] == count * STEP


@pytest.mark.parametrize("count, shown", [(1, 0), (2, 2), (3, 3), (4, 4), (8, 3)])
def test_what_travels_between_devices(count, shown):
    figure = plots.training_step(devices(count), 8, "title", gradient_bytes=2**21)
    said = [
        text.get_text()
        for text in figure.axes[0].texts
        if text.get_text().startswith("all-reduce: 2.0 MiB")
    ]
    arrows = [
        text.arrow_patch
        for text in figure.axes[0].texts
        if getattr(text, "arrow_patch", None)
    ]
    edges = [hexed(arrow.get_edgecolor()) for arrow in arrows]
    assert len(said) == (count > 1) and edges.count(COLOURS["travels"]) == 2 * shown


# charts


def curves_of(axes):
    return {
        line.get_label(): line
        for line in axes.lines
        if not line.get_label().startswith("_")
    }


@pytest.mark.parametrize("number", [1, 12])
def test_no_curve_is_dropped_and_no_two_look_alike(number):
    curves = {f"curve {i}": [i, i + 1] for i in range(number)}
    (axes,) = plots.lines(curves, "title", "x", "y").axes
    assert {
        label: list(line.get_ydata()) for label, line in curves_of(axes).items()
    } == curves
    looks = {
        (line.get_color(), line.get_linestyle(), line.get_marker())
        for line in curves_of(axes).values()
    }
    assert len(looks) == number


@pytest.mark.parametrize("number", [1, 6])
def test_no_kind_of_bar_is_dropped_and_no_two_look_alike(number):
    kinds = [f"kind {i}" for i in range(number)]
    (axes,) = plots.bars(
        {"a": {kind: 1 + i for i, kind in enumerate(kinds)}}, "x", "title"
    ).axes
    bars = [each for each in axes.containers if each.get_label() in kinds]
    assert [each.get_label() for each in bars] == kinds
    assert len({each[0].get_hatch() for each in bars}) == number


def test_spread_and_reference():
    (axes,) = drawn("speeds")[0].axes
    assert axes.get_ylim()[0] == 0
    spreads = [
        [tuple(ends[:, 1]) for ends in each.lines[2][0].get_segments()]
        for each in axes.containers
    ]
    assert spreads == [[points[n][1:] for n in SIZES] for points in SWEEP.values()]
    for label, points in SWEEP.items():
        assert list(zip(*curves_of(axes)[label].get_data(), strict=True)) == [
            (n, points[n][0]) for n in SIZES
        ]
    assert set(curves_of(axes)["NumPy arrays, batch 32"].get_ydata()) == {4000}


def test_bars():
    (axes,) = drawn("bars")[0].axes
    columns, spread = axes.containers
    assert [column.get_width() for column in columns] == [
        median for median, _, _ in SPEEDS.values()
    ]
    assert [hexed(column.get_facecolor()) for column in columns] == [
        MUTED.upper()
    ] + 3 * [COLOURS["compute"]]
    ends = [tuple(ends[:, 0]) for ends in spread.lines[2][0].get_segments()]
    assert ends == [(low, high) for _, low, high in SPEEDS.values()]
    assert axes.yaxis_inverted() and axes.get_xlim()[0] == 0


def test_stacked_bars():
    (axes,) = drawn("stacked bars")[0].axes
    parts = {each.get_label(): each for each in axes.containers}
    assert [hexed(each[0].get_facecolor()) for each in parts.values()] == colours(
        *parts
    )
    for row, held in enumerate(MEMORY.values()):
        edge = 0
        for part, size in held.mib.items():
            assert parts[part][row].get_x() == pytest.approx(edge)
            assert parts[part][row].get_width() == pytest.approx(size)
            edge += size


def spans(figure):
    """{row: [(start, end, what), …]}, from what was drawn."""
    (axes,) = figure.axes
    named = {colour: what for what, colour in COLOURS.items()}
    rows = {label.get_text(): [] for label in axes.get_yticklabels()}
    for collection in axes.collections:
        (box,) = [path.get_extents() for path in collection.get_paths()]
        row = list(rows)[round((box.y0 + box.y1) / 2)]
        rows[row].append((box.x0, box.x1, named[hexed(collection.get_facecolor()[0])]))
    return rows


def test_timeline():
    figure = drawn("timeline")[0]
    assert spans(figure) == {
        row: [(start, start + time, what) for start, time, what in line]
        for row, line in ROWS.items()
    }
    (legend,) = figure.findobj(Legend)
    assert [hexed(patch.get_facecolor()) for patch in legend.get_patches()] == colours(
        *WORDS
    )


ONE = {"curve": [0.1, 0.5]}


def test_limits_of_one_panel_and_of_several():
    (axes,) = plots.lines(ONE, "T", "x", "y", ylim=(0, 0.7)).axes
    pair = plots.lines([ONE, ONE], "T", "x", ["y", "z"], ylim=[None, (0, 2)]).axes
    assert (
        axes.get_ylim()[1] == 0.7
        and pair[1].get_ylim() == (0, 2)
        and pair[0].get_ylim()[1] != 2
    )


MANY = {str(i): [1] for i in range(13)}
OTHER = {"b": "wrong"}
REFUSED = {
    r"^curves=.*: give at least one": lambda: plots.lines(
        [{"a": [1]}, {}], "T", "x", "y"
    ),
    r"^values=.*: give at least one": lambda: plots.bars({}, "x", "T"),
    r"^rows=.*: give at least one": lambda: plots.timeline({}, "T", {}),
    "^looks: nothing is called 'b'": lambda: plots.lines(
        {"a": [1]}, "T", "x", "y", looks=OTHER
    ),
    "looks: nothing is called 'b'": lambda: plots.bars(
        {"row": {"a": 1}}, "x", "T", looks=OTHER
    ),
    "13 curves: at most 12 can be told apart": lambda: plots.lines(MANY, "T", "x", "y"),
    "7 kinds of bars: at most 6": lambda: plots.bars(
        {"row": dict.fromkeys("1234567", 1)}, "x", "T"
    ),
    "across=.*: at most 4 lines": lambda: plots.lines(
        ONE, "T", "x", "y", across={str(i): i for i in range(5)}
    ),
    "across=.*: bars take one line at most": lambda: plots.bars(
        {"a": 1}, "u", "T", across={"one": 1, "two": 2}
    ),
    r"y=\['y'\]: must be no list, since curves is one panel": lambda: plots.lines(
        ONE, "T", "x", ["y"]
    ),
    "y=.*: must be a list of 2, one entry a panel": lambda: plots.lines(
        [ONE, ONE], "T", "x", ["y"]
    ),
    "ylim=.*: must be a list of 2": lambda: plots.lines(
        [ONE, ONE], "T", "x", "y", ylim=[(0, 1)] * 3
    ),
    r"ylim=0.7: must be a pair \(low, high\)": lambda: plots.lines(
        ONE, "T", "x", "y", ylim=0.7
    ),
    r"ylim=.*: must be a pair \(low, high\)": lambda: plots.lines(
        ONE, "T", "x", "y", ylim=(0, 1, 2)
    ),
    r"^examples=\[32, 32\]: must be one number, or one for": lambda: (
        plots.training_step(devices(3), [32, 32], "T")
    ),
    "numbers: no box is called 'gradient'": lambda: plots.training_step(
        devices(2), 8, "T", numbers={"gradient": []}
    ),
    "^story: 5 devices": lambda: planner.drawings.ring(
        [("start", [[1] * 5] * 5, None)], "T"
    ),
}


@pytest.mark.parametrize("words, draw", REFUSED.items())
def test_an_option_that_does_not_fit_says_what_would(words, draw):
    with pytest.raises(ValueError, match=words):
        draw()
