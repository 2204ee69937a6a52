"""Drawings of several processes: what each has, and which examples it sees."""

import itertools

from course_utils.language import counted, translated as _
from course_utils.plots.style import (
    COLOURS,
    MUTED,
    TRAVELS_INK,
    Figure,
    arrow,
    box,
    canvas,
    colour,
    label,
    legend,
    new_axes,
    number,
    styled,
)


@styled()
def workers(processes: dict, title: str, travels: str, shared: str = "") -> Figure:
    """Draw processes side by side: `{name: [(text, what), …]}` is what each has of its
    own, what a key of COLOURS.

    travels: the text on the band across them all. shared: what all of them see besides,
        such as a folder, or "".
    """
    row, low, contents = 0.42, 0.62 if shared else 0.1, list(processes.values())
    height = low + 1.52 + row * max(map(len, contents))
    figure, axes = canvas(title, height)
    span = 7.2 / len(contents)
    for index, name in enumerate(processes):
        left = index * span + 0.1
        box(axes, left, low, span - 0.2, height - low - 0.1, dashed=True)
        label(axes, left + span / 2 - 0.1, height - 0.3, name, weight="bold")
        box(axes, left + 0.12, low + 0.72, span - 0.44, height - low - 1.3)
        for k, (text, what) in enumerate(contents[index]):
            box(
                axes,
                left + 0.24,
                height - 1.1 - row * k,
                span - 0.68,
                row - 0.08,
                colour(what),
                text,
            )
        arrow(
            axes,
            (left + span / 2 - 0.1, low + 0.76),
            (left + span / 2 - 0.1, low + 0.44),
            COLOURS["travels"],
            2.4,
            arrowstyle="<|-|>",
        )
        if shared:
            ends = (left + 0.5, low + 0.02), (left + 0.5, 0.42)
            arrow(axes, *ends, arrowstyle="<|-|>")
    box(
        axes,
        0.28,
        low + 0.12,
        6.64,
        0.36,
        COLOURS["travels"],
        travels,
        weight="bold",
    )
    if shared:
        box(axes, 0.1, 0.06, 7.0, 0.38, "white", shared)
    return figure


@styled()
def shards(policies: dict, total: int, title: str) -> Figure:
    """Draw who sees which of the examples 0 to total - 1, step by step: `{policy:
    [[[example, …], …] of each worker]}`.

    An example that is seen twice is drawn in the colour of what is wrong; those that
    nobody sees are named, and stand dashed at the right; grey is a step in which a
    worker has nothing.
    """
    line, square, count = 0.3, 0.25, len(next(iter(policies.values())))
    tall = count * line + 0.42
    figure, axes = canvas(title, tall * len(policies) + 0.1)
    for k, (policy, seen) in enumerate(policies.items()):
        top = tall * (len(policies) - k)
        flat = [example for steps in seen for step in steps for example in step]
        twice = sum(flat.count(example) > 1 for example in range(total))
        missing = [str(example) for example in range(total) if example not in flat]
        notes = [_("{steps} steps", steps=max(map(len, seen)))]
        if twice:
            notes.append(
                _("{examples} twice", examples=counted(twice, "example", "examples"))
            )
        if missing:
            notes.append(_("never: ") + ", ".join(missing))
        axes.text(0.05, top - 0.14, policy, va="center", weight="bold", size=10)
        axes.text(
            7.15,
            top - 0.14,
            " · ".join(notes),
            va="center",
            ha="right",
            size=9,
            color=MUTED,
        )
        largest = max(len(step) for steps in seen for step in steps)
        pitch = largest * (square + 0.03) + 0.12
        for worker, steps in enumerate(seen):
            y = top - 0.3 - line * (worker + 1) + 0.05
            axes.text(
                0.12,
                y + 0.12,
                _("worker {worker}", worker=worker),
                va="center",
                size=9,
                color=MUTED,
            )
            for index in range(max(map(len, seen))):
                x = 1.0 + pitch * index
                step = steps[index] if index < len(steps) else ()
                for example in step:
                    fill = COLOURS["wrong" if flat.count(example) > 1 else "inputs"]
                    box(axes, x, y, square, square - 0.02, fill, str(example), size=8.3)
                    x += square + 0.03
                if not step:  # it has nothing left
                    wide = pitch - 0.15
                    box(axes, x, y, wide, square - 0.02, COLOURS["waiting"])
        for k, example in enumerate(missing):
            x = 7.15 - (square + 0.03) * (len(missing) - k)
            y = top - 0.3 - line + 0.05
            box(axes, x, y, square, square - 0.02, "white", example, True, size=8.3)
    return figure


@styled()
def slices(sizes: dict, title: str) -> Figure:
    """Draw how many of the examples left over each replica gets: `{examples left over:
    [of each replica]}`; a replica without one is dashed.
    """
    line, square = 0.36, 0.24
    figure, axes = canvas(title, 0.5 + line * len(sizes))
    span = 5.9 / max(map(len, sizes.values()))
    top = 0.3 + line * len(sizes)
    label(axes, 0.5, top, _("left over"), size=9.5)
    for replica in range(max(map(len, sizes.values()))):
        label(
            axes,
            1.2 + span * (replica + 0.5),
            top,
            _("replica {replica}", replica=replica),
            size=9.5,
        )
    for row, (count, parts) in enumerate(sizes.items(), 1):
        y = top - line * row
        label(axes, 0.5, y, str(count), weight="bold")
        for replica, part in enumerate(parts):
            middle = 1.2 + span * (replica + 0.5)
            left = middle - (square + 0.04) * max(part, 1) / 2
            for k in range(part):
                place = left + (square + 0.04) * k, y - square / 2
                box(axes, *place, square, square, COLOURS["inputs"])
            if not part:
                box(axes, left, y - square / 2, square, square, "white", "", True)
    return figure


@styled()
def parameter_server(title: str) -> Figure:
    """Draw a parameter server between two workers, which fetch weights and bring
    gradients; a coordinator hands out the work.
    """
    figure, axes = canvas(title, 2.7)
    own = [
        (_("a batch"), colour("inputs")),
        (_("gradients"), colour("gradients")),
    ]
    processes = {
        _("worker {worker}", worker=0): (0.1, 0.1, 1.7, own),
        _("worker {worker}", worker=1): (5.4, 0.1, 1.7, own),
        _("coordinator"): (2.65, 1.65, 1.9, [(_("a queue of work"), "white")]),
        _("parameter server"): (
            2.65,
            0.1,
            1.9,
            [
                (_("weights"), colour("weights")),
                (_("optimizer"), colour("optimizer")),
            ],
        ),
    }
    for name, (left, low, wide, contents) in processes.items():
        box(axes, left, low, wide, 0.45 + 0.42 * len(contents), dashed=True)
        top = low + 0.25 + 0.42 * len(contents)
        label(axes, left + wide / 2, top, name, weight="bold", size=9)
        for k, (text, fill) in enumerate(contents):
            box(
                axes,
                left + 0.12,
                low + 0.09 + 0.42 * (len(contents) - 1 - k),
                wide - 0.24,
                0.34,
                fill,
                text,
            )
    for start, end in ((2.65, 1.8), (4.55, 5.4)):
        arrow(axes, (start, 0.75), (end, 0.75), COLOURS["travels"], 2)
        arrow(axes, (end, 0.4), (start, 0.4), COLOURS["travels"], 2)
        for y, text in ((0.9, _("weights")), (0.22, _("gradients"))):
            label(
                axes,
                (start + end) / 2,
                y,
                text,
                size=9,
                color=TRAVELS_INK,
                weight="bold",
            )
    arrow(axes, (2.65, 2.1), (1.0, 1.4))
    arrow(axes, (4.55, 2.1), (6.2, 1.4))
    return figure


@styled()
def link_times(fitted: dict, predicted: dict, measured: dict, title: str) -> Figure:
    """Draw what exchanges take over links: lines by a formula, dots as measured.

    Args:
        fitted: `{link: {KiB: milliseconds}}` by the formula, for the links from whose
            times its constants come.
        predicted: the same for the others.
        measured: `{link: {KiB: (median, low, high)}}` for all of them.
        title: the finding.
    """
    figure, axes = new_axes(title, 4.2)
    lines = {_("fitted"): fitted, _("predicted"): predicted}
    looks = {
        _("fitted"): {"color": MUTED, "linestyle": "--"},
        _("predicted"): {"color": COLOURS["compute"]},
    }
    handles = {}
    for kind, links in lines.items():
        for link, times in links.items():
            (handles[kind],) = axes.plot([*times], [*times.values()], **looks[kind])
            size, time = list(times.items())[-1]
            axes.annotate(
                link, (size, time), (7, 0), textcoords="offset points", va="center"
            )
    for marker, times in zip(itertools.cycle("os^Dv"), measured.values()):
        middle, low, high = zip(*times.values(), strict=True)
        handles[_("measured, a mark each link, quartiles")] = axes.errorbar(
            [*times],
            middle,
            [
                [m - value for m, value in zip(middle, low, strict=True)],
                [value - m for m, value in zip(middle, high, strict=True)],
            ],
            fmt=marker,
            color=COLOURS["travels"],
            markersize=5,
            capsize=3,
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    sizes = [*next(iter(measured.values()))]
    axes.set_xticks(sizes)
    axes.set_xlim(right=sizes[-1] * 14)
    for axis in axes.xaxis, axes.yaxis:
        axis.set_major_formatter(number)
    axes.set(
        xlabel=_("KiB, averaged over two workers (simulated links)"),
        ylabel=_("milliseconds"),
    )
    legend(figure, handles)
    return figure
