"""What all figures share: the palette, the looks of curves and bars, and a canvas with
boxes and arrows.
"""

import contextlib
import textwrap
from typing import TYPE_CHECKING, Any

from course_utils.arguments import one_of
from course_utils.language import marked, translated as _

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:  # matplotlib is loaded when something is drawn
    Figure = Any

COLOURS = {
    marked("inputs"): "#56B4E9",
    marked("activations"): "#56B4E9",
    marked("weights"): "#E69F00",
    marked("gradients"): "#009E73",
    marked("travels"): "#D55E00",
    marked("optimizer"): "#F0E442",
    marked("waiting"): "#D9D9D9",
    marked("wrong"): "#CC79A7",
    marked("compute"): "#0072B2",
}
"""What a colour means, in every figure: the Okabe–Ito palette, which colour-blind
readers can tell apart.
"""

INK, MUTED = "#111111", "#6B6B6B"
TRAVELS_INK = "#B34A00"
"""What travels, as text on white: the colour itself is too light to be read there."""

STYLE = {
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "font.size": 11,
    "text.color": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
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
}
NAMES = (
    marked("KiB"),
    marked("MiB"),
    marked("GiB"),
    marked("GB"),
    marked("loss"),
    marked("accuracy"),
    marked("alone"),
    marked("accumulator"),
)
"""Units and names, besides those of COLOURS, that notebooks' data bring to axes and
legends as keys: what is drawn of them is in the chosen language.
"""

LOOKS = {  # of curves whose look means something, besides the colours themselves
    "reference": {"color": MUTED, "linestyle": ":", "marker": ""},
    # what other curves should lie upon
    "underlay": {"color": INK, "linewidth": 8, "alpha": 0.2, "marker": ""},
    "points": {
        "color": COLOURS["compute"],
        "linestyle": "none",
        "marker": "o",
        "markersize": 8,
    },
    "ring around": {
        "color": INK,
        "linestyle": "none",
        "marker": "o",
        "markersize": 13,
        "markerfacecolor": "none",
        "clip_on": False,
    },
    "wrong": {"color": COLOURS["wrong"], "linestyle": "--"},
    "travels, too": {"color": COLOURS["travels"], "linestyle": "--"},
    "ink": {"color": INK},
    "ink, too": {"color": INK, "linestyle": "--"},
}


@contextlib.contextmanager
def styled():
    """Decorate a drawing function: it draws in the course's style, and leaves
    matplotlib's settings as they were.
    """
    import matplotlib

    rcParams: Any = matplotlib.rcParams

    # rc_context would undo what Jupyter's backend sets, too
    before = {name: rcParams[name] for name in STYLE}
    rcParams.update(STYLE)
    try:
        yield
    finally:
        rcParams.update(before)


def colour(what: str) -> str:
    """Return the colour of a meaning, a key of COLOURS; ValueError for another."""
    return COLOURS[one_of("colour", what, COLOURS)]


def _known(chosen, labels):
    if unknown := set(chosen or {}) - set(labels):
        raise ValueError(
            _(
                "looks: nothing is called {names}",
                names=_(" or ").join(map(repr, sorted(unknown))),
            )
        )
    return dict(chosen or {})


def curve_looks(labels: list, chosen: dict | None = None) -> dict[str, dict]:
    """Return how each of these curves is drawn, each differently; chosen: `{label: a
    key of LOOKS or COLOURS}` for some.
    """
    chosen = _known(chosen, labels)
    looks = {
        label: LOOKS[what] if what in LOOKS else {"color": colour(what)}
        for label, what in chosen.items()
    }
    taken = [(look["color"], look.get("linestyle", "-")) for look in looks.values()]
    inks, strokes = (COLOURS["compute"], INK, MUTED), ("-", "--", "-.", ":")
    pairs = [(inks[i % 3], strokes[i % 4]) for i in range(12)]
    free = [
        {"color": ink, "linestyle": stroke}
        for ink, stroke in pairs
        if (ink, stroke) not in taken
    ]
    if len(labels) - len(chosen) > len(free):
        raise ValueError(
            _(
                "{count} curves: at most {most} can be told apart; draw fewer, or two "
                "figures",
                count=len(labels),
                most=len(free),
            )
        )
    return {label: looks.get(label) or free.pop(0) for label in labels}


def bar_looks(labels: list, chosen: dict | None = None) -> dict[str, dict]:
    """Return how each kind of bars is filled: in the colour of its name or of
    `chosen[name]`, else hatched, in computing's.
    """
    chosen = {label: label for label in labels if label in COLOURS} | _known(
        chosen, labels
    )
    hatches, looks = ["", "////", "....", "xxxx", "----", "oo"], {}
    for label in labels:
        if label not in chosen and not hatches:
            raise ValueError(
                _(
                    "{count} kinds of bars: at most 6 without a colour can be told "
                    "apart",
                    count=len(labels),
                )
            )
        hatch = "" if label in chosen else hatches.pop(0)
        looks[label] = {
            "facecolor": colour(chosen.get(label, "compute")),
            "hatch": hatch,
            "edgecolor": INK,
            "linewidth": 0.5,  # thin parts are seen, too
        }
    return looks


def contrast(one: Any, other: Any) -> float:
    """Return the ratio of two colours' luminances, from 1 to 21; text that can be read
    has 4.5 at least (WCAG 2.2, success criterion 1.4.3).
    """
    from matplotlib.colors import to_rgb

    def luminance(colour):
        linear = [
            value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
            for value in to_rgb(colour)
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def ink_on(fill: Any) -> str:
    """Return the colour of text that stands on this one: white, or INK."""
    return max("white", INK, key=lambda ink: contrast(ink, fill))


def number(value: float, place=None) -> str:
    """Return a number with three digits that count, or more before the point: 0.4,
    26.5, 12,345. place: of a tick, which matplotlib gives, is not read.
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def new_axes(title: str, height: float, **kwargs) -> tuple:
    """Return a figure 7.2 inches wide, and its axes. The title, the finding, starts at
    the left edge, above everything.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.2, height), **kwargs)
    _tell_titles(type(figure))
    figure.suptitle(
        textwrap.fill(title, 72), x=0.01, ha="left", weight="bold", size=12.5
    )
    return figure, axes


def _tell_titles(kind):
    """Let Jupyter keep a figure's title as its alternative text, for readers who do not
    see it, and store the picture at twice the resolution in few colours.
    """
    from IPython import get_ipython
    from IPython.core.pylabtools import retina_figure

    pictures = (shell := get_ipython()) and shell.display_formatter.formatters[
        "image/png"
    ]
    try:
        draw = pictures.lookup_by_type(kind)
    # not in a notebook, or pictures in another format
    except (AttributeError, KeyError):
        return
    if getattr(draw, "__name__", "") != "with_title":

        def with_title(figure):
            alternative = figure.get_suptitle().replace("\n", " ")
            drawn: Any = retina_figure(figure, base64=False)
            data, size = drawn
            return _in_few_colours(data), size | {"alt": alternative}

        pictures.for_type(kind, with_title)


def _in_few_colours(picture: bytes) -> bytes:
    """Return a PNG picture with a palette: a drawing has few colours, and takes a third
    of the bytes.
    """
    import io

    from PIL import Image

    small = io.BytesIO()
    opened = Image.open(io.BytesIO(picture)).convert("RGB")
    opened.quantize(128, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def legend(figure: Figure, handles: dict, fewest: int = 2) -> None:
    """Draw one legend for the whole figure, below it, if it has so many entries.

    handles: `{label: handle}`; what has no label is left out.
    """
    handles = {label: handle for label, handle in handles.items() if label}
    if len(handles) < fewest:
        return
    names = [_(label) for label in handles]
    columns = max(1, min(len(names), 92 // (max(map(len, names)) + 7)))
    figure.legend(handles.values(), names, loc="outside lower center", ncols=columns)


def canvas(title: str, height: float) -> tuple:
    """Return axes without axes, one unit an inch, for a drawing made of boxes and
    arrows.
    """
    figure, axes = new_axes(title, height)
    axes.set(xlim=(0, 7.2), ylim=(0, height), aspect="equal")
    axes.axis("off")
    return figure, axes


def label(axes, x: float, y: float, text: str, **look) -> None:
    """Write a text centred on a point."""
    axes.text(x, y, text, **({"ha": "center", "va": "center", "size": 10} | look))


def box(  # noqa: PLR0913
    axes,
    x: float,
    y: float,
    width: float,
    height: float,
    fill: Any = "white",
    text: str = "",
    dashed: bool = False,
    **look,
):
    """Draw a rounded box, and return it: dark outline for a device, dashed for a
    process, filled for what lives there.
    """
    from matplotlib.patches import FancyBboxPatch

    look_of_edge: dict[str, Any] = {"edgecolor": INK}
    if dashed:
        look_of_edge = {"edgecolor": MUTED, "linestyle": "--"}
    patch = FancyBboxPatch(
        (x, y),
        width,
        height,
        "round,pad=0,rounding_size=0.09",
        facecolor=fill,
        lw=1.1,
        **look_of_edge,
    )
    look = {"color": ink_on(patch.get_facecolor()[:3])} | look
    label(axes, x + width / 2, y + height / 2, text, **look)
    return axes.add_patch(patch)


def arrow(
    axes, start: tuple, end: tuple, fill: str = INK, width: float = 1.4, **ends
) -> None:
    """Draw a straight arrow; in the colour of what travels, and thicker, where it
    crosses a device's edge.
    """
    look = {"arrowstyle": "-|>", "color": fill, "lw": width, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=look | ends)


def device_row(
    axes, names: list, left: float, bottom: float, width: float, height: float
):
    """Draw devices side by side, of more than four three and dots, and yield each one's
    index, left edge and width.
    """
    drawn = range(len(names)) if len(names) <= 4 else (0, 1, None, len(names) - 1)
    span = width / len(drawn)
    for i, index in enumerate(drawn):
        start, middle = left + i * span, left + (i + 0.5) * span
        if index is None:
            label(
                axes,
                middle,
                bottom + 0.75 * height,
                _("…\n{count} more", count=len(names) - 3),
                color=MUTED,
            )
            continue
        box(axes, start + 0.06, bottom, span - 0.12, height)
        label(axes, middle, bottom + height - 0.2, names[index], weight="bold")
        yield index, start, span
