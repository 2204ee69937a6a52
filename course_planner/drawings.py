"""Drawings of the two kinds of parallelism: the ring, the ring cut in half, a layer cut
in two, a decision.
"""

from course_utils.plots.style import (
    COLOURS,
    INK,
    MUTED,
    Figure,
    arrow,
    box,
    canvas,
    device_row,
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
            f"story: {count} devices; numbers stay readable on two to four"
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
                    f"sum of {n}" if n > 1 else "of one device",
                    va="center",
                    size=9,
                )
            axes.text(
                left + 0.1,
                y - 0.14,
                note,
                va="top",
                size=9,
                color=COLOURS["travels"],
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


@styled()
def split_layer(title: str) -> Figure:
    """Draw a matrix split by columns and by rows over two devices: which part is where,
    and what travels afterwards.
    """
    figure, axes = canvas(title, 3.9)
    by_columns = [
        ("x", f"W, {half} half", f"y, {half} half") for half in ("left", "right")
    ]
    by_rows = [
        (f"x, {x} half", f"W, {W} half", "part of y")
        for x, W in (("left", "top"), ("right", "bottom"))
    ]
    cuts = (
        ("by columns", "all-gather: side by side", by_columns),
        ("by rows", "all-reduce: added up", by_rows),
    )
    for k, (name, exchange, devices) in enumerate(cuts):
        left = 0.05 + 3.6 * k
        label(axes, left + 1.75, 3.72, name, weight="bold", size=11)
        for index, x, span in device_row(
            axes, ["device 0", "device 1"], left, 0.95, 3.5, 2.55
        ):
            for row, (text, what) in enumerate(
                zip(devices[index], ("inputs", "weights", "inputs"), strict=True)
            ):
                box(
                    axes,
                    x + 0.16,
                    2.65 - 0.72 * row,
                    span - 0.32,
                    0.45,
                    COLOURS[what],
                    text,
                )
            for row, sign in enumerate("·="):
                label(axes, x + span / 2, 2.515 - 0.72 * row, sign, size=12)
            arrow(
                axes, (x + span / 2, 1.21), (x + span / 2, 0.6), COLOURS["travels"], 2.5
            )
        box(
            axes,
            left + 0.05,
            0.15,
            3.4,
            0.42,
            COLOURS["travels"],
            exchange,
            color="white",
            weight="bold",
        )
    return figure


@styled()
def decision(title: str) -> Figure:
    """Draw which kind of distribution a training needs, as five questions."""
    figure, axes = canvas(title, 4.3)
    wide, columns = 1.5, (0.03, 1.83, 3.63, 5.43)
    boxes = {
        "Does it fit on one?\n(accumulate, check-\npoint, bfloat16)": (0, 3.5, "white"),
        "Is one device, well\nfed, too slow?": (0, 2.35, "white"),
        "With a share of the\nbatch, and without\nan accumulator?": (1, 3.5, "white"),
        "With a share of\nthe states too?": (2, 3.5, "white"),
        "Does the largest\nlayer fit?": (3, 3.5, "white"),
        "one device\n(notebook 01)": (0, 0.1, "waiting"),
        "data parallel\n(02, 03, 04)": (1, 1.2, "inputs"),
        "sharded (ZeRO,\nFSDP)": (2, 1.2, "optimizer"),
        "pipeline\nparallel": (3, 2.35, "weights"),
        "tensor\nparallel": (3, 1.2, "weights"),
    }
    ways = (
        (0, 1, "yes"),
        (0, 2, "no"),
        (1, 5, "no"),
        (1, 6, "yes"),
        (2, 6, "yes"),
        (2, 3, "no"),
        (3, 7, "yes"),
    )
    ways += (3, 4, "no"), (4, 8, "yes")
    drawn = [
        box(axes, columns[column], y, wide, 0.62, COLOURS.get(what, what), text, size=9)
        for text, (column, y, what) in boxes.items()
    ]
    middles = [
        (columns[column] + wide / 2, y + 0.31) for column, y, _ in boxes.values()
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
    # round the pipeline
    axes.plot([6.93, 7.07, 7.07], [3.81, 3.81, 1.51], color=INK, lw=1.4)
    arrow(axes, (7.07, 1.51), (6.93, 1.51))
    label(axes, 6.9, 2.16, "no")
    remark = (
        "Very large models use both: split over the devices\nof each machine, copied "
        "over many machines."
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
    for name, first in ("add", 0), ("keep", 1):
        for step in range(count - 1):
            chosen = [(d + first - step) % count for d in range(count)]
            story.append((f"{name}, step {step}", [row[:] for row in held], chosen))
            arriving = [held[d][chunk] for d, chunk in enumerate(chosen)]
            for d, chunk in enumerate(chosen):
                receiver = held[(d + 1) % count]
                receiver[chunk] = arriving[d] + receiver[chunk] * (name == "add")
    return [*story, ("sum everywhere", held, None)]


@styled()
def zero(title: str) -> Figure:
    """Draw the ring cut in half: gradients are scattered, each device updates its own
    part, new weights are gathered.
    """
    figure, axes = canvas(title, 2.75)
    columns = (0.1, 2.55, 5.0)
    names = (
        "reduce-scatter: gradients",
        "update of one's own part",
        "all-gather: new weights",
    )
    for left, name in zip(columns, names, strict=True):
        label(axes, left + 1.05, 2.55, name, weight="bold", size=9.5)
    for d in range(4):
        low = 1.9 - 0.56 * d
        for k, (left, what) in enumerate(
            zip(columns, ("gradients", "optimizer", "weights"), strict=True)
        ):
            box(axes, left, low, 2.1, 0.46)
            for c in range(4):
                own = c == (d + 1) % 4
                fill, text = COLOURS[what], {0: "sum", 1: "own", 2: "W"}[k]
                if k < 2 and not own:
                    fill, text = ((COLOURS[what], 0.25) if k == 0 else "white"), ""
                box(
                    axes,
                    left + 0.05 + 0.5 * c,
                    low + 0.07,
                    0.47,
                    0.32,
                    fill,
                    text,
                    size=8,
                )
    for left in columns[:2]:
        arrow(axes, (left + 2.14, 1.3), (left + 2.42, 1.3))
    return figure
