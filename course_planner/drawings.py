"""Drawings of the two kinds of parallelism: the ring, the ring cut in half, a layer cut
in two, a decision.
"""

import textwrap
from typing import Any

from course_utils.language import translated as _
from course_utils.plots.style import (
    COLOURS,
    INK,
    MUTED,
    TRAVELS_INK,
    Figure,
    arrow,
    box,
    canvas,
    device_row,
    ink_on,
    label,
    styled,
)


@styled()
def ring(story: list, title: str, note: str = "") -> Figure:
    """Draw the steps of a ring all-reduce on two to four devices: a line of chunks for
    each, arrows for what travels.

    story: `[(name, values, chosen), …]`: values[d][c] is chunk c on device d, which
        began as (c + 1)·10**d, so that its digits other than 0 count the contributions
        in it; chosen[d] is the chunk that device d sends to the next one, or chosen is
        None. After the first half of the panels comes an empty place, for the key and
        the note.
    """
    count = len(story[0][1])
    if not 2 <= count <= 4:
        raise ValueError(
            _(
                "story: {count} devices; numbers stay readable on two to four",
                count=count,
            )
        )
    panels = [*story[: len(story) // 2], None, *story[len(story) // 2 :]]
    across = (len(panels) + 1) // 2
    width, line, tall = 7.2 / across, 0.5, 0.5 * max(count, 3) + 0.75
    figure, axes = canvas(title, 2 * tall)
    chunk = (width - 0.24) / count
    # of sums of n + 1
    shades = [
        (COLOURS["gradients"], 0.12 + 0.88 * n / (count - 1)) for n in range(count)
    ]
    for i, panel in enumerate(panels):
        left, top = (i % across) * width + 0.06, 2 * tall - (i // across) * tall
        if panel is None:
            for n in range(1, count + 1):
                y = top - 0.2 - 0.36 * n
                box(axes, left + 0.1, y, 0.3, 0.26, shades[n - 1])
                axes.text(
                    left + 0.5,
                    y + 0.13,
                    _("sum of {n}", n=n) if n > 1 else _("of one device"),
                    va="center",
                    size=9,
                )
            axes.text(
                left + 0.1,
                y - 0.14,
                note,
                va="top",
                size=9,
                color=TRAVELS_INK,
                weight="bold",
            )
            continue
        name, values, chosen = panel
        axes.text(left + 0.03, top - 0.12, name, va="center", size=10, weight="bold")
        for d, row in enumerate(values):
            low = top - 0.42 - line * (d + 1) + 0.16
            box(axes, left, low - 0.03, width - 0.12, 0.36)
            for c, value in enumerate(row):
                fill = shades[sum(digit != "0" for digit in str(value)) - 1]
                box(
                    axes,
                    left + 0.075 + c * chunk,
                    low + 0.02,
                    chunk - 0.03,
                    0.26,
                    fill,
                    str(value),
                    size=8.3,
                )
        for d, chunk_sent in enumerate(chosen or ()):
            x, low = (
                left + 0.06 + (chunk_sent + 0.5) * chunk,
                top - 0.25 - line * (d + 1),
            )
            arrow(axes, (x, low), (x, low - 0.21), COLOURS["travels"], 2)
            if d == count - 1:  # round the ring: out at the bottom, in at the top
                arrow(axes, (x, top - 0.26), (x, top - 0.46), COLOURS["travels"], 2)
    return figure


def _matrix(axes, left, top, values, fill, cell=(0.25, 0.21)):
    """Draw a matrix's numbers as a grid, from its upper left corner on; return its
    right edge.
    """
    from matplotlib.patches import Rectangle

    wide, tall = cell
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            x, y = left + wide * j, top - tall * (i + 1)
            axes.add_patch(
                Rectangle((x, y), wide, tall, facecolor=fill, edgecolor=INK, lw=0.7)
            )
            label(axes, x + wide / 2, y + tall / 2 - 0.01, f"{value:.0f}", size=8.3)
    return left + wide * len(values[0])


def _product(axes, left, middle, matrices):
    """Draw x · W = y with numbers, all centred on a height."""
    fills = COLOURS["inputs"], COLOURS["weights"], COLOURS["activations"]
    for matrix, fill, sign in zip(matrices, fills, ("·", "=", ""), strict=True):
        left = _matrix(axes, left, middle + 0.105 * len(matrix), matrix, fill)
        label(axes, left + 0.12, middle, sign, size=13, weight="bold")
        left += 0.24


@styled()
def split_layer(x, W, title: str) -> Figure:
    """Draw a product x·W split by columns and by rows over two devices, with its
    numbers: which part is where, and what travels afterwards.

    x: (2, 6), W: (6, 4), whole numbers of at most three digits.
    """
    import numpy as np

    x, W = np.asarray(x), np.asarray(W)
    if x.shape != (2, 6) or W.shape != (6, 4):
        raise ValueError(
            _(
                "x and W of shapes {first} and {second}: the drawing is made "
                "for (2, 6) and (6, 4)",
                first=x.shape,
                second=W.shape,
            )
        )
    figure, axes = canvas(title, 6.0)
    left, right = np.split(W, 2, axis=1)
    top, bottom = np.split(W, 2, axis=0)
    first, last = np.split(x, 2, axis=1)
    by_columns = [(x, left), (x, right)]
    by_rows = [(first, top), (last, bottom)]
    exchanges = (
        _("all-gather: the two halves side by side"),
        _("all-reduce: the two parts added up, number by number"),
    )
    cuts = (
        (_("by columns: all of x, half of W"), by_columns, 3.92, 1.72),
        (_("by rows: half of x, half of W"), by_rows, 1.2, 1.08),
    )
    for (name, products, low, tall), exchange in zip(cuts, exchanges, strict=True):
        axes.text(0.08, low + tall + 0.13, name, weight="bold", size=11, va="center")
        for device, (mine, part) in enumerate(products):
            x_0 = 0.06 + 3.58 * device
            box(axes, x_0, low, 3.5, tall)
            words = _("device {device}", device=device)
            axes.text(x_0 + 0.1, low + tall - 0.15, words, va="center", size=9.5)
            middle = low + (tall - 0.22) / 2
            _product(axes, x_0 + 0.12, middle, (mine, part, mine @ part))
            arrow(
                axes,
                (x_0 + 1.75, low),
                (x_0 + 1.75, low - 0.2),
                COLOURS["travels"],
                2.5,
            )
        band = 0.06, low - 0.55, 7.08, 0.35
        box(axes, *band, COLOURS["travels"], exchange, weight="bold")
        arrow(axes, (3.6, low - 0.55), (3.6, low - 0.68), COLOURS["travels"], 2.5)
        axes.text(3.02, low - 0.91, "y =", va="center", ha="right", size=11)
        _matrix(axes, 3.1, low - 0.7, x @ W, COLOURS["activations"])
        axes.text(4.22, low - 0.91, _("on both"), va="center", size=9.5)
    return figure


@styled()
def layers_in_a_row(shapes: dict, sent: tuple, title: str) -> Figure:
    """Draw two layers, the first split by columns and the second by rows, on two
    devices: forward above, backward below, each with its one all-reduce.

    Args:
        shapes: `{"x": (2, 6), "first": (6, 4), "second": (4, 3)}`, whole ones.
        sent: bytes that each device sends, (forward, backward).
        title: the finding.
    """
    rows, wide = shapes["x"]
    middle = shapes["first"][1]
    out = shapes["second"][1]
    half = middle // 2
    forward = [
        (f"x\n{rows} × {wide}", "inputs"),
        (_("first\ncolumns, {wide} × {half}", wide=wide, half=half), "weights"),
        (f"ReLU\n{rows} × {half}", "activations"),
        (_("second\nrows, {half} × {out}", half=half, out=out), "weights"),
        (_("output\na part, {rows} × {out}", rows=rows, out=out), "activations"),
    ]
    backward = [
        (_("x's\na part, {rows} × {wide}", rows=rows, wide=wide), "gradients"),
        (_("first's\n{wide} × {half}", wide=wide, half=half), "gradients"),
        (_("ReLU's\n{rows} × {half}", rows=rows, half=half), "gradients"),
        (_("second's\n{half} × {out}", half=half, out=out), "gradients"),
        (_("the loss's\nwhole, {rows} × {out}", rows=rows, out=out), "gradients"),
    ]
    figure, axes = canvas(title, 4.5)
    passes = (
        (_("forward"), forward, 2.3, 1),
        (_("backward: gradients"), backward, 0.1, -1),
    )
    for (name, boxes, low, way), count in zip(passes, sent, strict=True):
        first_left = 0.06 if way == 1 else 0.98
        axes.text(0.08, low + 1.9, name, weight="bold", size=11, va="center")
        bar = 6.54 if way == 1 else 0.06
        words = _("all-\nreduce:\n{count}\nbytes\neach", count=count)
        box(
            axes,
            bar,
            low,
            0.6,
            1.7,
            COLOURS["travels"],
            words,
            size=8.5,
            weight="bold",
        )
        for device in range(2):
            bottom = low + 0.88 * (1 - device)
            box(axes, first_left, bottom, 6.16, 0.82)
            draw_chain = _forward_chain if way == 1 else _backward_chain
            draw_chain(axes, boxes, first_left + 0.1, bottom)
            words = _("device {device}", device=device)
            axes.text(first_left + 0.1, bottom + 0.68, words, va="center", size=9)
            edge = first_left + (6.16 if way == 1 else 0)
            ends = (edge - 0.02 * way, bottom + 0.3), (edge + 0.34 * way, bottom + 0.3)
            arrow(axes, *ends, COLOURS["travels"], 2.5, arrowstyle="<|-|>")
    return figure


def _forward_chain(axes, boxes, left, bottom):
    for k, (text, what) in enumerate(boxes):
        x = left + 1.22 * k
        box(axes, x, bottom + 0.08, 1.08, 0.46, COLOURS[what], text, size=8.5)
        if k:
            arrow(axes, (x - 0.14, bottom + 0.31), (x, bottom + 0.31))


def _backward_chain(axes, boxes, left, bottom):
    """Gradients of what was passed on, from right to left; those of the weights, which
    nothing else needs, above.
    """
    for k, (text, what) in enumerate(boxes):
        x, of_weights = left + 1.22 * k, k % 2 == 1
        y = bottom + (0.44 if of_weights else 0.04)
        box(axes, x, y, 1.08, 0.35, COLOURS[what], text, size=8.3)
        if k in (2, 4):
            arrow(axes, (x, bottom + 0.14), (x - 1.36, bottom + 0.14))
            arrow(axes, (x + 0.02, bottom + 0.34), (x - 0.14, bottom + 0.5))


@styled()
def decision(title: str) -> Figure:
    """Draw which kind of distribution a training needs, as five questions."""
    figure, axes = canvas(title, 4.3)
    wide, columns = 1.5, (0.03, 1.83, 3.63, 5.43)
    boxes = {
        _("Does it fit on one?\n(accumulate, check-\npoint, bfloat16)"): (
            0,
            3.5,
            "white",
        ),
        _("Is one device, well\nfed, too slow?"): (0, 2.35, "white"),
        _("With a share of the\nbatch, all of it at\nonce?"): (1, 3.5, "white"),
        _("With a share of\nthe states too?"): (2, 3.5, "white"),
        _("Does the largest\nlayer fit?"): (3, 3.5, "white"),
        _("one device\n(notebook 01)"): (0, 0.1, "white"),
        _("data parallel\n(02, 03, 04)"): (1, 1.2, "inputs"),
        _("sharded (ZeRO,\nFSDP)"): (2, 1.2, "optimizer"),
        _("pipeline\nparallel"): (3, 2.35, "weights"),
        _("tensor\nparallel"): (3, 1.2, "weights"),
    }
    yes, no = _("yes"), _("no")
    ways = (
        (0, 1, yes),
        (0, 2, no),
        (1, 5, no),
        (2, 6, yes),
        (2, 3, no),
        (3, 7, yes),
        (3, 4, no),
        (4, 8, yes),
    )
    drawn = [
        box(axes, columns[column], y, wide, 0.62, COLOURS.get(what, what), text, size=9)
        for text, (column, y, what) in boxes.items()
    ]
    middles = [
        (columns[column] + wide / 2, y + 0.31) for column, y, what in boxes.values()
    ]
    for a, b, word in ways:
        arrow(axes, middles[a], middles[b], patchA=drawn[a], patchB=drawn[b])
        x, y = (
            (start + end) / 2 for start, end in zip(middles[a], middles[b], strict=True)
        )
        label(
            axes,
            x,
            y + 0.17 * (y > 3.7),
            word,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
    # from the second question, between the columns
    axes.plot([1.53, 1.68, 1.68], [2.66, 2.66, 1.51], color=INK, lw=1.4)
    arrow(axes, (1.68, 1.51), (1.83, 1.51))
    label(
        axes,
        1.68,
        2.1,
        yes,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )
    # round the pipeline
    axes.plot([6.93, 7.07, 7.07], [3.81, 3.81, 1.51], color=INK, lw=1.4)
    arrow(axes, (7.07, 1.51), (6.93, 1.51))
    label(axes, 6.9, 2.16, no)
    remark = _(
        "Very large models use both kinds: split over the devices\nof each "
        "machine, copied over many machines."
    )
    axes.text(1.83, 0.72, remark, size=10, color=MUTED, va="top")
    return figure


def ring_story(count: int) -> list[tuple]:
    """Return the steps of a ring all-reduce on whole numbers, for `ring` to draw.

    First comes reduce-scatter, in which each device adds what arrives, then all-gather,
    in which it keeps it (Patarasuk & Yuan, 2009). In step 0 device d sends chunk d
    (then d + 1), afterwards the chunk that has just arrived.

    Returns:
        `[(name, values, chosen), …]`.
    """
    held, story = [[(c + 1) * 10**d for c in range(count)] for d in range(count)], []
    for name, first in ("reduce-scatter", 0), ("all-gather", 1):
        for step in range(count - 1):
            chosen = [(d + first - step) % count for d in range(count)]
            story.append((f"{name} {step + 1}", [row[:] for row in held], chosen))
            arriving = [held[d][chunk] for d, chunk in enumerate(chosen)]
            for d, chunk in enumerate(chosen):
                receiver = held[(d + 1) % count]
                if name == "reduce-scatter":
                    receiver[chunk] += arriving[d]
                else:
                    receiver[chunk] = arriving[d]
    return [*story, (_("sum everywhere"), held, None)]


@styled()
def zero(held: dict, sent: dict, title: str) -> Figure:
    """Draw what each of four devices keeps of weights, gradients and moments after its
    step: quarters in colour, and dashed outlines where one was let go.

    Args:
        held, sent: MiB of these three on a device, and MiB that a device sends in a
            step, `{name: MiB}`, of data parallel, ZeRO-1, ZeRO-2 and ZeRO-3, in this
            order.
        title: the finding.
    """
    from matplotlib.patches import Patch, Rectangle

    figure, axes = canvas(title, 4.1)
    # Adam's two moments are twice as large as the weights
    rows = (
        (_("moments"), "optimizer", 0.22),
        (_("gradients"), "gradients", 0.11),
        (_("weights"), "weights", 0.11),
    )
    for level, name in enumerate(held):
        left = 0.62 + 1.66 * level
        words = textwrap.fill(_(name), 14)
        label(axes, left + 0.74, 3.92, words, weight="bold")
        for device in range(4):
            bottom = 3.05 - 0.7 * device
            box(axes, left, bottom, 1.5, 0.64)
            y = bottom + 0.05
            for divided, (_name, what, tall) in enumerate(rows, 1):
                for quarter in range(4):
                    lost = level >= divided and quarter != (device + 1) % 4
                    look: dict[str, Any] = {
                        "facecolor": COLOURS[what],
                        "edgecolor": INK,
                    }
                    if lost:
                        look = {"facecolor": "none", "edgecolor": MUTED}
                        look["linestyle"] = (0, (2, 2))
                    place = left + 0.07 + 0.345 * quarter, y
                    axes.add_patch(Rectangle(place, 0.325, tall, lw=0.8, **look))
                y += tall + 0.045
        words = (
            _("each has {size:.2f} MiB", size=held[name]),
            _("each sends {size:.2f}", size=sent[name]),
        )
        label(axes, left + 0.74, 0.72, words[0], size=9.5)
        label(
            axes, left + 0.74, 0.5, words[1], size=9.5, color=TRAVELS_INK, weight="bold"
        )
    for device in range(4):
        words = _("device\n{device}", device=device)
        label(axes, 0.3, 3.37 - 0.7 * device, words, size=9)
    handles = [
        Patch(facecolor=COLOURS[what], edgecolor=INK) for name, what, tall in rows[::-1]
    ]
    handles.append(Patch(facecolor="white", edgecolor=MUTED, linestyle="--"))
    names = [name for name, *_ in rows[::-1]] + [_("let go")]
    axes.legend(
        handles, names, loc="lower center", ncols=4, bbox_to_anchor=(0.5, -0.02)
    )
    return figure


@styled()
def data_parallel_step(
    digits: list,
    gradients: list,
    weight: float,
    rate: float,
    title: str,
    shard_size: int = 32,
) -> Figure:
    """Draw a data parallel step by one of the model's numbers: each device's digits and
    gradient, their mean, and the same new weight everywhere.

    Args:
        digits: for each of four devices a list of three images (height, width), the
            first of its shard.
        gradients: of that number, one a device.
        weight: the number itself, before the step.
        rate: the learning rate.
        title: the finding.
        shard_size: examples that each device has.
    """
    from matplotlib.patches import Rectangle

    mean = sum(gradients) / len(gradients)
    scale = 0.36 / max(map(abs, gradients))
    figure, axes = canvas(title, 5.1)

    def bar(x, y, value):
        low, tall = min(0, scale * value), abs(scale * value)
        look = {"facecolor": COLOURS["gradients"], "edgecolor": INK, "lw": 0.8}
        axes.add_patch(Rectangle((x - 0.1, y + low), 0.2, tall, **look))
        axes.plot([x - 0.2, x + 0.2], [y, y], color=INK, lw=1)
        axes.text(x + 0.26, y, f"{value:+.4f}".replace("-", "−"), va="center", size=9.5)

    rows = {
        4.34: _("digits:\n3 of {shard_size}", shard_size=shard_size),
        3.66: _("weight"),
        2.84: _("gradient"),
        1.29: _("mean"),
        0.4: _("new\nweight"),
    }
    for y, name in rows.items():
        axes.text(0.04, y, name, va="center", size=9.5, color=MUTED)
    for index, left, span in device_row(
        axes, [_("device {device}", device=k) for k in range(4)], 0.66, 0.1, 6.5, 4.95
    ):
        middle = left + span / 2
        for k, image in enumerate(digits[index]):
            x = left + 0.16 + 0.43 * k
            axes.imshow(image, cmap="gray_r", extent=(x, x + 0.4, 4.14, 4.54), zorder=2)
        box(
            axes,
            left + 0.2,
            3.49,
            span - 0.4,
            0.34,
            COLOURS["weights"],
            f"{weight:.4f}",
        )
        bar(middle - 0.22, 2.84, gradients[index])
        arrow(axes, (middle, 2.42), (middle, 2.14), COLOURS["travels"], 2.4)
        arrow(axes, (middle, 1.76), (middle, 1.52), COLOURS["travels"], 2.4)
        bar(middle - 0.22, 1.29, mean)
        new = f"{weight - rate * mean:.4f}"
        box(axes, left + 0.2, 0.24, span - 0.4, 0.34, COLOURS["weights"], new)
        arrow(axes, (middle, 0.9), (middle, 0.6))
        arrow(axes, (middle, 4.1), (middle, 3.85))
        arrow(axes, (middle, 3.47), (middle, 3.26))
    words = _("all-reduce: the mean of the four, back to each")
    box(axes, 0.8, 1.77, 6.22, 0.36, COLOURS["travels"], words, weight="bold")
    axes.set(xlim=(0, 7.2), ylim=(0, 5.1))
    return figure


@styled()
def pipelines(runs: dict, title: str, unit: str) -> Figure:
    """Draw schedules of a pipeline below each other on one axis, the bubble's share in
    the wait, and at the right what each stage keeps at once.

    runs: `{name: PipelineRun}`.
    """
    from matplotlib.patches import Patch, Rectangle

    first = next(iter(runs.values()))
    stages, end = len(first.spans), max(run.end for run in runs.values())
    micro_batches = len(first.spans[0]) // 2
    row, left, kept = 0.27, 0.72, 5.72
    scale, tall = (5.5 - left) / end, 0.27 * stages + 0.42
    cell = (7.14 - kept) / micro_batches
    figure, axes = canvas(title, tall * len(runs) + 0.85)
    for number, (name, run) in enumerate(runs.items()):
        top = tall * (len(runs) - number) + 0.47
        axes.text(0.04, top + 0.16, name, weight="bold", va="center", size=10)
        axes.text(
            kept, top + 0.16, _("kept at once"), weight="bold", va="center", size=10
        )
        for stage, spans in enumerate(run.spans):
            y = top - row * (stage + 1)
            axes.text(
                0.04,
                y + row / 2,
                _("stage {stage}", stage=stage),
                va="center",
                size=9.5,
            )
            grey = {"facecolor": COLOURS["waiting"], "lw": 0}
            axes.add_patch(Rectangle((left, y + 0.02), scale * end, row - 0.04, **grey))
            _draw_passes(axes, spans, left, y, scale, row)
            for k in range(micro_batches):
                look: dict[str, Any] = {"facecolor": COLOURS["activations"]}
                look["edgecolor"] = INK
                if k >= run.peak_in_flight[stage]:
                    look = {"facecolor": "none", "edgecolor": MUTED, "linestyle": "--"}
                place = kept + cell * k, y + 0.06
                axes.add_patch(
                    Rectangle(place, cell - 0.04, row - 0.12, lw=0.8, **look)
                )
        _write_bubble(axes, run, left, top - row / 2, scale)
    last = 0.47 + tall - row * stages
    axes.plot([left, left + scale * end], [last - 0.05] * 2, color=MUTED, lw=1)
    for time in range(0, int(end) + 1, 8):
        label(axes, left + scale * time, last - 0.17, str(time), size=9, color=MUTED)
    label(axes, left + scale * end / 2, last - 0.36, unit, size=10, color=MUTED)
    words = {
        _("forward"): "compute",
        _("backward"): "gradients",
        _("wait"): "waiting",
    }
    handles = [Patch(facecolor=COLOURS[what]) for what in words.values()]
    handles.append(Patch(facecolor="white", edgecolor=MUTED, linestyle="--"))
    axes.legend(
        handles,
        [*words, _("not needed")],
        loc="lower center",
        ncols=4,
        bbox_to_anchor=(0.5, -0.02),
    )
    return figure


def _draw_passes(axes, spans, left, y, scale, row):
    from matplotlib.patches import Rectangle

    for start, length, way, number in spans:
        fill = COLOURS["compute" if way == "forward" else "gradients"]
        followed = number == "0"  # the one whose way can be followed
        look = (
            {"edgecolor": INK, "lw": 2} if followed else {"edgecolor": "white", "lw": 1}
        )
        place = left + scale * start, y + 0.02
        axes.add_patch(
            Rectangle(
                place,
                scale * length,
                row - 0.04,
                facecolor=fill,
                zorder=2 + followed,
                **look,
            )
        )
        middle = left + scale * (start + length / 2)
        look = {"size": 8.5, "color": ink_on(fill), "zorder": 4}
        label(axes, middle, y + row / 2 - 0.01, number, **look)


def _write_bubble(axes, run, left, y, scale):
    """Write in the first stage's longest wait how much of the time it waits."""
    gaps, now = [], 0
    for start, length, *_rest in [*run.spans[0], (run.end, 0)]:
        if start > now:
            gaps.append((start - now, now))
        now = start + length
    if not gaps:
        return
    longest, since = max(gaps)
    waits = sum(gap for gap, _ in gaps)
    words = _(
        "{waits:g} of {whole:g} = {share:.0f} %",
        waits=waits,
        whole=run.end,
        share=100 * waits / run.end,
    )
    if len(gaps) > 1:
        words = f"{longest:g} + {waits - longest:g} = {waits:g}"
    label(axes, left + scale * (since + longest / 2), y, words, size=8.5)


@styled()
def pieces(cuts: dict, devices: int, title: str) -> Figure:
    """Draw which piece of a kernel each device holds, in several ways: filled what it
    has, dashed what others have.

    Args:
        cuts: `{way: spec}`, the spec as JAX gives it: for each dimension the name of
            the mesh's axis that cuts it, or None; () is whole.
        devices: how many, along the axis that cuts.
        title: the finding.
    """
    from matplotlib.patches import Rectangle

    figure, axes = canvas(title, 0.5 + 0.95 * len(cuts))
    span = 6.1 / devices
    wide, tall = span - 0.2, 0.7
    for device in range(devices):
        x = 1.02 + span * device + wide / 2
        label(axes, x, 0.28 + 0.95 * len(cuts), str(device), size=10, weight="bold")
    axes.text(0.04, 0.28 + 0.95 * len(cuts), _("device:"), va="center", size=10)
    for row, (way, spec) in enumerate(cuts.items()):
        low = 0.95 * (len(cuts) - row) - 0.75
        cut_rows, cut_columns = (axis is not None for axis in (*spec, None, None)[:2])
        named = _("whole")
        if cut_rows:
            named = _("rows")
        elif cut_columns:
            named = _("columns")
        axes.text(0.04, low + 0.46, way, va="center", weight="bold", size=10.5)
        axes.text(0.04, low + 0.24, named, va="center", size=10, color=MUTED)
        for device in range(devices):
            left = 1.02 + span * device
            outline = {
                "facecolor": "none",
                "edgecolor": MUTED,
                "linestyle": (0, (2, 2)),
            }
            axes.add_patch(Rectangle((left, low), wide, tall, lw=0.9, **outline))
            width, height = wide, tall
            if cut_rows:
                height = tall / devices
            elif cut_columns:
                width = wide / devices
            place = (
                left + (width * device if cut_columns else 0),
                low + (tall - height * (device + 1) if cut_rows else 0),
            )
            look = {"facecolor": COLOURS["weights"], "edgecolor": INK, "lw": 0.8}
            axes.add_patch(Rectangle(place, width, height, **look))
    return figure
