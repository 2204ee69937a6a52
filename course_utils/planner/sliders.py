"""A figure that follows sliders, and stands still where there are none."""

import html
import io


class Sliders:
    """End a cell with it: a slider for each argument of `draw`, and under them what it draws and says.

    draw: a function that returns (figure, text), called with a value for each of `arguments`. What it refuses with a
        ValueError is said in place of the text: not all positions of all sliders make sense together.
    arguments: `name=(words, values, first)`, the name in `draw`, the words beside the slider, the values it goes
        through, and the one that it starts with. Raises ValueError if the first is none of the values, or refused.

    Without the package ipywidgets, or where nothing runs (GitHub, the course's website), the figure stands still.
    """

    def __init__(self, draw, **arguments):
        for name, (_, values, first) in arguments.items():
            if first not in values:
                raise ValueError(f"{name}={first!r}: must be one of its values, {list(values)}")
        self._draw, self.sliders = draw, {}
        self._still = self._drawn({name: first for name, (*_, first) in arguments.items()})
        try:
            import ipywidgets as widgets
        except ImportError:
            return
        look = {"style": {"description_width": "14em"}, "layout": widgets.Layout(width="36em")}
        for name, (words, values, first) in arguments.items():
            self.sliders[name] = widgets.SelectionSlider(
                options=values, value=first, description=words, continuous_update=False, **look
            )
            self.sliders[name].observe(self._follow, "value")
        self.picture = widgets.Image(value=self._still[0])
        self.words = widgets.HTML(_lines(self._still[1]))
        self._box = widgets.VBox([*self.sliders.values(), self.picture, self.words])

    def _drawn(self, values):
        """The PNG's bytes, and the text."""
        from matplotlib import pyplot

        figure, text = self._draw(**values)
        file = io.BytesIO()
        figure.savefig(file)
        pyplot.close(figure)  # or Jupyter shows it once more
        return file.getvalue(), str(text)

    def _follow(self, _):
        try:
            self.picture.value, text = self._drawn({name: slider.value for name, slider in self.sliders.items()})
            self.picture.layout.display = ""
        except ValueError as refused:
            self.picture.layout.display, text = "none", f"These do not go together: {refused}"
        self.words.value = _lines(text)

    def _repr_mimebundle_(self, include=None, exclude=None):
        import base64

        image, text = self._still
        shown = {"text/plain": text, "image/png": base64.b64encode(image).decode()}
        if self.sliders:
            view = {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}
            shown["application/vnd.jupyter.widget-view+json"] = view
        return shown


def _lines(text):
    return f"<pre style='white-space: pre-wrap; line-height: 1.4'>{html.escape(text)}</pre>"
