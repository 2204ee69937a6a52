"""Every drawing of the course. Each function takes plain numbers and returns a matplotlib Figure.

In a notebook, end the cell with an assignment, `figure = plots.digits(...)`: Jupyter then shows the figure once.
"""

import functools

COLOURS = {
    "inputs": "#56B4E9",  # and activations
    "weights": "#E69F00",
    "gradients": "#009E73",
    "travels": "#D55E00",  # between devices
    "optimizer": "#F0E442",
    "waiting": "#D9D9D9",
    "wrong": "#CC79A7",
    "compute": "#0072B2",
}
"""What a colour means, in every figure: the Okabe–Ito palette, which colour-blind readers can tell apart."""

INK = "#222222"
MUTED = "#6B6B6B"
STYLE = {
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "text.color": INK,
    "axes.titlesize": 12.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E8E8E8",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.markersize": 6,
}


def _styled(draw):
    """Run a drawing function with the course's style, and leave these settings of matplotlib as they were.

    (Only these: `rc_context` would also undo what Jupyter's backend sets when it is loaded by the first figure.)
    """

    @functools.wraps(draw)
    def styled(*args, **kwargs):
        from matplotlib import rcParams

        before = {name: rcParams[name] for name in STYLE}
        rcParams.update(STYLE)
        try:
            return draw(*args, **kwargs)
        finally:
            rcParams.update(before)

    return styled


def _axes(width=7.2, height=3.2, **kwargs):
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height), **kwargs)


def _title(figure, text):
    """The finding, above everything and from the figure's left edge, so that long labels on the left cost no room."""
    figure.suptitle(text, x=0.01, ha="left", weight="bold", size=12.5)


def _canvas(width, height):
    """Axes without axes, one unit an inch, for a drawing made of boxes and arrows."""
    figure, axes = _axes(width, height)
    axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axes.axis("off")
    return figure, axes


def _box(axes, x, y, width, height, colour="white", text="", dashed=False, size=10):
    """A rounded box: dark outline for a device, dashed for a process, filled for what lives there."""
    from matplotlib.patches import FancyBboxPatch

    axes.add_patch(
        FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.09",
            facecolor=colour,
            edgecolor=MUTED if dashed else INK,
            linestyle="--" if dashed else "-",
            linewidth=1.1,
        )
    )
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", size=size, color=INK)


def _arrow(axes, start, end, colour=INK, width=1.4, style="-|>", bend=0.0):
    axes.annotate(
        "",
        end,
        start,
        arrowprops={
            "arrowstyle": style,
            "color": colour,
            "lw": width,
            "shrinkA": 0,
            "shrinkB": 0,
            "connectionstyle": f"arc3,rad={bend}",
        },
    )


@_styled
def digits(images, labels, title):
    """A strip of images, two rows, each with its label. images: (N, 28, 28, 1) in [0, 1], N even; labels: (N,)."""
    columns = len(images) // 2
    figure, axes = _axes(7.2, 2.4, nrows=2, ncols=columns)
    for cell, image, label in zip(axes.flat, images, labels):
        cell.imshow(image[..., 0], cmap="gray_r", vmin=0, vmax=1)
        cell.set_title(str(label), size=10, loc="center", pad=3, weight="normal", color=MUTED)
        cell.axis("off")
    _title(figure, title)
    return figure


@_styled
def placement(devices, title, process="this process"):
    """What lives where: `{device name: [(text, what), …]}` with what a key of COLOURS; a dashed box for the process."""
    width, row = 7.2, 0.42
    rows = max(1, max(map(len, devices.values())))
    height = 1.35 + row * rows
    figure, axes = _canvas(width, height)
    _box(axes, 0.06, 0.06, width - 0.12, height - 0.12, dashed=True)
    axes.text(0.22, height - 0.17, process, va="top", size=10, color=MUTED)
    span = (width - 0.4) / len(devices)
    for i, (name, contents) in enumerate(devices.items()):
        left, top = 0.2 + i * span, height - 0.5
        _box(axes, left + 0.07, 0.2, span - 0.14, top - 0.2)
        axes.text(left + span / 2, top - 0.2, name, ha="center", va="center", weight="bold")
        for k, (text, what) in enumerate(contents):
            _box(axes, left + 0.22, top - 0.42 - row * (k + 1) + 0.08, span - 0.44, row - 0.08, COLOURS[what], text)
        if not contents:
            axes.text(left + span / 2, top - 0.42 - row / 2, "nothing", ha="center", va="center", color=MUTED)
    _title(figure, title)
    return figure


@_styled
def training_curves(loss, accuracy, title):
    """Loss and accuracy by epoch, side by side. Each argument: `{"training": [one number an epoch], "test": […]}`."""
    from matplotlib.ticker import MaxNLocator

    figure, panels = _axes(7.2, 3.0, ncols=2)
    for axes, curves, name in zip(panels, (loss, accuracy), ("loss (nats)", "accuracy")):
        for (label, values), colour in zip(curves.items(), (MUTED, COLOURS["compute"])):
            epochs = range(1, len(values) + 1)
            axes.plot(epochs, values, marker="o", color=colour, label=label)
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    panels[0].set_ylim(bottom=0)
    panels[1].set_ylim(top=1)
    panels[1].legend(loc="lower right")
    _title(figure, title)
    return figure


@_styled
def training_step(devices, per_replica_batch_size, title, gradient_bytes=0):
    """One training step, a column for each device; with several, the all-reduce between their gradients.

    devices: names; gradient_bytes: what each device adds to the all-reduce, shown on the arrow.
    """
    width, height = 7.2, 3.75
    figure, axes = _canvas(width, height)
    count = len(devices)
    span = min(3.5, (width - 0.4) / count)
    start = (width - span * count) / 2 if count > 1 else 0.3
    parts = [
        (f"batch: {per_replica_batch_size} examples", "inputs", "images, labels"),
        ("forward: activations, loss", "inputs", "model(images, training=True)"),
        ("backward: gradients", "gradients", "tape.gradient(loss, …)"),
        ("optimizer: moments", "optimizer", "optimizer.apply_gradients(…)"),
        ("updated weights", "weights", "model.trainable_variables"),
    ]
    if count > 2:
        words = f"batch: {per_replica_batch_size}", "activations", "gradients", "moments", "weights"
        parts = [(word, what, code) for word, (_, what, code) in zip(words, parts)]
    for i, name in enumerate(devices):
        left, inner = start + i * span + 0.45, span - 0.9
        _box(axes, start + i * span + 0.1, 0.1, span - 0.2, height - 0.2)
        axes.text(start + (i + 0.5) * span, height - 0.32, name, ha="center", va="center", weight="bold")
        for k, (text, what, code) in enumerate(parts):
            bottom = height - 0.95 - 0.6 * k
            if count == 1:
                axes.text(start + span + 0.3, bottom + 0.19, code, va="center", family="monospace", color=MUTED)
            _box(axes, left, bottom, inner, 0.38, COLOURS[what], text, size=10 if count < 4 else 9)
            if k:
                _arrow(axes, (left + inner / 2, bottom + 0.6), (left + inner / 2, bottom + 0.38))
        # the weights of this step are those of the next step's forward pass; keep the line clear of the arrows
        side, out = (left, -0.22) if i < count // 2 else (left + inner, 0.22)
        low, high = height - 0.95 - 0.6 * 4 + 0.19, height - 0.95 - 0.6 + 0.19
        axes.plot([side, side + out, side + out], [low, low, high], color=INK, lw=1.4)
        _arrow(axes, (side + out, high), (side, high))
    gradients = height - 0.95 - 1.2 + 0.19
    for i in range(count - 1):
        edge = start + (i + 1) * span
        _arrow(axes, (edge - 0.45, gradients), (edge + 0.45, gradients), COLOURS["travels"], 3, "<|-|>")
        text = f"all-reduce\n{gradient_bytes / 2**20:.1f} MiB"
        axes.text(edge, gradients - 0.1, text, ha="center", va="top", size=9, color=COLOURS["travels"], weight="bold",
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
    _title(figure, title)
    return figure


@_styled
def throughput(curves, reference, title):
    """Examples/s against the global batch size, with quartile bars.

    curves: `{label: {batch size: (median, low, high)}}`; reference: `(label, median)`, drawn as a dashed line.
    """
    figure, axes = _axes(7.2, 3.6)
    colours = (MUTED, COLOURS["compute"])
    for (label, points), colour in zip(curves.items(), colours):
        sizes = list(points)
        medians = [points[size][0] for size in sizes]
        spread = [[points[s][0] - points[s][1] for s in sizes], [points[s][2] - points[s][0] for s in sizes]]
        axes.errorbar(sizes, medians, yerr=spread, marker="o", capsize=4, color=colour, label=label)
    axes.axhline(reference[1], color=INK, linestyle=":", label=reference[0])
    axes.set_xscale("log", base=2)
    axes.set(xlabel="global batch size (examples)", ylabel="examples/s", xticks=sizes, xticklabels=sizes)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    figure.legend(loc="outside lower center", ncols=3)
    _title(figure, title)
    return figure


@_styled
def bars(values, unit, title):
    """One bar for each way of doing the same thing, from the first to the last, with its spread and its number.

    values: `{label: (median, low, high)}`; unit: of the numbers, the label of the axis.
    """
    figure, axes = _axes(7.2, 1.1 + 0.42 * len(values))
    medians, lows, highs = zip(*values.values())
    spread = [[m - low for m, low in zip(medians, lows)], [high - m for m, high in zip(medians, highs)]]
    colours = [MUTED] + [COLOURS["compute"]] * (len(values) - 1)
    axes.barh(range(len(values)), medians, xerr=spread, height=0.66, color=colours, ecolor=INK, capsize=3)
    for i, high in enumerate(highs):
        axes.annotate(f"{medians[i]:,.0f}", (high, i), xytext=(7, 0), textcoords="offset points", va="center", size=10)
    axes.set_yticks(range(len(values)), list(values), color=INK)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(xlabel=unit)
    axes.set_xlim(0, 1.15 * max(highs))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    _title(figure, title)
    return figure


def prefetching(read, work, steps=4):
    """Two timelines, without and with prefetch, of steps that take `read` ms to prepare and `work` ms to compute."""
    rows = {"input, alone": [], "device, alone": [], "input, prefetch": [], "device, prefetch": []}
    free = 0.0  # when the device has finished its last step, with prefetch
    for i in range(steps):
        start = i * (read + work)
        rows["input, alone"] += [(start, read, "inputs")]
        rows["device, alone"] += [(start, read, "waiting"), (start + read, work, "compute")]
        ready = (i + 1) * read
        rows["input, prefetch"] += [(i * read, read, "inputs")]
        rows["device, prefetch"] += [(free, max(0.0, ready - free), "waiting"), (max(free, ready), work, "compute")]
        free = max(free, ready) + work
    words = {"inputs": "prepare a batch", "compute": "train on it", "waiting": "wait for it"}
    gain = steps * (read + work) - free
    return timeline(rows, f"Prefetch saves {gain:.0f} ms in {steps} steps, if input has a core of its own", words)


@_styled
def timeline(rows, title, labels):
    """Who does what when. rows: `{name: [(start, duration, what), …]}` in milliseconds, what a key of COLOURS.

    labels: `{what: word}` for the legend.
    """
    from matplotlib.patches import Patch

    figure, axes = _axes(7.2, 1.5 + 0.5 * len(rows))
    for i, spans in enumerate(rows.values()):
        for start, duration, what in spans:
            axes.broken_barh([(start, duration)], (i - 0.36, 0.72), facecolor=COLOURS[what], edgecolor="white")
    axes.set_yticks(range(len(rows)), list(rows), color=INK)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="milliseconds")
    axes.set_xlim(left=0)
    handles = [Patch(facecolor=COLOURS[what], label=word) for what, word in labels.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(labels))
    _title(figure, title)
    return figure


@_styled
def resumed(losses, stop, title):
    """Loss by step of runs that should agree after a stop at step `stop`.

    losses: `{label: (first step, [loss of each step])}`: the undisturbed run first, then the resumed ones.
    """
    figure, axes = _axes(7.2, 3.4)
    looks = (
        {"color": INK, "linewidth": 8, "alpha": 0.2},
        {"color": COLOURS["compute"]},
        {"color": COLOURS["wrong"], "linestyle": "--"},
    )
    for (label, (first, values)), look in zip(losses.items(), looks):
        axes.plot(range(first, first + len(values)), values, label=label, **look)
    axes.axvline(stop + 0.5, color=INK, linewidth=1)
    last = max(first + len(values) for first, values in losses.values())
    side = "left" if stop < last / 4 else "right" if stop > 3 * last / 4 else "center"
    axes.text(stop + 0.5, 1.02, "stopped, saved, loaded", transform=axes.get_xaxis_transform(), ha=side, size=10)
    axes.set(xlabel="step", ylabel="loss (nats)")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.legend(loc="upper right")
    _title(figure, title)
    return figure


@_styled
def memory(held, title, xlabel="MiB on the fullest device"):
    """What a device holds, one bar for each key. held: `{strategy or device: planner.Memory}`, in bytes."""
    figure, axes = _axes(7.2, 1.5 + 0.42 * len(held))
    parts = {"weights": "weights", "gradients": "gradients", "optimizer": "optimizer", "activations": "inputs"}
    left = [0.0] * len(held)
    for part, what in parts.items():
        sizes = [getattr(each, part) / 2**20 for each in held.values()]
        axes.barh(range(len(held)), sizes, left=left, height=0.66, color=COLOURS[what], edgecolor=INK, label=part)
        left = [a + b for a, b in zip(left, sizes)]
    for i, total in enumerate(left):
        axes.annotate(f"{total:.1f}", (total, i), xytext=(6, 0), textcoords="offset points", va="center", size=10)
    axes.set_yticks(range(len(held)), list(held), color=INK)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(xlabel=xlabel)
    axes.set_xlim(0, 1.1 * max(left))
    figure.legend(loc="outside lower center", ncols=4)
    _title(figure, title)
    return figure


def _device_axis(axes, counts):
    axes.set_xscale("log", base=2)
    shown = counts[::2]
    axes.set_xticks(shown, [f"{n:,}" for n in shown])
    axes.set(xlabel="devices")


@_styled
def scaling(counts, speed_up, communication_share, title):
    """Speed-up, and the share of a step that is communication, against the number of devices.

    Both are `{label: [a value for each of counts]}`; the share from 0 to 1.
    """
    figure, (left, right) = _axes(7.2, 3.6, ncols=2)
    left.plot(counts, counts, color=MUTED, linestyle=":", label="ideal")
    for (label, values), colour in zip(speed_up.items(), (COLOURS["compute"], INK)):
        left.plot(counts, values, color=colour, marker="o", markersize=4, label=label)
        right.plot(counts, communication_share[label], color=colour, marker="o", markersize=4)
    left.set_yscale("log", base=2)
    ticks = [4.0**k for k in range(-3, 6)]
    left.set_yticks(ticks, [f"1/{1 / tick:.0f}" if tick < 1 else f"{tick:,.0f}" for tick in ticks])
    left.set(ylabel="times as fast as one device")
    right.axhline(0.5, color=COLOURS["travels"], linestyle="--", linewidth=1.2)
    right.text(max(counts), 0.48, "half of the step", color=COLOURS["travels"], size=9, ha="right", va="top")
    right.set(ylabel="communication, share of a step", ylim=(0, 1.03))
    for axes in (left, right):
        _device_axis(axes, counts)
    figure.legend(loc="outside lower center", ncols=3)
    _title(figure, title)
    return figure


@_styled
def laws(counts, amdahl, gustafson, title):
    """Amdahl's and Gustafson's speed-ups, side by side. Each: `{label: [speed-up for each of counts]}`."""
    figure, panels = _axes(7.2, 3.6, ncols=2, sharey=True)
    for axes, curves, name in zip(panels, (amdahl, gustafson), ("the same job (Amdahl)", "a growing job (Gustafson)")):
        axes.plot(counts, counts, color=MUTED, linestyle=":", label="ideal")
        for (label, values), line in zip(curves.items(), ("-", "--", "-.")):
            axes.plot(counts, values, color=COLOURS["compute"], linestyle=line, label=label)
        axes.set_title(name, size=11, weight="normal")
        axes.set_yscale("log", base=2)
        _device_axis(axes, counts)
    ticks = [1, 4, 16, 64, 256, 1024]
    panels[0].set_yticks(ticks, [f"{tick:,}" for tick in ticks])
    panels[0].set(ylabel="speed-up")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    _title(figure, title)
    return figure


@_styled
def decision(title):
    """Which kind of distribution a training needs, as three questions and five answers."""
    figure, axes = _canvas(7.2, 4.3)

    def question(x, y, text):
        _box(axes, x, y, 2.05, 0.62, "white", text)

    def answer(x, y, text, what):
        _box(axes, x, y, 2.05, 0.62, COLOURS[what], text)

    def way(start, end, word, dx=0.0, dy=0.0):
        _arrow(axes, start, end)
        x, y = (start[0] + end[0]) / 2 + dx, (start[1] + end[1]) / 2 + dy
        axes.text(x, y, word, ha="center", va="center", bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})

    question(0.1, 3.5, "Does it fit on\none device?")
    question(0.1, 2.35, "Is one device, well\nfed, too slow?")
    answer(0.1, 0.1, "one device\n(notebook 01)", "waiting")
    answer(2.57, 1.2, "data parallel\n(02, 03, 04)", "inputs")
    question(2.57, 3.5, "With a share of\nthe batch only?")
    question(5.04, 3.5, "Does the largest\nlayer fit?")
    answer(5.04, 2.35, "layers split,\nas a pipeline", "weights")
    answer(5.04, 1.2, "layers split\nwithin (tensor)", "weights")
    way((1.12, 3.5), (1.12, 2.97), "yes")
    way((1.12, 2.35), (1.12, 0.72), "no", dy=0.45)
    way((2.15, 2.55), (2.9, 1.82), "yes")
    way((2.15, 3.81), (2.57, 3.81), "no")
    way((3.6, 3.5), (3.6, 1.82), "yes", dy=0.3)
    way((4.62, 3.81), (5.04, 3.81), "no")
    way((6.07, 3.5), (6.07, 2.97), "yes")
    axes.plot([7.09, 7.16, 7.16], [3.81, 3.81, 1.51], color=INK, lw=1.4)
    _arrow(axes, (7.16, 1.51), (7.09, 1.51))
    axes.text(7.0, 2.15, "no", size=10, ha="center", va="center")
    axes.text(2.57, 0.72, "Very large models use both kinds at once: the model split over\n"
              "the devices of a machine, its copies over many machines.", size=10, color=MUTED, va="top")  # fmt: skip
    _title(figure, title)
    return figure


@_styled
def data_parallel_step(devices, shard_sizes, gradient_bytes, title):
    """One step of data parallelism, a column for each device, the all-reduce of the gradients across all of them.

    shard_sizes: examples on each device; gradient_bytes: of one replica's gradients.
    """
    width, height = 7.2, 3.9
    figure, axes = _canvas(width, height)
    span = (width - 0.2) / len(devices)
    rows = {"shard": 2.95, "gradients": 2.2, "average": 1.0, "weights": 0.25}  # bottom edges, in inches
    for i, (name, size) in enumerate(zip(devices, shard_sizes)):
        left, inner = 0.1 + i * span + 0.18, span - 0.36
        middle = left + inner / 2
        _box(axes, left - 0.12, 0.1, inner + 0.24, height - 0.2)
        axes.text(middle, height - 0.3, name, ha="center", va="center", weight="bold")
        _box(axes, left, rows["shard"], inner, 0.45, COLOURS["inputs"], f"shard:\n{size} examples")
        _box(axes, left, rows["gradients"], inner, 0.45, COLOURS["gradients"], "its gradients")
        _box(axes, left, rows["average"], inner, 0.45, COLOURS["gradients"], "their average")
        _box(axes, left, rows["weights"], inner, 0.45, COLOURS["weights"], "updated\nweights")
        _arrow(axes, (middle, 2.95), (middle, 2.65))
        _arrow(axes, (middle, 2.2), (middle, 1.95), COLOURS["travels"], 2.4)
        _arrow(axes, (middle, 1.65), (middle, 1.45), COLOURS["travels"], 2.4)
        _arrow(axes, (middle, 1.0), (middle, 0.7))
    _box(axes, 0.28, 1.65, width - 0.56, 0.3, COLOURS["travels"])
    text = f"all-reduce: {gradient_bytes / 2**20:.1f} MiB of gradients from each device, their average back to each"
    axes.text(width / 2, 1.8, text, ha="center", va="center", size=10, weight="bold", color="white")
    _title(figure, title)
    return figure


@_styled
def gradient_errors(errors, title):
    """How far averages are from the true gradient. errors: `{label: {variable: relative error}}`, 0.5 for 50 %.

    The first label is the right way, the second the wrong one.
    """
    names = list(next(iter(errors.values())))
    figure, axes = _axes(7.2, 3.9)
    for k, ((label, values), what) in enumerate(zip(errors.items(), ("gradients", "wrong"))):
        places = [i + 0.38 * (k - 0.5) for i in range(len(names))]
        shares = [100 * values[name] for name in names]
        axes.barh(places, shares, height=0.38, color=COLOURS[what], label=label)
        for place, share in zip(places, shares):
            text = f"{share:.0f} %" if share > 0.5 else "under 0.001 %" if share < 0.001 else f"{share:.3f} %"
            axes.annotate(text, (share, place), xytext=(5, 0), textcoords="offset points", va="center", size=9)
    axes.set_yticks(range(len(names)), names, color=INK)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.12)
    axes.set(xlabel="error, % of the true gradient's length")
    figure.legend(loc="outside lower center", ncols=2)
    _title(figure, title)
    return figure


@_styled
def ring(story, title, note=""):
    """The steps of a ring all-reduce, four panels a row: a line of chunks for each device, arrows for what travels.

    story: `[(name, values, chosen), …]`: values[d][c] is chunk c on device d, which began as (c + 1)·10**d, so that
    its digits other than 0 count the contributions in it; chosen[d] is the chunk that device d sends to the next
    one, or chosen is None. After the first half of the panels comes an empty place, for the key and the note.
    """
    from matplotlib.colors import to_rgb

    panels = [*story[: len(story) // 2], None, *story[len(story) // 2 :]]
    count, columns = len(story[0][1]), (len(story) + 1) // 2
    line, tall = 0.5, 0.5 * len(story[0][1]) + 0.75
    width = 7.2 / columns
    figure, axes = _canvas(7.2, 2 * tall)
    chunk = (width - 0.24) / count

    def shade(contributions):
        part = 0.12 + 0.88 * (contributions - 1) / max(1, count - 1)
        return [1 - part * (1 - channel) for channel in to_rgb(COLOURS["gradients"])]

    for i, panel in enumerate(panels):
        left, top = (i % columns) * width + 0.06, 2 * tall - (i // columns) * tall
        if panel is None:
            for n in range(1, count + 1):
                y = top - 0.2 - 0.36 * n
                _box(axes, left + 0.1, y, 0.3, 0.26, shade(n))
                axes.text(left + 0.5, y + 0.13, f"sum of {n}" if n > 1 else "of one device", va="center", size=9)
            axes.text(left + 0.1, y - 0.14, note, va="top", size=9, color=COLOURS["travels"], weight="bold")
            continue
        name, values, chosen = panel
        axes.text(left + 0.03, top - 0.12, name, va="center", size=10, weight="bold")
        for d, row in enumerate(values):
            low = top - 0.42 - line * (d + 1) + 0.16
            _box(axes, left, low - 0.03, width - 0.12, 0.36)
            for c, value in enumerate(row):
                colour = shade(sum(digit != "0" for digit in str(value)))
                _box(
                    axes, left + 0.06 + c * chunk + 0.015, low + 0.02, chunk - 0.03, 0.26, colour, str(value), size=8.3
                )
            if chosen is None:
                continue
            x = left + 0.06 + (chosen[d] + 0.5) * chunk
            if d < count - 1:
                _arrow(axes, (x, low + 0.01), (x, low - line + 0.3), COLOURS["travels"], 2)
            else:  # round the ring: out at the bottom, in at the top
                _arrow(axes, (x, low + 0.01), (x, low - 0.2), COLOURS["travels"], 2)
                first = top - 0.42 - line + 0.16
                _arrow(axes, (x, first + 0.5), (x, first + 0.3), COLOURS["travels"], 2)
    _title(figure, title)
    return figure


@_styled
def wire(counts, curves, title):
    """Bytes that a device sends against the number of devices. curves: `{label: [bytes, one for each of counts]}`."""
    figure, axes = _axes(7.2, 3.8)
    looks = (
        {"color": COLOURS["waiting"], "linewidth": 7},
        {"color": INK, "linestyle": "--"},
        {"color": MUTED, "linestyle": ":"},
        {"color": COLOURS["travels"], "marker": "o", "markersize": 4},
    )
    for (label, sizes), look in zip(curves.items(), looks):
        axes.plot(counts, [size / 2**20 for size in sizes], label=label, **look)
    _device_axis(axes, counts)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set(ylabel="MiB sent by one device", ylim=(1, None))
    figure.legend(loc="outside lower center", ncols=2)
    _title(figure, title)
    return figure


@_styled
def staleness(groups, title):
    """How old gradients are when they are used. groups: `{label: [updates made in the meantime, one a gradient]}`."""
    figure, axes = _axes(7.2, 3.2)
    for k, ((label, ages), hatch) in enumerate(zip(groups.items(), ("", "////"))):
        found = sorted(set(ages))
        shares = [100 * ages.count(age) / len(ages) for age in found]
        places = [age + 0.4 * (k - 0.5) for age in found]
        axes.bar(places, shares, width=0.4, color=COLOURS["gradients"], edgecolor=INK, hatch=hatch, label=label)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="x", visible=False)
    axes.set(xlabel="staleness: updates made between reading the weights and using the gradient",
             ylabel="% of its gradients")  # fmt: skip
    figure.legend(loc="outside lower center", ncols=2)
    _title(figure, title)
    return figure


@_styled
def two_clocks(runs, title):
    """Loss against updates and against time. runs: `{label: (updates, milliseconds, losses)}`, equally long lists."""
    figure, panels = _axes(7.2, 3.5, ncols=2, sharey=True)
    for (label, (updates, times, losses)), look in zip(runs.items(), ((COLOURS["compute"], "-"), (INK, "--"))):
        panels[0].plot(updates, losses, color=look[0], linestyle=look[1], label=label)
        panels[1].plot(times, losses, color=look[0], linestyle=look[1])
    panels[0].set_xscale("log")
    panels[0].xaxis.set_major_formatter("{x:,.0f}")
    panels[0].set(xlabel="updates", ylabel="loss (nats)", ylim=(0, None))
    panels[1].set(xlabel="milliseconds (simulated devices)")
    figure.legend(loc="outside lower center", ncols=2)
    _title(figure, title)
    return figure


@_styled
def delayed(curves, title):
    """Loss by update when gradients are old. curves: `{label: [loss, one an update]}`, from fresh to oldest."""
    figure, axes = _axes(7.2, 3.4)
    looks = ((COLOURS["compute"], "-"), (INK, "--"), (COLOURS["wrong"], "-"))
    for (label, losses), (colour, line) in zip(curves.items(), looks):
        axes.plot(range(1, len(losses) + 1), losses, color=colour, linestyle=line, label=label)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="updates", ylabel="loss (nats)")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    _title(figure, title)
    return figure


@_styled
def bubble(predicted, measured, title):
    """Idle share of a pipeline against micro-batches: the formula's curve and measured points. Both `{m: share}`."""
    figure, axes = _axes(7.2, 3.2)
    axes.plot(list(predicted), list(predicted.values()), color=MUTED, label="(p − 1)/(m + p − 1)")
    axes.plot(list(measured), list(measured.values()), "o", color=COLOURS["compute"], markersize=8, label="measured")
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(measured), [str(m) for m in measured])
    axes.set(xlabel="micro-batches m", ylabel="share of time a stage waits", ylim=(0, 1))
    axes.legend(loc="upper right")
    _title(figure, title)
    return figure


@_styled
def split_layer(title):
    """A matrix split by columns and by rows over two devices: which part is where, and what travels afterwards."""
    figure, axes = _canvas(7.2, 3.9)
    pieces = (
        (
            "by columns",
            "all-gather: side by side",
            ("x", "W, left half", "y, left half"),
            ("x", "W, right half", "y, right half"),
        ),
        (
            "by rows",
            "all-reduce: added up",
            ("x, left half", "W, top half", "part of y"),
            ("x, right half", "W, bottom half", "part of y"),
        ),
    )
    for k, (name, exchange, *devices) in enumerate(pieces):
        left = 0.05 + 3.6 * k
        axes.text(left + 1.75, 3.72, name, ha="center", va="center", weight="bold", size=11)
        for i, texts in enumerate(devices):
            x = left + 0.05 + 1.75 * i
            _box(axes, x, 0.95, 1.65, 2.55)
            axes.text(x + 0.825, 3.3, f"device {i}", ha="center", va="center", size=10)
            for row, (text, what) in enumerate(zip(texts, ("inputs", "weights", "inputs"))):
                _box(axes, x + 0.12, 2.65 - 0.72 * row, 1.41, 0.45, COLOURS[what], text)
            for row, sign in enumerate("·="):
                axes.text(x + 0.825, 2.515 - 0.72 * row, sign, ha="center", va="center", size=12)
            _arrow(axes, (x + 0.825, 1.21), (x + 0.825, 0.6), COLOURS["travels"], 2.5)
        _box(axes, left + 0.05, 0.15, 3.4, 0.42, COLOURS["travels"])
        axes.text(left + 1.75, 0.36, exchange, ha="center", va="center", color="white", weight="bold", size=10)
    _title(figure, title)
    return figure
