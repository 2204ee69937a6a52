"""planner.Sliders: the figure follows, or stands still."""

import base64
import sys

import matplotlib.figure
import pytest

from course_utils.planner.sliders import Sliders

VIEW = "application/vnd.jupyter.widget-view+json"


def drawn(size, colour):
    if size > 2 and colour == "red":
        raise ValueError(f"size={size}: too large for <red>")
    figure = matplotlib.figure.Figure(figsize=(size, 1), facecolor=colour)
    return figure, f"{size} & {colour}"


def sliders(size=1):
    return Sliders(drawn, size=("inches", [1, 2, 3], size), colour=("colour of all", ["red", "blue"], "red"))


def width(png):
    return int.from_bytes(bytes(png)[16:20], "big")


def test_shows_the_first_position_and_the_sliders():
    shown = sliders()._repr_mimebundle_()
    assert shown["text/plain"] == "1 & red"
    assert width(base64.b64decode(shown["image/png"])) == 100
    assert len(shown[VIEW]["model_id"]) > 8


def test_picture_and_words_follow():
    control = sliders()
    assert [each.description for each in control.sliders.values()] == ["inches", "colour of all"]
    assert (width(control.picture.value), "1 &amp; red" in control.words.value) == (100, True)
    control.sliders["size"].value = 2
    assert (width(control.picture.value), "2 &amp; red" in control.words.value) == (200, True)
    control.sliders["colour"].value = "blue"
    assert "2 &amp; blue" in control.words.value


def test_what_does_not_go_together_is_said_and_left_again():
    control = sliders()
    control.sliders["size"].value = 3
    assert control.picture.layout.display == "none"
    assert "These do not go together: size=3: too large for &lt;red&gt;" in control.words.value
    control.sliders["size"].value = 2
    assert (control.picture.layout.display, width(control.picture.value)) == ("", 200)


def test_stands_still_without_ipywidgets(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    shown = sliders()._repr_mimebundle_()
    assert shown["text/plain"] == "1 & red" and VIEW not in shown
    assert width(base64.b64decode(shown["image/png"])) == 100


@pytest.mark.parametrize(
    "size, message", [(4, r"size=4: must be one of its values, \[1, 2, 3\]"), (3, "size=3: too large for <red>")]
)
def test_a_first_position_that_cannot_be(size, message):
    with pytest.raises(ValueError, match=message):
        sliders(size)
