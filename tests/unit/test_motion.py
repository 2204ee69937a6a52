"""Pictures in motion: small, the same bytes each time, with a still.

They show the notebook's own numbers.
"""

import base64
import re
import xml.etree.ElementTree as ElementTree

import pytest
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

import course_planner as planner
from course_planner import animations
from course_utils.plots.motion import Motion, arrow, rectangle, text
from tests.unit.test_plots import both_schedules

PACE = {"CPU:0": 20, "CPU:1": 20, "CPU:2": 20, "CPU:3": 80}
MADE = {
    "ring": lambda: animations.ring_and_star(planner.drawings.ring_story(4), "title"),
    "pipelines": lambda: animations.pipelines(both_schedules(), "title", "time"),
    "asynchronous": lambda: animations.asynchronous(PACE, 160, "title"),
}
SVG = "{http://www.w3.org/2000/svg}"
TEXT = f"{SVG}text"


def groups(motion):
    """{class: element} of a drawing's three layers."""
    root = ElementTree.fromstring(motion.svg())
    return {group.get("class"): group for group in root.findall(f"{SVG}g")}


def words(element):
    return [found.text for found in element.iter(f"{SVG}text")]


@pytest.mark.parametrize("name", MADE)
def test_it_is_small_the_same_each_time_and_stands_still_where_that_is_asked_for(name):
    motion = MADE[name]()
    drawn = motion.svg()
    assert drawn == MADE[name]().svg() and len(drawn.encode()) <= 40 * 1024
    assert "prefers-reduced-motion:reduce" in drawn and "print" in drawn
    layers = groups(motion)
    assert len(layers["still"]) > 5 and not list(layers["still"].iter(f"{SVG}set"))
    assert len(list(layers["moving"].iter(f"{SVG}set"))) > 20
    for forbidden in "<script", "http", "href":  # but for the name of the format
        assert forbidden not in drawn.replace('xmlns="http://www.w3.org/2000/svg"', "")


@pytest.mark.parametrize("language", ["en", "fr"])
@pytest.mark.parametrize("name", MADE)
def test_no_text_runs_over_the_edge(name, language, monkeypatch):
    monkeypatch.setenv("COURSE_LANGUAGE", language)
    motion = MADE[name]()
    drawn = [one for group in groups(motion).values() for one in group.iter(TEXT)]
    assert drawn
    for one in drawn:
        size, weight = float(one.get("font-size", 13)), one.get("font-weight", "normal")
        font = FontProperties(family="DejaVu Sans", weight=weight)
        wide = TextPath((0, 0), one.text, size=size, prop=font).get_extents().width
        share = {"start": 0, "end": 1}.get(one.get("text-anchor"), 0.5)
        left = float(one.get("x")) - share * wide
        assert left >= 0 and left + wide <= motion.width, one.text


@pytest.mark.parametrize("name", MADE)
def test_nothing_begins_before_the_start_or_ends_after_the_end(name):
    motion = MADE[name]()
    for element in groups(motion)["moving"].iter():
        if begin := element.get("begin"):
            start = float((re.search(r"\+([\d.]+)s", begin) or [0, 0])[1])
            assert start + float(element.get("dur")[:-1]) <= motion.seconds + 0.02, (
                element.attrib
            )


def test_a_notebook_gets_an_image_that_names_itself():
    shown = MADE["ring"]()._repr_html_()
    assert 'alt="In motion: title"' in shown and "<svg" not in shown
    data = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', shown)[1]
    assert base64.b64decode(data).decode() == MADE["ring"]().svg()


def test_the_ring_shows_every_number_of_its_story_and_the_bytes():
    story = planner.drawings.ring_story(4)
    motion = animations.ring_and_star(story, "title")
    said = set(words(groups(motion)["moving"])) | set(words(groups(motion)["always"]))
    assert {
        str(value) for _, values, _ in story for row in values for value in row
    } <= said
    most = [max(planner.all_reduce_bytes(4, 4, way)) for way in ("gather", "ring")]
    assert {f"{count} bytes in all" for count in (16, *most)} <= said


def test_the_star_adds_up_what_the_devices_hold():
    drawn = MADE["ring"]().svg()
    for partial in 11, 111, 22, 333:
        assert f">{partial}</text>" in drawn


def test_a_ring_of_three_has_no_place_here():
    with pytest.raises(ValueError, match="story: of 3 devices"):
        animations.ring_and_star(planner.drawings.ring_story(3), "title")


def test_pipelines_tell_the_bubble_and_never_keep_more_than_the_run_did():
    runs = both_schedules()
    motion = animations.pipelines(runs, "title", "time")
    said = words(groups(motion)["always"])
    assert [name for name in said if "27 % of the time" in name] != []
    squares = len(groups(motion)["still"])
    assert squares == 2 * 4 * 8  # filled or dashed
    filled = [
        shape for shape in groups(motion)["still"] if not shape.get("stroke-dasharray")
    ]
    assert (
        len(filled) == sum(sum(run.peak_in_flight) for run in runs.values()) == 32 + 10
    )


def test_the_age_of_a_gradient_counts_the_updates_of_others():
    updates = animations.updates_in_order(PACE, 400)
    assert len(updates) == 65 and {
        age for _, name, _, age in updates if name == "CPU:3"
    } == {12}
    for number, (_, name, read, age) in enumerate(updates):
        between = [other for _, other, *_ in updates[read:number]]
        assert len(between) == age and name not in between
    alike = animations.updates_in_order(dict.fromkeys(PACE, 20), 400)
    assert {age for *_, age in alike[4:]} == {3}


def test_spans_outside_the_time_are_refused():
    motion = Motion("title", 100, 100, 10)
    for spans in [(3, 2)], [(-1, 2)], [(0, 11)]:
        with pytest.raises(
            ValueError,
            match=r"spans=.*must start before it ends, within 0 and 10 seconds",
        ):
            motion.during(spans, text(5, 5, "a"))


def test_texts_are_escaped_and_readable():
    drawn = text(5, 5, "a < b & c") + rectangle(0, 0, 10, 10, "#0072B2", "on blue")
    assert "a &lt; b &amp; c" in drawn and 'fill="white">on blue' in drawn
    assert arrow((0, 0), (10, 0), "red").count("<path") == 2
