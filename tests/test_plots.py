"""Every drawing: what it says, what its colours mean, and that no text is cut off or hidden by another."""

import functools
import itertools

import numpy as np
import pytest
from matplotlib import rc_context, rcParams, rcParamsDefault
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import FancyBboxPatch
from matplotlib.text import Text

from course_utils import plots
from course_utils.planner import Memory
from course_utils.plots import style
from course_utils.plots.style import COLOURS, INK, MUTED

IMAGES, LABELS = np.linspace(0, 1, 16 * 784, dtype="float32").reshape(16, 28, 28, 1), np.arange(16) % 10
LOSS = {"training": [1.9, 0.8, 0.4, 0.3, 0.2], "test": [1.2, 0.6, 0.5, 0.4, 0.35]}
ACCURACY = {"training": [0.4, 0.8, 0.9, 0.93, 0.95], "test": [0.6, 0.85, 0.9, 0.91, 0.92]}
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
RESUMED = {"never stopped": "behind", "resumed, weights only": "wrong"}
MEMORY = {
    "one device": Memory(2775848, 2775848, 5551696, 16684032),
    "data parallel": Memory(2775848, 2775848, 5551696, 4171008),
}
COUNTS = [2**k for k in range(11)]
GROWING = {"the course's model": {n: n**-0.5 for n in COUNTS}, "ResNet-50's size": {n: n**0.7 for n in COUNTS}}
SHARES = {name: {n: i / 10 for i, n in enumerate(COUNTS)} for name in GROWING}
ALL_REDUCE = "all-reduce: 2.6 MiB of gradients from each device, combined, back to each"
SCOPES = {
    "CPU:0": [("plain model: 6 variables", "weights"), ("its optimizer: 14 variables", "optimizer")],
    "CPU:1": [("pinned model: 6 variables", "weights"), ("its optimizer: 14 variables", "optimizer")],
}
OWN = [("weights: a copy", "weights"), ("optimizer: a copy", "optimizer"), ("its part of the data", "inputs")]
OVER = "all-reduce: 2.6 MiB of gradients over the network"
EVERY = [[2 * i, 2 * i + 1] for i in range(8)]
LESS = [[[0, 1], [2, 3]], [[0, 4], [5]]]
STEP = ["forward: activations", "backward: gradients", "optimizer: moments", "update: new weights"]
CODE = ["model(images, training=True)", "tape.gradient(loss, …)", "model.trainable_variables"]


def story(count):
    """A made-up ring: its numbers are as long as real ones, and mean nothing."""
    start = [[10**d * (c + 1) for c in range(count)] for d in range(count)]
    end = [[int("1" * count) * (c + 1) for c in range(count)]] * count
    steps = [(f"step {i}", end if i else start, list(range(count))) for i in range(2 * count - 2)]
    return [*steps, ("the sum, on all", end, None)]


def on(count):
    """Contents of some devices, the fourth and later of which are empty."""
    full = [
        ("weights", "weights"),
        ("moments", "optimizer"),
        ("gradients", "gradients"),
        ("images", "inputs"),
    ]
    return {name: full[: 4 - i] if i < 3 else [] for i, name in enumerate(devices(count))}


def devices(count):
    return [f"CPU:{i}" for i in range(count)]


# name: (the drawing, its title, texts that must be there besides)
CASES = {
    "digits": (
        lambda title: plots.digits(IMAGES, LABELS, title),
        "Real handwriting, MNIST's shape and scale",
        list("0123456789"),
    ),
    "two digits": (lambda title: plots.digits(IMAGES[:2], [3, 7], title), "Two", ["3", "7"]),
    "placement on 1": (
        lambda title: plots.placement(on(1), title),
        "One device holds everything",
        ["CPU:0", "this process", "weights", "moments", "gradients", "images"],
    ),
    "placement on 2": (
        lambda title: plots.placement(SCOPES, title),
        "The scope decides where weights and optimizer live",
        ["CPU:0", "CPU:1", "this process", "plain model: 6 variables", "pinned model: 6 variables"],
    ),
    "placement on 4": (
        lambda title: plots.placement(on(4), title, "worker 0"),
        "Four devices",
        [*devices(4), "worker 0", "moments", "nothing"],
    ),
    "placement on 8": (
        lambda title: plots.placement(on(8), title),
        "Eight devices",
        ["CPU:0", "CPU:1", "…\n5 more", "CPU:7", "nothing"],
    ),
    "placement on 8, wide": (
        lambda title: plots.placement({f"CPU:{i}": [("moments 5.3 MiB", "optimizer")] for i in range(8)}, title),
        "8 replicas keep everything 8 times",
        ["moments 5.3 MiB"],
    ),
    "placement of nothing": (
        lambda title: plots.placement({"GPU:0": []}, title),
        "Nothing yet",
        ["GPU:0", "nothing"],
    ),
    "workers, 2": (
        lambda title: plots.workers({f"worker {i}": OWN for i in range(2)}, title, OVER, "a folder that all reach"),
        "Two processes share nothing but what they send",
        ["worker 0", "worker 1", *(text for text, _ in OWN), OVER, "a folder that all reach"],
    ),
    "workers, 3, no folder": (
        lambda title: plots.workers({f"worker {i}": [("weights", "weights")] for i in range(3)}, title, OVER),
        "Three processes",
        ["worker 2", "weights", OVER],
    ),
    "shards": (
        lambda title: plots.shards({"OFF": [EVERY] * 2, "DATA": [EVERY[::2], EVERY[1::2]], "less": LESS}, 16, title),
        "Whoever reads everything twice trains twice on it",
        [
            *("OFF", "worker 0", "worker 1", "15", "8 steps · 16 examples twice", "4 steps"),
            "2 steps · 1 example twice · never: 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
        ],
    ),
    "tpu": (
        lambda title: plots.tpu(
            title,
            "batches",
            {
                "HBM": ("weights", "weights"),
                "vector unit": ("8 × 128 lanes", "activations"),
                "matrix unit": ("128 × 128 multiply-adds", "compute"),
            },
        ),
        "A TPU multiplies matrices; the host must keep it fed",
        ["host", "TPU chip", "batches", "HBM: weights", "vector unit: 8 × 128 lanes", "tf.data: batches"],
    ),
    "heatmap": (
        lambda title: plots.heatmap(
            [[10 * i + j for j in range(64)] for i in range(16)],
            range(1, 17),
            range(8, 520, 8),
            "features",
            "examples per core",
            "lanes in use (%)",
            title,
        ),
        "Small batches and odd sizes leave the matrix unit idle",
        ["features", "examples per core", "lanes in use (%)", "64", "512", "2", "16"],
    ),
    "step on 1": (
        lambda title: plots.training_step(["CPU:1"], 128, title),
        "One device: the whole step stays at home",
        ["CPU:1", "128 examples", *STEP, *CODE],
    ),
    "step on 2": (
        lambda title: plots.training_step(devices(2), 64, title, 693_962 * 4),
        "Two replicas: one thing is new, the all-reduce",
        [*devices(2), "64 examples", *STEP, "batch's gradient", ALL_REDUCE],
    ),
    "step on 3": (
        lambda title: plots.training_step(devices(3), 32, title, 693_962 * 4),
        "Three replicas",
        [*devices(3), "32 examples", "gradients", "moments", ALL_REDUCE],
    ),
    "step on 4 shards": (
        lambda title: plots.training_step(devices(4), [64, 32, 16, 16], title, 693_962 * 4, optimizer=False),
        "Four replicas: only the gradients leave their device",
        [*devices(4), "64 examples", "32 examples", "16 examples", "new weights", ALL_REDUCE],
    ),
    "step on 8": (
        lambda title: plots.training_step([f"GPU:{i}" for i in range(8)], list(range(1001, 1009)), title, 693_962 * 4),
        "Eight replicas",
        ["GPU:0", "GPU:1", "…\n5 more", "GPU:7", "1001 examples", "1002 examples", "1008 examples", ALL_REDUCE],
    ),
    "step with numbers": (
        lambda title: plots.training_step(
            devices(4), 32, title, 693_962 * 4, numbers={"gradients": [f"{i}.0071" for i in range(4)]}
        ),
        "One number on its way",
        [*devices(4), "0.0071", "3.0071", "new weights", ALL_REDUCE],
    ),
    "ring": (
        lambda title: plots.ring(story(4), title, "Each arrow is one\nchunk: 4 bytes."),
        "The ring: in each step every device sends one chunk to the next",
        ["step 0", "the sum, on all", "sum of 4", "1111", "4000"],
    ),
    "ring of 2": (lambda title: plots.ring(story(2), title), "Two", ["step 0", "sum of 2", "11"]),
    "split layer": (
        lambda title: plots.split_layer(title),
        "Columns need an all-gather, rows an all-reduce",
        ["by columns", "by rows", "all-gather: side by side", "all-reduce: added up"],
    ),
    "decision": (
        lambda title: plots.decision(title),
        "First what fits, then what is slow",
        ["Does it fit on\none device?", "data parallel\n(02, 03, 04)", "yes", "no"],
    ),
    "curves": (
        lambda title: plots.lines(
            {"training": [1.9, 0.8, 0.4], "test": [1.2, 0.6, 0.5]}, title, "epoch", "loss (nats)"
        ),
        "Three epochs are enough",
        ["epoch", "1", "2", "3", "loss (nats)", "training", "test"],
    ),
    "two panels": (
        lambda title: plots.lines(
            [LOSS, ACCURACY], title, "epoch", ["loss (nats)", "accuracy"], ylim=[None, (None, 1)]
        ),
        "Five epochs are enough to read most digits",
        ["epoch", "5", "loss (nats)", "accuracy", "training", "test"],
    ),
    "curves of 20 epochs": (
        lambda title: plots.lines({"training": [1] * 20}, title, "epoch", "loss (nats)"),
        "Twenty",
        ["epoch", "training"],
    ),
    "twelve curves": (
        lambda title: plots.lines({f"{n} updates old": [n, n + 1] for n in range(12)}, title, "updates", "loss (nats)"),
        "Twelve curves",
        [f"{n} updates old" for n in range(12)],
    ),
    "speeds": (
        lambda title: plots.lines(
            SWEEP, title, "global batch size (examples)", "examples/s", log="x", across=REFERENCE
        ),
        "Batch 256 trains on 2.3× the examples/s of batch 32",
        [*SWEEP, *REFERENCE, "global batch size (examples)", "examples/s", *map(str, SIZES), "8,000"],
    ),
    "logarithms": (
        lambda title: plots.lines(
            [GROWING | {"ideal": dict(zip(COUNTS, COUNTS, strict=True))}, SHARES],
            title,
            "devices",
            ["times as fast as one device", "communication's share"],
            log=["xy", "x"],
            ylim=[None, (0, 1.03)],
            across=[None, {"half of the step": 0.5}],
            looks={"ideal": "reference"},
        ),
        "On paper: the larger the work per byte, the further it scales",
        [*GROWING, "ideal", "1,024", "256", "half of the step", "devices", "0.1", "1,000"],
    ),
    "named panels": (
        lambda title: plots.lines(
            [GROWING, GROWING], title, "devices", "speed-up", log="xy", names=["the same job", "a growing job"]
        ),
        "A fixed job saturates; a job that grows with the devices does not",
        ["the same job", "a growing job", "speed-up"],
    ),
    "under 1 MiB": (
        lambda title: plots.lines({"ring": {2: 0.001, 1024: 0.002}}, title, "devices", "MiB", log="xy"),
        "A small model",
        ["ring", "MiB", "0.001", "0.002"],
    ),
    "formula and points": (
        lambda title: plots.lines(
            {"(p − 1)/(m + p − 1)": {m: 3 / (m + 3) for m in range(1, 33)}, "measured": {1: 0.76, 16: 0.17}},
            title,
            "micro-batches m",
            "share of time a stage waits",
            log="x",
            ylim=(0, 1),
            looks={"measured": "points"},
        ),
        "More micro-batches, a smaller bubble (four stages)",
        ["measured", "(p − 1)/(m + p − 1)", "micro-batches m", "16"],
    ),
    "bars": (
        lambda title: plots.bars(SPEEDS, "examples/s", title),
        "The tuned pipeline: 3.1× the examples per second",
        [*SPEEDS, "examples/s", "4,000", "12,345"],
    ),
    "one bar": (lambda title: plots.bars({"only": (3, 2, 4)}, "ms", title), "One way", ["only", "ms", "3"]),
    "small bars": (
        lambda title: plots.bars({"a": 0.4, "b": 0.0123}, "ms", title),
        "Small numbers",
        ["0.4", "0.0123"],
    ),
    "stacked bars": (
        lambda title: plots.bars({name: each.mib for name, each in MEMORY.items()}, "MiB on the fullest device", title),
        "Only splitting the model makes its weights smaller on a device",
        [*MEMORY, "26.5", "14.6", "activations", "optimizer", "MiB on the fullest device"],
    ),
    "bars side by side": (
        lambda title: plots.bars(
            {"a/kernel": {"right": 1e-5, "naive": 31.0}, "a/bias": {"right": 2e-5, "naive": 17.0}},
            "error, % of the true gradient's length",
            title,
            stacked=False,
            looks={"naive": "wrong"},
        ),
        "Averaging unequal shards naively: wrong by up to 31%",
        ["right", "naive", "a/kernel", "31", "1e-05"],
    ),
    "histogram": (
        lambda title: plots.histogram({"the fast": [2, 2, 3], "the straggler": [11, 12, 12]}, "age", "%", title),
        "The slower the replica, the older its gradients",
        ["the fast", "the straggler", "age", "%"],
    ),
    "timeline": (
        lambda title: plots.timeline(ROWS, title, WORDS),
        "One worker waits",
        [*ROWS, *WORDS.values(), "milliseconds"],
    ),
    "bars cut off": (
        lambda title: plots.bars(
            {"one device": {"weights": 50, "activations": 950}, "ZeRO": {"weights": 20, "activations": 30}},
            "GiB",
            title,
            across={"what a device has": 80},
        ),
        "Some are far too long",
        ["what a device has", "1,000 …", "50", "weights"],
    ),
    "timeline with numbers": (
        lambda title: plots.timeline(
            {"stage 0": [(0, 9, "waiting"), *((k, 1, "compute", f"n{k}") for k in range(4))]}, title, WORDS
        ),
        "All forward, then all backward",
        ["stage 0", "n0", "n3"],
    ),
    "timeline of one row": (
        lambda title: plots.timeline({"CPU:0": [(0, 2, "compute")]}, title, WORDS, "seconds"),
        "One row",
        ["CPU:0", "train on it", "seconds"],
    ),
    "timeline of eight rows": (
        lambda title: plots.timeline({f"worker {i}": [(0, 9, "compute")] for i in range(8)}, title, WORDS),
        "Eight rows",
        [f"worker {i}" for i in range(8)],
    ),
    "a long title": (
        lambda title: plots.bars({"a": 1}, "ms", title),
        "Of eight replicas on two cores each waits for the others most of the time, and the more so the more there are",
        ["a"],
    ),
}
for stop in 8, 24, 55:
    CASES[f"resumed after {stop}"] = (
        lambda title, stop=stop: plots.lines(
            RUNS, title, "step", "loss (nats)", looks=RESUMED, at={"stopped, saved, loaded": stop + 0.5}
        ),
        f"Stopped after step {stop}",
        [*RUNS, "stopped, saved, loaded", "step", "loss (nats)"],
    )
BOXED = [name for name in CASES if name.startswith(("placement", "step", "workers"))]


def draw(name):
    drawing, title, _ = CASES[name]
    return drawing(title)


@functools.cache
def drawn(name):
    """A case's figure, and the texts that drawing it put on the page, each with its box in pixels."""
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
        return min(a.x1, b.x1) - max(a.x0, b.x0) > 0 and min(a.y1, b.y1) - max(a.y0, b.y0) > -2

    pairs = itertools.combinations(texts.items(), 2)
    return [(a.get_text(), b.get_text()) for (a, box), (b, other) in pairs if overlap(box, other)]


def wider_than_their_box(figure, texts):
    """Texts that reach over a side of the narrowest box that their middle is in."""
    boxes = [figure.bbox, *(patch.get_window_extent() for patch in patches(figure))]
    return [
        text.get_text()
        for text, extent in texts.items()
        if text.get_text() not in (ALL_REDUCE, OVER)  # in a band across all of them
        for middle in [((extent.x0 + extent.x1) / 2, (extent.y0 + extent.y1) / 2)]
        for box in [min((box for box in boxes if box.contains(*middle)), key=lambda box: box.width)]
        if extent.x0 < box.x0 or extent.x1 > box.x1
    ]


every_case = pytest.mark.parametrize("name", CASES)


@every_case
def test_says_what_it_was_given(name):
    figure, texts = drawn(name)
    _, title, expected = CASES[name]
    assert isinstance(figure, Figure) and figure.get_suptitle().replace("\n", " ") == title
    assert {*expected} <= {text.get_text() for text in texts}


@every_case
def test_every_text_is_inside_the_figure(name):
    figure, texts = drawn(name)
    assert not outside(texts, figure.bbox)


@every_case
def test_no_text_hides_another(name):
    assert not overlapping(drawn(name)[1])


@pytest.mark.parametrize("name", BOXED)
def test_text_stays_in_its_box(name):
    assert not wider_than_their_box(*drawn(name))


def test_curves_of_one_epoch():
    figure = plots.lines({"training": [1.0]}, "One epoch", "epoch", "loss (nats)")
    figure.canvas.draw()
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


@pytest.fixture
def defaults():
    with rc_context({name: rcParamsDefault[name] for name in style.STYLE}):
        yield dict(rcParams)


@every_case
def test_leaves_matplotlibs_settings_alone(name, defaults):
    draw(name)
    assert dict(rcParams) == defaults


def test_leaves_matplotlibs_settings_alone_when_it_fails(defaults):
    with pytest.raises(ValueError, match="colour='no such thing': must be"):
        plots.placement({"CPU:0": [("text", "no such thing")]}, "title")
    assert dict(rcParams) == defaults


def test_reads_well_at_700_pixels():
    for name in CASES:
        figure, texts = drawn(name)
        shrunk = 700 / figure.bbox.width
        assert min(text.get_size() * figure.dpi / 72 * min(1, shrunk) for text in texts) > 11, name


# colours


def patches(figure):
    return [patch for patch in figure.axes[0].patches if isinstance(patch, FancyBboxPatch)]


def filled(figure):
    """The colours of the boxes that are not white, with the text in the middle of each."""
    middles = {tuple(np.round(text.get_position(), 6)): text.get_text() for text in figure.axes[0].texts}
    found = []
    for patch in patches(figure):
        if patch.get_facecolor() != (1, 1, 1, 1):
            middle = patch.get_x() + patch.get_width() / 2, patch.get_y() + patch.get_height() / 2
            found.append((middles[tuple(np.round(middle, 6))], hexed(patch.get_facecolor())))
    return found


def hexed(colour):
    return to_hex(colour).upper()


def colours(*whats):
    return [COLOURS[what] for what in whats]


def test_placement_colours():
    figure = drawn("placement on 1")[0]
    assert filled(figure) == [
        ("weights", COLOURS["weights"]),
        ("moments", COLOURS["optimizer"]),
        ("gradients", COLOURS["gradients"]),
        ("images", COLOURS["inputs"]),
    ]
    process, device = patches(figure)[:2]
    assert process.get_linestyle() == "--" and device.get_linestyle() in ("-", "solid")


@pytest.mark.parametrize("count", [1, 2])
def test_step_colours(count):
    boxes = filled(drawn(f"step on {count}")[0])
    alone = colours("inputs", "activations", "gradients", "optimizer", "weights")
    several = colours("inputs", "activations", "gradients", "gradients", "optimizer", "weights")
    expected = alone if count == 1 else 2 * several + [COLOURS["travels"]]
    assert [colour for _, colour in boxes] == expected
    assert [text for text, _ in boxes if text in STEP] == count * STEP


@pytest.mark.parametrize("count, shown", [(1, 0), (2, 2), (3, 3), (4, 4), (8, 3)])
def test_what_travels_between_devices(count, shown):
    figure = plots.training_step(devices(count), 8, "title", gradient_bytes=2**21)
    said = [text.get_text() for text in figure.axes[0].texts if text.get_text().startswith("all-reduce: 2.0 MiB")]
    arrows = [text.arrow_patch for text in figure.axes[0].texts if getattr(text, "arrow_patch", None)]
    edges = [hexed(arrow.get_edgecolor()) for arrow in arrows]
    assert len(said) == (count > 1) and edges.count(COLOURS["travels"]) == 2 * shown


def test_step_with_another_number_of_shards():
    with pytest.raises(ValueError, match=r"^examples=\[32, 32\]: must be one number, or one for each of the 3 devices"):
        plots.training_step(devices(3), [32, 32], "title")


@pytest.mark.parametrize("count", [1, 5])
def test_ring_of_too_many_or_too_few(count):
    with pytest.raises(ValueError, match=f"^story: {count} devices"):
        plots.ring([("start", [[1] * count] * count, None)], "title")


# charts


def lines(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


@pytest.mark.parametrize("number", range(1, 13))
def test_no_curve_is_dropped_and_no_two_look_alike(number):
    curves = {f"curve {i}": [i, i + 1] for i in range(number)}
    (axes,) = plots.lines(curves, "title", "x", "y").axes
    assert {label: list(line.get_ydata()) for label, line in lines(axes).items()} == curves
    assert len({(line.get_color(), line.get_linestyle()) for line in lines(axes).values()}) == number


def test_too_many_curves_are_refused():
    with pytest.raises(ValueError, match="13 curves: at most 12 can be told apart"):
        plots.lines({str(i): [1] for i in range(13)}, "title", "x", "y")


@pytest.mark.parametrize("number", range(1, 7))
def test_no_kind_of_bar_is_dropped_and_no_two_look_alike(number):
    kinds = [f"kind {i}" for i in range(number)]
    for figure in (
        plots.bars({"a": {kind: 1 + i for i, kind in enumerate(kinds)}}, "x", "title"),
        plots.histogram({kind: [1, 2] for kind in kinds}, "x", "y", "title"),
    ):
        (axes,) = figure.axes
        bars = [each for each in axes.containers if each.get_label() in kinds]
        assert [each.get_label() for each in bars] == kinds
        assert len({each[0].get_hatch() for each in bars}) == number


def test_too_many_kinds_of_bars_are_refused():
    with pytest.raises(ValueError, match="7 kinds of bars: at most 6"):
        plots.histogram({str(i): [1] for i in range(7)}, "x", "y", "title")


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.lines({}, "title", "x", "y"),
        lambda: plots.lines([{"a": [1]}, {}], "title", "x", "y"),
        lambda: plots.bars({}, "x", "title"),
        lambda: plots.histogram({}, "x", "y", "title"),
        lambda: plots.timeline({}, "title", {}),
    ],
)
def test_nothing_to_draw(draw):
    with pytest.raises(ValueError, match="give at least one"):
        draw()


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.lines({"a": [1]}, "title", "x", "y", looks={"b": "wrong"}),
        lambda: plots.bars({"row": {"a": 1}}, "x", "title", looks={"b": "wrong"}),
        lambda: plots.bars({"row": 1}, "x", "title", looks={"b": "wrong"}),
    ],
)
def test_look_of_what_is_not_there(draw):
    with pytest.raises(ValueError, match="looks: nothing is called 'b'"):
        draw()


def test_a_free_look_is_never_a_chosen_one():
    labels = [str(i) for i in range(9)]
    looks = style.curve_looks(labels, {"0": "compute", "1": "reference"})
    assert len({(each["color"], each.get("linestyle", "-")) for each in looks.values()}) == 9


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_no_reference_line_is_dropped_and_no_two_look_alike(number):
    across = {f"level {i}": i for i in range(number)}
    (axes,) = plots.lines({"a": [1, 2]}, "title", "x", "y", across=across).axes
    drawn = {label: line for label, line in lines(axes).items() if label in across}
    assert {label: line.get_ydata()[0] for label, line in drawn.items()} == across
    assert len({line.get_linestyle() for line in drawn.values()}) == number


def test_too_many_reference_lines_are_refused():
    with pytest.raises(ValueError, match=r"^across=.*: at most 4 lines can be told apart"):
        plots.lines({"a": [1]}, "title", "x", "y", across={str(i): i for i in range(5)})


def test_numbers_for_a_box_that_is_not_there():
    with pytest.raises(ValueError, match="numbers: no box is called 'gradient'"):
        plots.training_step(devices(2), 8, "title", numbers={"gradient": ["1", "2"]})


def test_options_for_another_number_of_panels():
    with pytest.raises(ValueError):
        plots.lines([LOSS, ACCURACY], "title", ["epoch"], "y")


def test_two_panels():
    figure = drawn("two panels")[0]
    for axes, curves in zip(figure.axes, (LOSS, ACCURACY), strict=True):
        assert {label: list(line.get_ydata()) for label, line in lines(axes).items()} == curves
        assert all(line.get_xdata().tolist() == [1, 2, 3, 4, 5] for line in lines(axes).values())
    assert figure.axes[0].get_ylim()[0] == 0 and figure.axes[1].get_ylim()[1] == 1


def test_spread_and_reference():
    (axes,) = drawn("speeds")[0].axes
    assert axes.get_ylim()[0] == 0
    spreads = [[tuple(ends[:, 1]) for ends in each.lines[2][0].get_segments()] for each in axes.containers]
    assert spreads == [[points[n][1:] for n in SIZES] for points in SWEEP.values()]
    for label, points in SWEEP.items():
        assert list(zip(*lines(axes)[label].get_data(), strict=True)) == [(n, points[n][0]) for n in SIZES]
    assert set(lines(axes)["NumPy arrays, batch 32"].get_ydata()) == {4000}


def test_a_small_model_does_not_turn_the_axis_upside_down():
    (axes,) = drawn("under 1 MiB")[0].axes
    low, high = axes.get_ylim()
    assert low < 0.001 < 0.002 < high


@pytest.mark.parametrize(
    "value, text",
    [(0.4, "0.4"), (0, "0"), (26.47, "26.5"), (12345, "12,345"), (999.6, "1,000"), (100, "100"), (3, "3"),
     (1e-7, "1e-07"), (0.0123, "0.0123"), (-1.5, "-1.5"), (float("inf"), "inf")],
)  # fmt: skip
def test_number(value, text):
    assert style.number(value) == text


def test_bars():
    (axes,) = drawn("bars")[0].axes
    columns, spread = axes.containers
    assert [column.get_width() for column in columns] == [median for median, _, _ in SPEEDS.values()]
    assert [hexed(column.get_facecolor()) for column in columns] == [MUTED.upper()] + 3 * [COLOURS["compute"]]
    ends = [tuple(ends[:, 0]) for ends in spread.lines[2][0].get_segments()]
    assert ends == [(low, high) for _, low, high in SPEEDS.values()]
    assert axes.yaxis_inverted() and axes.get_xlim()[0] == 0


def test_stacked_bars():
    (axes,) = drawn("stacked bars")[0].axes
    parts = {each.get_label(): each for each in axes.containers}
    assert [hexed(each[0].get_facecolor()) for each in parts.values()] == colours(*parts)
    for row, held in enumerate(MEMORY.values()):
        edge = 0
        for part, size in held.mib.items():
            assert parts[part][row].get_x() == pytest.approx(edge)
            assert parts[part][row].get_width() == pytest.approx(size)
            edge += size


def test_bars_side_by_side():
    (axes,) = drawn("bars side by side")[0].axes
    right, naive = axes.containers
    assert [each.get_width() for each in naive] == [31, 17] and {each.get_x() for each in (*right, *naive)} == {0}
    assert hexed(naive[0].get_facecolor()) == COLOURS["wrong"] != hexed(right[0].get_facecolor())
    spans = sorted((bar.get_y(), bar.get_y() + bar.get_height()) for bar in (*right, *naive))
    assert all(before[1] <= after[0] + 1e-9 for before, after in itertools.pairwise(spans))


def test_histogram():
    (axes,) = drawn("histogram")[0].axes
    fast, straggler = axes.containers
    places = [[round(bar.get_x() + bar.get_width() / 2, 3) for bar in bars] for bars in (fast, straggler)]
    assert places == [[1.8, 2.8], [11.2, 12.2]]
    assert [round(bar.get_height()) for bars in (fast, straggler) for bar in bars] == [67, 33, 33, 67]


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
    }  # fmt: skip
    (legend,) = figure.findobj(Legend)
    assert [hexed(patch.get_facecolor()) for patch in legend.get_patches()] == colours(*WORDS)


def test_bars_end_at_three_times_the_line():
    (axes,) = drawn("bars cut off")[0].axes
    assert axes.get_xlim() == (0, 240)
    assert [line.get_xdata() for line in axes.lines] == [[80, 80]]


def test_timeline_numbers_stand_in_their_spans():
    (axes,) = drawn("timeline with numbers")[0].axes
    places = {text.get_text(): text.get_position() for text in axes.texts if text.get_text()}
    assert places == {f"n{k}": (k + 0.5, 0) for k in range(4)}


def test_looks_that_mean_something():
    (axes,) = drawn("resumed after 24")[0].axes
    looks = [(INK, "-"), (COLOURS["compute"], "-"), (COLOURS["wrong"], "--")]
    for label, look in zip(RUNS, looks, strict=True):
        assert (lines(axes)[label].get_color(), lines(axes)[label].get_linestyle()) == look
    assert lines(axes)["resumed with optimizer"].get_xdata().tolist() == list(range(25, 61))
    (stop,) = [line for line in axes.lines if line.get_label().startswith("_")]
    assert set(stop.get_xdata()) == {24.5}


def linear(colour):
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIE L*a*b* of linear sRGB (IEC 61966-2-1, D65)."""
    xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]] @ rgb
    x, y, z = (np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in xyz / [0.9505, 1, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


EYES = {  # Machado, Oliveira, Fernandes (2009), severity 1
    "normal": np.eye(3),
    "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "deuteranopia": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9690]],
}


@pytest.mark.parametrize("eye", EYES)
def test_colours_can_be_told_apart(eye):
    seen = {
        what: lab(np.clip(EYES[eye] @ linear(colour), 0, 1))
        for what, colour in COLOURS.items()
        if what != "activations"
    }
    pairs = itertools.combinations(seen, 2)
    distances = {(a, b): float(np.linalg.norm(seen[a] - seen[b])) for a, b in pairs}
    assert min(distances.values()) > (25 if eye == "normal" else 15), sorted(
        distances.items(), key=lambda item: item[1]
    )[:3]


@pytest.mark.parametrize("what", ["inputs", "weights", "gradients", "optimizer", "waiting"])
def test_text_is_readable_in_a_box(what):
    light, dark = (float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (COLOURS[what], INK))
    assert (light + 0.05) / (dark + 0.05) > 4.5  # WCAG's contrast ratio


def test_heatmap_needs_a_row_for_each_row():
    with pytest.raises(ValueError, match=r"values: shape \(1, 2\); must be \(2, 2\)"):
        plots.heatmap([[1, 2]], [1, 2], [1, 2], "x", "y", "%", "Too few")


ONE = {"curve": [0.1, 0.5]}


@pytest.mark.parametrize("limits", [(0, 0.7), [0, 0.7], [None, 0.7], np.array([0, 0.7])])
def test_limits_are_a_pair_in_any_form(limits):
    (axes,) = plots.lines(ONE, "T", "x", "y", ylim=limits).axes
    assert axes.get_ylim()[1] == 0.7
    both = plots.lines([ONE, ONE], "T", "x", "y", ylim=limits).axes
    assert [axes.get_ylim()[1] for axes in both] == [0.7, 0.7]


def test_limits_for_each_panel():
    pair = plots.lines([ONE, ONE], "T", "x", ["y", "z"], ylim=[None, [0, 2]]).axes
    assert pair[1].get_ylim() == (0, 2) and pair[0].get_ylim()[1] != 2


@pytest.mark.parametrize(
    "draw, words",
    [
        (lambda: plots.lines(ONE, "T", "x", ["y"]), r"y=\['y'\]: must be no list, since curves is one panel"),
        (lambda: plots.lines(ONE, "T", "x", "y", names=["a", "b"]), "names=.*: must be no list"),
        (lambda: plots.lines([ONE, ONE], "T", "x", ["y"]), "y=.*: must be a list of 2, one entry a panel"),
        (lambda: plots.lines([ONE, ONE], "T", "x", "y", ylim=[(0, 1)] * 3), "ylim=.*: must be a list of 2"),
        (lambda: plots.lines(ONE, "T", "x", "y", ylim=0.7), "ylim: 0.7 is not a list, a tuple or an array"),
        (lambda: plots.lines(ONE, "T", "x", "y", ylim=(0, 1, 2)), r"ylim=.*: must be a pair \(low, high\)"),
        (lambda: plots.bars({"a": 1}, "u", "T", across={"one": 1, "two": 2}), "across=.*: bars take one line at most"),
        (lambda: plots.histogram({"a": 3}, "x", "y", "T"), r"groups\['a'\]: 3 is not a list, a tuple or an array"),
        (lambda: plots.histogram({"a": [0.5]}, "x", "y", "T"), r"groups\['a'\]=0.5: must be a whole number"),
        (lambda: plots.histogram({"a": np.ones((2, 2))}, "x", "y", "T"), "must be a whole number"),
        (lambda: plots.histogram({"a": np.array([])}, "x", "y", "T"), "groups=.*: give at least one"),
    ],
)
def test_an_option_that_does_not_fit_says_what_would(draw, words):
    with pytest.raises(ValueError, match=words):
        draw()


def test_a_histogram_of_an_array():
    found, same = (plots.histogram({"a": kind([1, 2, 2])}, "x", "y", "T") for kind in (np.array, list))
    heights = [[bar.get_height() for bar in figure.axes[0].patches] for figure in (found, same)]
    assert heights[0] == heights[1] == pytest.approx([100 / 3, 200 / 3])
