"""Pictures in motion: one animated SVG, which plays inside `<img>` without JavaScript.

It loops, has no network address, and the same calls give the same bytes. Readers who
ask their system for less motion, and paper, get what `Motion.still` was given.
"""

import base64
import html
from collections.abc import Sequence

from course_utils.language import translated as _
from course_utils.plots.style import INK, ink_on

FONT = "DejaVu Sans, Verdana, sans-serif"
STYLE = (
    "text{stroke:none}"
    ".still{display:none}"
    "@media (prefers-reduced-motion:reduce),print"
    "{.moving{display:none}.still{display:inline}}"
)


def text(
    x: float,
    y: float,
    words: str,
    *,
    size: float = 13,
    fill: str = INK,
    anchor: str = "middle",
    bold: bool = False,
) -> str:
    """Return a text whose middle (anchor "start", "middle" or "end") is at x, y; in
    pixels.
    """
    more = ' font-weight="bold"' if bold else ""
    if size != 13:
        more += f' font-size="{_short(size)}"'
    if fill != INK:
        more += f' fill="{fill}"'
    if anchor != "middle":
        more += f' text-anchor="{anchor}"'
    baseline = _short(y + 0.36 * size)
    return f'<text x="{_short(x)}" y="{baseline}"{more}>{html.escape(words)}</text>'


def rectangle(  # noqa: PLR0913
    x: float,
    y: float,
    width: float,
    height: float,
    fill: str = "white",
    words: str = "",
    *,
    edge: str = INK,
    thick: float = 1,
    dashed: bool = False,
    size: float = 13,
) -> str:
    """Return a rounded box with a text in its middle; x, y is its upper left corner."""
    more = f' stroke="{edge}"' if edge != INK else ""
    if thick != 1:
        more += f' stroke-width="{_short(thick)}"'
    if dashed:
        more += ' stroke-dasharray="4 3"'
    places = " ".join(
        f'{name}="{_short(value)}"'
        for name, value in zip(
            ("x", "y", "width", "height"), (x, y, width, height), strict=True
        )
    )
    shape = f'<rect {places} rx="5" fill="{fill}"{more}/>'
    if not words:
        return shape
    middle = x + width / 2, y + height / 2
    return shape + text(*middle, words, size=size, fill=ink_on(fill))


def line(start: tuple, end: tuple, colour: str, width: float = 2) -> str:
    """Return a straight line."""
    (x1, y1), (x2, y2) = start, end
    return (
        f'<path d="M{_short(x1)} {_short(y1)}L{_short(x2)} {_short(y2)}" '
        f'stroke="{colour}" stroke-width="{_short(width)}"/>'
    )


def arrow(start: tuple, end: tuple, colour: str, width: float = 2.5) -> str:
    """Return a straight arrow."""
    (x1, y1), (x2, y2) = start, end
    length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
    along = (x2 - x1) / length, (y2 - y1) / length
    back = x2 - 10 * along[0], y2 - 10 * along[1]
    sides = [
        (back[0] + side * 5 * along[1], back[1] - side * 5 * along[0])
        for side in (1, -1)
    ]
    head = "L".join(f"{_short(x)} {_short(y)}" for x, y in (sides[0], end, sides[1]))
    return (
        line(start, back, colour, width)
        + f'<path d="M{head}z" fill="{colour}" stroke="none"/>'
    )


class Motion:
    """An animated drawing under construction; Jupyter shows it as the last value of a
    cell, or by `display`.

    Times are in seconds from 0 to `seconds`; then it begins again: all animations
    begin when the clock, the element "a", does.
    """

    def __init__(self, title: str, width: float, height: float, seconds: float):
        self.title = title
        self.width, self.height, self.seconds = width, height, seconds
        self._always: list[str] = []
        self._moving: list[str] = []
        self._still: list[str] = []
        self.always(text(10, 20, title, size=17, anchor="start", bold=True))

    def __repr__(self) -> str:
        return _("In motion: {title}", title=self.title)

    def always(self, *shapes: str) -> None:
        """Draw what never changes."""
        self._always += shapes

    def still(self, *shapes: str) -> None:
        """Draw what stands instead of all that moves, where motion is not wanted."""
        self._still += shapes

    def during(
        self, spans: Sequence[tuple[float, float]], *shapes: str, by: tuple = ()
    ) -> None:
        """Draw shapes in these spans of time, (start, end).

        by: (right, down), how far they are carried on in each.
        """
        animations = ""
        for start, end in spans:
            if not 0 <= start < end <= self.seconds:
                raise ValueError(
                    _(
                        "spans={spans!r}: each must start before it ends, within 0 "
                        "and {seconds} seconds",
                        spans=spans,
                        seconds=self.seconds,
                    )
                )
            times = (
                f'begin="a.begin+{_short(start, 2)}s" dur="{_short(end - start, 2)}s"'
            )
            animations += f'<set attributeName="opacity" to="1" {times}/>'
            if by:
                animations += (
                    '<animateTransform attributeName="transform" type="translate" '
                    f'from="0 0" to="{_short(by[0])} {_short(by[1])}" {times}/>'
                )
        self._moving.append(f'<g opacity="0">{animations}{"".join(shapes)}</g>')

    def history(self, values: Sequence[tuple[float, str]]) -> None:
        """Draw shapes that replace each other: (from when on, shape); the last stays to
        the end.
        """
        ends = [start for start, shape in values[1:]] + [self.seconds]
        for (start, shape), end in zip(values, ends, strict=True):
            if start < end:
                self.during([(start, end)], shape)

    def slide(self, shape: str, seconds: float, right: float) -> None:
        """Carry a shape to the right, evenly, and leave it there."""
        self._moving.append(
            f'<g><animateTransform attributeName="transform" type="translate" '
            f'from="0 0" to="{_short(right)} 0" begin="a.begin" '
            f'dur="{_short(seconds, 2)}s" fill="freeze"/>{shape}</g>'
        )

    def bar(
        self, x: float, y: float, height: float, fill: str, growth: Sequence[tuple]
    ) -> None:
        """Draw a bar that grows to the right: (when, to what length) by (when, to what
        length), evenly in between.
        """
        times, lengths = zip(*growth, (self.seconds, growth[-1][1]), strict=True)
        keys = ";".join(_short(time / self.seconds, 4) for time in times)
        self._moving.append(
            f'<rect x="{_short(x)}" y="{_short(y)}" height="{_short(height)}" '
            f'width="0" fill="{fill}" stroke="none">'
            '<animate attributeName="width" begin="a.begin" '
            f'dur="{_short(self.seconds)}s" keyTimes="{keys}" '
            f'values="{";".join(map(_short, lengths))}"/></rect>'
        )

    def svg(self) -> str:
        """Return the drawing as one SVG document."""
        size = f'width="{_short(self.width)}" height="{_short(self.height)}"'
        box = f'viewBox="0 0 {_short(self.width)} {_short(self.height)}"'
        clock = (
            '<set id="a" attributeName="x" to="0" begin="0s;a.end" '
            f'dur="{_short(self.seconds)}s"/>'
        )
        groups = "".join(
            f'<g class="{name}">{"".join(shapes)}</g>'
            for name, shapes in (
                ("always", self._always),
                ("moving", self._moving),
                ("still", self._still),
            )
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} {box} '
            f'fill="{INK}" stroke="{INK}" text-anchor="middle" '
            f'font-family="{FONT}" font-size="13">'
            f"<title>{html.escape(self.title)}</title><style>{STYLE}</style>"
            '<rect width="100%" height="100%" fill="white" stroke="none">'
            f"{clock}</rect>{groups}</svg>"
        )

    def _repr_html_(self) -> str:
        """Return an `<img>` that holds the drawing: it also plays where a notebook is
        not trusted, and where files beside it cannot be loaded.
        """
        data = base64.b64encode(self.svg().encode()).decode()
        return (
            f'<img alt="{html.escape(repr(self))}" '
            f'width="{_short(self.width)}" src="data:image/svg+xml;base64,{data}">'
        )


def _short(value: float, digits: int = 1) -> str:
    """Return a number without needless digits."""
    return f"{value:.{digits}f}".rstrip("0").rstrip(".") or "0"
