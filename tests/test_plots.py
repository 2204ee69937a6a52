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
from course_utils.plots import COLOURS, INK, MUTED

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
REFERENCE = ("NumPy arrays, batch 32", 4000)
ROWS = {
    "worker 0": [(0, 5, "compute"), (5, 3, "waiting")],
    "worker 1": [(0, 7, "compute"), (7, 1, "travels")],
}
WORDS = {"compute": "train on it", "waiting": "wait for it", "travels": "all-reduce"}
RUNS = {
    "never stopped": (1, [2 / (i + 1) for i in range(60)]),
    "resumed with optimizer": (25, [2 / (i + 25) for i in range(36)]),
    "resumed, weights only": (25, [2.5 / (i + 25) for i in range(36)]),
}
SCOPES = {
    "CPU:0": [("plain model: 6 variables", "weights"), ("its optimizer: 14 variables", "optimizer")],
    "CPU:1": [("pinned model: 6 variables", "weights"), ("its optimizer: 14 variables", "optimizer")],
}
STEP = ["forward: activations, loss", "backward: gradients", "optimizer: moments", "updated weights"]
CODE = ["model(images, training=True)", "tape.gradient(loss, …)", "model.trainable_variables"]


def on(count):
    """Contents of up to four devices, the fourth of which is empty."""
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
    "placement of nothing": (
        lambda title: plots.placement({"GPU:0": []}, title),
        "Nothing yet",
        ["GPU:0", "nothing"],
    ),
    "curves": (
        lambda title: plots.training_curves(LOSS, ACCURACY, title),
        "Five epochs are enough to read most digits",
        ["epoch", "5", "loss (nats)", "accuracy", "training", "test"],
    ),
    "curves of 20 epochs": (
        lambda title: plots.training_curves({"training": [1] * 20}, {"training": [1] * 20}, title),
        "Twenty",
        ["epoch", "training"],
    ),
    "step on 1": (
        lambda title: plots.training_step(["CPU:1"], 128, title),
        "One device: the whole step stays at home",
        ["CPU:1", "batch: 128 examples", *STEP, *CODE],
    ),
    "step on 2": (
        lambda title: plots.training_step(devices(2), 64, title, 693_962 * 4),
        "Two replicas: one thing is new, the all-reduce",
        [*devices(2), "batch: 64 examples", *STEP, "all-reduce\n2.6 MiB"],
    ),
    "step on 3": (
        lambda title: plots.training_step(devices(3), 32, title, 693_962 * 4),
        "Three replicas",
        [*devices(3), "batch: 32", "gradients", "all-reduce\n2.6 MiB"],
    ),
    "throughput": (
        lambda title: plots.throughput(SWEEP, REFERENCE, title),
        "Batch 256 trains on 2.3× the examples/s of batch 32",
        [*SWEEP, REFERENCE[0], "global batch size (examples)", "examples/s", *map(str, SIZES)],
    ),
    "bars": (
        lambda title: plots.bars(SPEEDS, "examples/s", title),
        "The tuned pipeline: 3.1× the examples per second",
        [*SPEEDS, "examples/s", "4,000", "12,345"],
    ),
    "one bar": (lambda title: plots.bars({"only": (3, 2, 4)}, "ms", title), "One way", ["only", "ms", "3"]),
    "prefetching": (
        lambda _: plots.prefetching(5.4, 7.7),
        "Prefetch saves 16 ms in 4 steps, if input has a core of its own",
        ["input, alone", "device, prefetch", "milliseconds", "prepare a batch", "train on it", "wait for it"],
    ),
    "timeline": (
        lambda title: plots.timeline(ROWS, title, WORDS),
        "One worker waits",
        [*ROWS, *WORDS.values(), "milliseconds"],
    ),
    "timeline of one row": (
        lambda title: plots.timeline({"CPU:0": [(0, 2, "compute")]}, title, WORDS),
        "One row",
        ["CPU:0", "train on it"],
    ),
    "timeline of eight rows": (
        lambda title: plots.timeline({f"worker {i}": [(0, 9, "compute")] for i in range(8)}, title, WORDS),
        "Eight rows",
        [f"worker {i}" for i in range(8)],
    ),
    "resumed": (
        lambda title: plots.resumed(RUNS, 24, title),
        "With its optimizer, the training never knew it was stopped",
        [*RUNS, "stopped, saved, loaded", "step", "loss (nats)"],
    ),
}
MEMORY = {
    "one device": Memory(2775848, 2775848, 5551696, 16684032),
    "data parallel": Memory(2775848, 2775848, 5551696, 4171008),
}
COUNTS = [2**k for k in range(11)]
GROWING = {"the course's model": COUNTS, "ResNet-50's size": [n**0.5 for n in COUNTS]}
SHARES = {name: [i / 10 for i in range(11)] for name in GROWING}
LAWS = {f"{share} undivided": [n**power for n in COUNTS] for share, power in (("1%", 0.9), ("5%", 0.7), ("20%", 0.4))}
STORY = [
    ("add, step 0", [[10**d * (c + 1) for c in range(4)] for d in range(4)], [0, 1, 2, 3]),
    *((f"keep, step {i}", [[1111, 2222, 3333, 4444]] * 4, [1, 2, 3, 0]) for i in range(5)),
    ("the sum, on all", [[1111, 2222, 3333, 4444]] * 4, None),
]
CASES |= {
    "memory": (
        lambda title: plots.memory(MEMORY, title),
        "Only splitting the model makes its weights smaller on a device",
        [*MEMORY, "26.5", "14.6", "activations", "optimizer", "MiB on the fullest device"],
    ),
    "scaling": (
        lambda title: plots.scaling(COUNTS, GROWING, SHARES, title),
        "On paper: the larger the work per byte, the further it scales",
        [*GROWING, "ideal", "1,024", "half of the step", "devices"],
    ),
    "laws": (
        lambda title: plots.laws(COUNTS, LAWS, LAWS, title),
        "A fixed job saturates; a job that grows with the devices does not",
        [*LAWS, "the same job (Amdahl)", "a growing job (Gustafson)", "speed-up"],
    ),
    "decision": (
        lambda title: plots.decision(title),
        "First what fits, then what is slow",
        ["Does it fit on\none device?", "data parallel\n(02, 03, 04)", "yes", "no"],
    ),
    "data parallel step": (
        lambda title: plots.data_parallel_step(devices(4), [32] * 4, 2775848, title),
        "Four replicas: only the gradients leave their device",
        [*devices(4), "shard:\n32 examples"],
    ),
    "gradient errors": (
        lambda title: plots.gradient_errors({"right": {"a/kernel": 1e-7}, "naive": {"a/kernel": 0.31}}, title),
        "Averaging unequal shards naively: wrong by up to 31%",
        ["right", "naive", "a/kernel", "31 %"],
    ),
    "ring": (
        lambda title: plots.ring(STORY, title, "Each arrow is one\nchunk: 4 bytes."),
        "The ring: in each step every device sends one chunk to the next",
        ["add, step 0", "the sum, on all", "sum of 4", "1111", "4000"],
    ),
    "wire": (
        lambda title: plots.wire([2, 8, 1024], {name: [2**21, 2**22, 2**30] for name in "abcd"}, title),
        "On a ring, a device sends no more for 1,024 devices than for ten",
        [*"abcd", "devices", "MiB sent by one device"],
    ),
    "staleness": (
        lambda title: plots.staleness({"the fast": [2, 2, 3], "the straggler": [11, 12, 12]}, title),
        "The slower the replica, the older its gradients",
        ["the fast", "the straggler", "% of its gradients"],
    ),
    "two clocks": (
        lambda title: plots.two_clocks({"synchronous": ([1, 25, 300], [80, 900, 2000], [2, 1.9, 1])}, title),
        "One straggler, a small rate: asynchronous learns more in the same time",
        ["synchronous", "updates", "loss (nats)"],
    ),
    "delayed": (
        lambda title: plots.delayed({f"{n} updates old": [2, 1, n + 0.5] for n in (0, 4, 16)}, title),
        "At a rate that suits fresh gradients, old ones do harm",
        ["0 updates old", "16 updates old", "updates"],
    ),
    "bubble": (
        lambda title: plots.bubble({1: 0.75, 16: 0.16}, {1: 0.76, 16: 0.17}, title),
        "More micro-batches, a smaller bubble (four stages)",
        ["measured", "(p − 1)/(m + p − 1)", "micro-batches m", "16"],
    ),
    "split layer": (
        lambda title: plots.split_layer(title),
        "Columns need an all-gather, rows an all-reduce",
        ["by columns", "by rows", "all-gather: side by side", "all-reduce: added up"],
    ),
}
for stop in 8, 55:
    CASES[f"resumed after {stop}"] = (
        lambda title, stop=stop: plots.resumed(RUNS, stop, title),
        f"Stopped after step {stop}",
        ["stopped, saved, loaded"],
    )
BOXED = [name for name in CASES if name.startswith(("placement", "step"))]


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
        for middle in [((extent.x0 + extent.x1) / 2, (extent.y0 + extent.y1) / 2)]
        for box in [min((box for box in boxes if box.contains(*middle)), key=lambda box: box.width)]
        if extent.x0 < box.x0 or extent.x1 > box.x1
    ]


every_case = pytest.mark.parametrize("name", CASES)


@every_case
def test_says_what_it_was_given(name):
    figure, texts = drawn(name)
    _, title, expected = CASES[name]
    assert isinstance(figure, Figure) and figure.get_suptitle() == title
    assert {title, *expected} <= {text.get_text() for text in texts}


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
    figure = plots.training_curves({"training": [1.0]}, {"training": [0.5]}, "One epoch")
    figure.canvas.draw()
    for axes in figure.axes:
        low, high = axes.get_xlim()
        assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


def test_step_on_four_devices():
    figure = plots.training_step(devices(4), 32, "Four replicas")
    figure.canvas.draw()
    texts = {text: text.get_window_extent() for text in figure.axes[0].texts if text.get_text()}
    assert not wider_than_their_box(figure, texts)


@pytest.fixture
def defaults():
    with rc_context({name: rcParamsDefault[name] for name in plots.STYLE}):
        yield dict(rcParams)


@every_case
def test_leaves_matplotlibs_settings_alone(name, defaults):
    draw(name)
    assert dict(rcParams) == defaults


def test_leaves_matplotlibs_settings_alone_when_it_fails(defaults):
    with pytest.raises(KeyError):
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
    assert (process.get_linestyle(), device.get_linestyle()) == ("--", "-")


@pytest.mark.parametrize("count", [1, 2])
def test_step_colours(count):
    boxes = filled(drawn(f"step on {count}")[0])
    expected = colours("inputs", "inputs", "gradients", "optimizer", "weights")
    assert [colour for _, colour in boxes] == count * expected
    assert [text for text, _ in boxes][1:5] == STEP


@pytest.mark.parametrize("count", [1, 2, 3])
def test_what_travels_between_devices(count):
    figure = plots.training_step(devices(count), 8, "title", gradient_bytes=2**21)
    travelling = [text for text in figure.axes[0].texts if text.get_text() == "all-reduce\n2.0 MiB"]
    arrows = [text.arrow_patch for text in figure.axes[0].texts if hasattr(text, "arrow_patch")]
    edges = [hexed(arrow.get_edgecolor()) for arrow in arrows if arrow]
    assert len(travelling) == edges.count(COLOURS["travels"]) == count - 1
    assert all(hexed(text.get_color()) == COLOURS["travels"] for text in travelling)


def lines(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def test_curves():
    figure = drawn("curves")[0]
    for axes, curves in zip(figure.axes, (LOSS, ACCURACY), strict=True):
        for name, colour in (("training", MUTED), ("test", COLOURS["compute"])):
            line = lines(axes)[name]
            assert line.get_xdata().tolist() == [1, 2, 3, 4, 5]
            assert (list(line.get_ydata()), line.get_color()) == (curves[name], colour)
    assert figure.axes[0].get_ylim()[0] == 0 and figure.axes[1].get_ylim()[1] == 1


def test_throughput():
    (axes,) = drawn("throughput")[0].axes
    assert axes.get_ylim()[0] == 0
    for container, (label, points), colour in zip(
        axes.containers, SWEEP.items(), (MUTED, COLOURS["compute"]), strict=True
    ):
        line, _, (spread,) = container.lines
        assert (container.get_label(), line.get_color()) == (label, colour)
        assert list(zip(*line.get_data(), strict=True)) == [(n, points[n][0]) for n in SIZES]
        assert [tuple(ends[:, 1]) for ends in spread.get_segments()] == [points[n][1:] for n in SIZES]
    reference = lines(axes)[REFERENCE[0]]
    assert set(reference.get_ydata()) == {4000} and reference.get_linestyle() == ":"


def test_bars():
    (axes,) = drawn("bars")[0].axes
    spread, columns = axes.containers
    assert [column.get_width() for column in columns] == [median for median, _, _ in SPEEDS.values()]
    assert [hexed(column.get_facecolor()) for column in columns] == [MUTED.upper()] + 3 * [COLOURS["compute"]]
    ends = [tuple(ends[:, 0]) for ends in spread.lines[2][0].get_segments()]
    assert ends == [(low, high) for _, low, high in SPEEDS.values()]
    assert axes.yaxis_inverted() and axes.get_xlim()[0] == 0


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


@pytest.mark.parametrize("read, work, gain", [(2, 3, 6), (5, 2, 6), (3, 3, 9), (0, 3, 0)])
def test_prefetching(read, work, gain):
    figure = plots.prefetching(read, work, steps=4)
    assert figure.get_suptitle().startswith(f"Prefetch saves {gain} ms in 4 steps")
    rows = spans(figure)
    assert max(end for _, end, _ in rows["device, alone"]) == 4 * (read + work)
    assert max(end for _, end, _ in rows["device, prefetch"]) == 4 * (read + work) - gain
    for way in "alone", "prefetch":
        ready = [end for _, end, what in rows[f"input, {way}"] if what == "inputs"]
        device = rows[f"device, {way}"]
        assert [before[1] == after[0] for before, after in itertools.pairwise(device)] == [True] * 7
        steps = [(start, end) for start, end, what in device if what == "compute"]
        assert len(ready) == len(steps) == 4
        assert all(start >= at and end - start == work for (start, end), at in zip(steps, ready, strict=True))


def test_resumed():
    (axes,) = drawn("resumed")[0].axes
    looks = [(INK, "-"), (COLOURS["compute"], "-"), (COLOURS["wrong"], "--")]
    for (label, (first, values)), look in zip(RUNS.items(), looks, strict=True):
        line = lines(axes)[label]
        assert (line.get_color(), line.get_linestyle()) == look
        assert list(zip(*line.get_data(), strict=True)) == list(enumerate(values, first))
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
    seen = {what: lab(np.clip(EYES[eye] @ linear(colour), 0, 1)) for what, colour in COLOURS.items()}
    pairs = itertools.combinations(seen, 2)
    distances = {(a, b): float(np.linalg.norm(seen[a] - seen[b])) for a, b in pairs}
    assert min(distances.values()) > (25 if eye == "normal" else 15), sorted(
        distances.items(), key=lambda item: item[1]
    )[:3]


@pytest.mark.parametrize("what", ["inputs", "weights", "gradients", "optimizer", "waiting"])
def test_text_is_readable_in_a_box(what):
    light, dark = (float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (COLOURS[what], INK))
    assert (light + 0.05) / (dark + 0.05) > 4.5  # WCAG's contrast ratio
