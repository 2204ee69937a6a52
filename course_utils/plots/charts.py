"""Charts: curves, bars and timelines, with the few options that the course's figures
need.
"""

import itertools
import math

from course_utils.language import translated as _
from course_utils.plots import style
from course_utils.plots.style import INK, Figure, number, styled


def needs(name: str, values) -> None:
    """Raise ValueError unless there is something to draw in each panel."""
    if not values or not all(values if isinstance(values, list) else [values]):
        raise ValueError(
            _("{name}={values!r}: give at least one", name=name, values=values)
        )


def _for_each_panel(name, option, panels, several):
    """Return one entry of an option for each panel: a list with one for each, or one
    that serves them all.
    """
    if not isinstance(option, list):
        return [option] * panels
    if not several or len(option) != panels:
        what = _("no list, since curves is one panel")
        if several:
            what = _("a list of {panels}, one entry a panel", panels=panels)
        raise ValueError(
            _("{name}={option!r}: must be {what}", name=name, option=option, what=what)
        )
    return option


def _spread(values):
    """Return, of numbers, or of triples (median, low, high): the medians, and the
    lengths of their error bars (2, N).
    """
    import numpy as np

    middle, low, high = np.array(
        [value if isinstance(value, tuple) else [value] * 3 for value in values], float
    ).T
    return middle, np.array([middle - low, high - middle])


@styled()
def lines(  # noqa: PLR0913
    curves: dict | list,
    title: str,
    x: str,
    y: str | list,
    *,
    looks: dict | None = None,
    log: str | list = "",
    ylim=None,
    across=None,
    at=None,
    names: list | None = None,
    height: float = 3.5,
) -> Figure:
    """Draw curves against something, in one panel or in several side by side.

    Args:
        curves: `{label: points}`; points are `{x: y}`, `{x: (median, low, high)}`, or a
            list, y at 1, 2, 3, … A list of such dicts makes a panel of each; only then
            may every option below be a list too, one entry a panel.
        title: the finding.
        x, y: labels of the axes, with units. One y for several panels: they share its
            scale.
        looks: `{label: name}`, a key of `style.LOOKS` or COLOURS, for curves whose look
            means something.
        log: "x", "y" or "xy", the logarithmic axes.
        ylim: `(low, high)` of the y axes; linear ones start at 0 by default.
        across, at: `{text: value}`, lines across, and upright. They and the curves are
            named where they are if there is room, else in a legend.
        names: titles of the panels.
        height: of the figure, in inches.
    """
    needs("curves", curves)
    panels, several = (curves, True) if isinstance(curves, list) else ([curves], False)
    panels = [
        {k: v if isinstance(v, dict) else dict(enumerate(v, 1)) for k, v in one.items()}
        for one in panels
    ]
    options = {
        "x": x,
        "y": y,
        "log": log,
        "ylim": ylim,
        "across": across,
        "at": at,
        "names": names,
    }
    options = [
        _for_each_panel(name, option, len(panels), several)
        for name, option in options.items()
    ]
    if not all(
        limits is None or (isinstance(limits, tuple) and len(limits) == 2)
        for limits in options[3]
    ):
        raise ValueError(
            _(
                "ylim={ylim!r}: must be a pair (low, high), or with several panels a "
                "list of pairs",
                ylim=ylim,
            )
        )
    figure, (row,) = style.new_axes(
        title, height, ncols=len(panels), squeeze=False, sharey=isinstance(y, str)
    )
    styles, handles = (
        style.curve_looks(list(dict.fromkeys(itertools.chain(*panels))), looks),
        {},
    )
    for axes, panel, xlabel, ylabel, logs, limits, levels, places, name in zip(
        row, panels, *options, strict=True
    ):
        for label, points in panel.items():
            middle, error = _spread(points.values())
            marker = {"marker": "o", "markersize": 4} if len(points) <= 12 else {}
            # two or three values are no curve
            alone = {}
            if len(points) <= 3 and "marker" not in styles[label]:
                stroke = styles[label].get("linestyle", "-")
                alone = {"linestyle": ":", "linewidth": 0.8, "markersize": 7}
                alone["marker"] = {"--": "s", "-.": "^", ":": "D"}.get(stroke, "o")
            (handles[label],) = axes.plot(
                list(points), middle, label=label, **(marker | styles[label] | alone)
            )
            if error.any():
                axes.errorbar(
                    list(points),
                    middle,
                    error,
                    fmt="none",
                    ecolor=handles[label].get_color(),
                    alpha=styles[label].get("alpha"),
                    capsize=4,
                )
        strokes = (":", "-", "-.", "--")
        if len(levels or {}) > len(strokes):
            raise ValueError(
                _(
                    "across={levels!r}: at most {most} lines can be told apart",
                    levels=levels,
                    most=len(strokes),
                )
            )
        for k, (label, value) in enumerate((levels or {}).items()):
            handles[label] = axes.axhline(
                value, color=INK, linestyle=strokes[k], linewidth=1.3, label=label
            )
        _scale(
            axes,
            sorted(set(itertools.chain(*panel.values()))),
            logs,
            limits,
            10 // len(row),
        )
        axes.set(
            xlabel=_(xlabel),
            ylabel=_(ylabel) if axes is row[0] or not isinstance(y, str) else "",
            title=name or "",
        )
        for text, value in (places or {}).items():
            axes.axvline(value, color=INK, linewidth=1)
            left, right = axes.get_xlim()
            part = (value - left) / (right - left)
            side = ("left", "center", "right")[min(2, int(3 * part))]
            axes.text(
                value,
                1.02,
                text,
                transform=axes.get_xaxis_transform(),
                ha=side,
                size=10,
            )
    if several or not _name_curves(row[0], panels[0], handles, log, levels):
        style.legend(figure, handles, fewest=1)
    return figure


def _name_curves(axes, curves, handles, log, levels):
    """Write a curve's name at its end, and a line's above its beginning, if there is
    room for each; return whether it was done.
    """
    ends = {label: list(points.items())[-1] for label, points in curves.items()}
    ends = {label: (x, _spread([y])[0][0]) for label, (x, y) in ends.items()}
    last = max(x for x, y in ends.values())
    if len(curves) > 5 or any(x != last or not label for label, (x, y) in ends.items()):
        return False
    place = (axes.transScale + axes.transLimits).transform
    heights = sorted(place(end)[1] for end in ends.values())
    if any(b - a < 0.085 for a, b in itertools.pairwise(heights)):
        return False
    lines = [place((last, value))[1] for value in (levels or {}).values()]
    if any(abs(line - height) < 0.06 for line in lines for height in heights):
        return False
    for label, end in ends.items():
        _write_at(axes, _(label), end, (9, 0), "left", handles[label].get_color())
    left = axes.get_xlim()[0]
    for label, value in (levels or {}).items():
        _write_at(axes, _(label), (left, value), (4, 8), "left", INK)
    return True


def _write_at(axes, words, place, shift, side, ink):
    readable = ink if style.contrast(ink, "white") >= 4.5 else INK
    axes.annotate(
        words,
        place,
        shift,
        textcoords="offset points",
        ha=side,
        va="center",
        color=readable,
        annotation_clip=False,
    )


def _scale(axes, found, logs, limits, most):
    """Set scales and ticks: on x where the points are if these are few; whole numbers
    where all are whole.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    if "x" in logs:
        axes.set_xscale("log", base=2)
        if len(found) <= 12:
            axes.set_xticks(found[:: -math.ceil(len(found) / 6)])
    else:
        axes.xaxis.set_major_locator(
            MaxNLocator(most, integer=all(x == int(x) for x in found), min_n_ticks=1)
        )
    if "y" in logs:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(
            LogLocator(subs=(1,) if high > 50 * low else (1, 2, 5))
        )
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(limits or (None if "y" in logs or axes.dataLim.y0 < 0 else 0, None))
    for axis in axes.xaxis, axes.yaxis:
        axis.set_major_formatter(number)


@styled()
def bars(
    values: dict,
    unit: str,
    title: str,
    *,
    stacked: bool = True,
    looks=None,
    across=None,
    reference: bool = True,
) -> Figure:
    """Draw a horizontal bar for each way of doing something.

    Args:
        values: `{label: number}`, `{label: (median, low, high)}`, or `{label: {part:
            number}}`: the parts of a bar; a part named like a colour gets it.
        unit: of the numbers, the label of the axis.
        title: the finding.
        stacked: parts stand one behind the other; else one below the other.
        looks: `{part: a key of COLOURS}`, for other parts.
        across: `{text: number}`, one upright line; the axis ends at three times its
            number.
        reference: the first bar, in grey, is what the others are compared with.
    """
    import numpy as np

    needs("values", values)
    if len(across or {}) > 1:
        raise ValueError(
            _("across={across!r}: bars take one line at most", across=across)
        )
    ((line, most),) = (across or {"": np.inf}).items()
    table = [
        parts if isinstance(parts, dict) else {"": parts} for parts in values.values()
    ]
    parts = list(dict.fromkeys(itertools.chain(*table)))
    beside, named = 1 if stacked else len(parts), parts != [""]
    figure, axes = style.new_axes(
        title, 1.0 + 0.5 * named + max(0.42, 0.3 * beside) * len(table)
    )
    fills = style.bar_looks(parts, looks)
    if not named:
        colours = [style.colour("compute")] * len(table)
        colours[0] = style.MUTED if reference else colours[0]
        fills = {"": {"color": colours}}
    thick, ends, handles = 0.7 / beside, np.zeros(len(table)), {}
    for k, part in enumerate(parts):
        places = np.arange(len(table)) + (
            0 if stacked else thick * (k - (beside - 1) / 2)
        )
        middle, error = _spread([row.get(part, 0) for row in table])
        left = ends if stacked else 0 * ends
        handles[part] = axes.barh(
            places, middle, thick, left, label=part, **fills[part]
        )
        ends = left + middle
        spread = error.any(axis=0)
        if spread.any():  # no caps where nothing spreads
            axes.errorbar(
                ends[spread],
                places[spread],
                xerr=error[:, spread],
                fmt="none",
                ecolor=INK,
                capsize=3,
            )
        if not stacked or part == parts[-1]:
            for place, end, more in zip(places, ends, error[1], strict=True):
                text, place = (
                    number(end) + (" …" if end > 3 * most else ""),
                    (min(end + more, 3 * most), place),
                )
                axes.annotate(
                    text,
                    place,
                    (6, 0),
                    textcoords="offset points",
                    va="center",
                    annotation_clip=False,
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
                )
    _rows(axes, list(values), unit)
    axes.margins(x=0.14)
    axes.set_xlim(left=0)
    if across:
        axes.set_xlim(right=min(axes.get_xlim()[1], 3 * most))
        handles[line] = axes.axvline(
            most, color=INK, linestyle=":", linewidth=1.6, label=line
        )
    axes.xaxis.set_major_formatter(number)
    if named or across:
        style.legend(figure, handles)
    return figure


def _rows(axes, names, unit):
    """Draw named rows from the top down, and a horizontal axis with its unit."""
    axes.set_yticks(range(len(names)), [_(name) for name in names], color=INK)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(xlabel=_(unit))


@styled()
def timeline(
    rows: dict, title: str, labels: dict, unit: str = "milliseconds"
) -> Figure:
    """Draw who does what when.

    Args:
        rows: `{name: [(start, duration, what), …]}`, what a key of COLOURS. Later spans
            cover earlier ones. A fourth element is a short text to stand in the span,
            such as a number.
        title: the finding.
        labels: `{what: word}` for the legend.
        unit: of the time.
    """
    from matplotlib.patches import Patch

    needs("rows", rows)
    figure, axes = style.new_axes(title, 1.5 + 0.5 * len(rows))
    end = max(start + duration for row in rows.values() for start, duration, *_ in row)
    for i, spans in enumerate(rows.values()):
        for start, duration, what, *text in spans:
            axes.broken_barh(
                [(start, duration)],
                (i - 0.36, 0.72),
                facecolor=style.colour(what),
                edgecolor="white",
                # an edge would cover what is short
                linewidth=1 if duration > 0.01 * end else 0,
            )
            axes.text(
                start + duration / 2,
                i,
                *text or [""],
                ha="center",
                va="center",
                color=style.ink_on(style.colour(what)),
                fontsize=9,
            )
    _rows(axes, list(rows), unit)
    axes.set_xlim(left=0)
    style.legend(
        figure,
        {word: Patch(facecolor=style.colour(what)) for what, word in labels.items()},
    )
    return figure
