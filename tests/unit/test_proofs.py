"""Proofs, which stop the notebook when they fail."""

import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf
from IPython.core.formatters import DisplayFormatter

from course_utils import proofs
from course_utils.model import build_model

ONES, TWOS, NAN, INF = (
    np.ones(3),
    np.full(3, 2.0),
    np.array([1, np.nan, 1]),
    np.array([1, np.inf, -np.inf]),
)
BIG = np.array([2**53])


@pytest.mark.parametrize(
    "a, b, tolerance, line, difference",
    [
        (ONES, ONES.copy(), 0, "a = b: bit-identical ✓", 0),
        (ONES, ONES.copy(), 1e-5, "a = b: max |Δ| ≤ 1e-05 ✓", 0),
        (ONES, ONES + 9e-6, 1e-5, "a = b: max |Δ| ≤ 1e-05 ✓", 9e-6),
        (ONES, ONES - 9e-6, 1e-5, "a = b: max |Δ| ≤ 1e-05 ✓", 9e-6),
        (1, 1.5, 0.5, "a = b: max |Δ| ≤ 0.5 ✓", 0.5),
        ([ONES, TWOS], (ONES, TWOS), 0, "a = b: bit-identical ✓", 0),
        (
            np.array([0, 255], "uint8"),
            np.array([1, 254], "uint8"),
            1,
            "a = b: max |Δ| ≤ 1 ✓",
            1,
        ),
        (np.zeros((0, 3)), np.zeros((0, 3)), 0, "a = b: bit-identical ✓", 0),
        (tf.ones(3), ONES.astype("float32"), 0, "a = b: bit-identical ✓", 0),
        (INF, INF.copy(), 0, "a = b: bit-identical ✓", 0),
        (INF, INF.astype("float32"), 1e-5, "a = b: max |Δ| ≤ 1e-05 ✓", 0),
        (ONES.astype("float16"), ONES, 1e-5, "a = b: max |Δ| ≤ 1e-05 ✓", 0),
        (
            tf.constant([1, 2], tf.bfloat16),
            tf.constant([1, 2.5], tf.bfloat16),
            1,
            "a = b: max |Δ| ≤ 1 ✓",
            0.5,
        ),
        (BIG, BIG + 1, 1, "a = b: max |Δ| ≤ 1 ✓", 1),
    ],
)
def test_same(capsys, a, b, tolerance, line, difference):
    measured = proofs.same(a, b, tolerance, "a = b")
    assert measured == pytest.approx(difference) and isinstance(measured, float)
    told = "" if tolerance == 0 else f" (measured {difference:.3g})"
    assert capsys.readouterr().out == line + told + "\n"


def test_same_names_the_array_that_differs_most(capsys):
    model = build_model()
    variables, other = (
        model.trainable_variables,
        [variable.numpy() for variable in model.trainable_variables],
    )
    other[3][5] += 1e-6
    proofs.same(variables, other, 1e-5, "a = b")
    assert (
        capsys.readouterr().out
        == "a = b: max |Δ| ≤ 1e-05 ✓ (measured 1e-06 in digits_cnn/hidden/bias)\n"
    )
    proofs.same(
        {"x": 1, "y": 2}, {"y": 2.25, "x": 1}, 0.5, "a = b"
    )  # by name, whatever their order
    assert capsys.readouterr().out == "a = b: max |Δ| ≤ 0.5 ✓ (measured 0.25 in y)\n"
    with pytest.raises(
        AssertionError, match=r"✗ max \|Δ\| = 0.25 in y, which is not ≤ 0"
    ):
        proofs.same({"x": 1, "y": 2.0}, {"x": 1, "y": 2.25}, 0, "a = b")
    with pytest.raises(AssertionError, match=r"✗ max \|Δ\| = 1 in array 1 of 2, which"):
        proofs.same([1, 2], [1, 3], 0, "a = b")


def test_same_to_a_relative_tolerance(capsys):
    proofs.same(
        np.array([1e4, INF[1]]),
        np.array([1e4 + 0.01, INF[1]]),
        1e-6,
        "a = b",
        relative=1e-5,
    )
    assert (
        capsys.readouterr().out
        == "a = b: max |Δ| ≤ 1e-06 + 1e-05 · |value| ✓ (measured 0)\n"
    )
    for wrong in 1e4 + 1, np.nan, np.inf:
        with pytest.raises(AssertionError, match="which is not ≤ 1e-06"):
            proofs.same(1e4, wrong, 1e-6, "a = b", relative=1e-5)


@pytest.mark.parametrize(
    "a, b, tolerance, text",
    [
        (ONES, ONES + 1e-12, 0, "max |Δ| = 1e-12, which is not ≤ 0"),
        (ONES, TWOS, 0.5, "max |Δ| = 1, which is not ≤ 0.5"),
        (TWOS, ONES, 0.5, "max |Δ| = 1, which is not ≤ 0.5"),
        (
            [ONES, ONES],
            [ONES, TWOS],
            0,
            "max |Δ| = 1 in array 1 of 2, which is not ≤ 0",
        ),
        (
            np.array([0], "uint8"),
            np.array([255], "uint8"),
            1,
            "max |Δ| = 255, which is not ≤ 1",
        ),
        (ONES, NAN, 1, "max |Δ| = nan"),
        (NAN, NAN, 1, "max |Δ| = nan"),
        ([NAN, ONES], [ONES, ONES], 1, "max |Δ| = nan"),
        ([ONES, ONES], [ONES, NAN], 1, "max |Δ| = nan"),
        (ONES, np.inf * ONES, 1, "max |Δ| = inf"),
        (INF, -INF, 1, "max |Δ| = inf"),
        (NAN, NAN, 0, "max |Δ| = nan"),
        (BIG, BIG + 1, 0, "max |Δ| = 1, which is not ≤ 0"),
        (BIG, BIG + 1, 0.5, "max |Δ| = 1, which is not ≤ 0.5"),
        (
            np.array([0, 2**64 - 1], "uint64"),
            np.array([0, 2**64 - 2], "uint64"),
            0,
            "max |Δ| = 1",
        ),
        (ONES.astype("float16"), ONES, 0, "types float16 and float64"),
        (
            [ONES, ONES.astype("int64")],
            [ONES, ONES.astype("int32")],
            0,
            "types float64 int64 and float64 int32",
        ),
        (np.array([0.0]), np.array([-0.0]), 0, "equal numbers, but not equal bits"),
        (ONES, np.ones(4), 1, "shapes (3,) and (4,)"),
        (ONES, np.ones((3, 1)), 1, "shapes (3,) and (3, 1)"),
        (ONES, 1.0, 1, "shapes (3,) and ()"),
        ([ONES], [ONES, ONES], 1, "shapes (3,) and (3,) (3,)"),
        ([], [], 1, "shapes  and "),
    ],
)
def test_not_the_same(capsys, a, b, tolerance, text):
    with pytest.raises(AssertionError, match="^" + re.escape(f"a = b: ✗ {text}")):
        proofs.same(a, b, tolerance, "a = b")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("tolerance", [-1, -1e-9, np.nan, "0"])
def test_wrong_tolerance(tolerance):
    with pytest.raises(
        ValueError,
        match=f"^tolerance={tolerance!r}: must be a finite number, 0 or more",
    ):
        proofs.same(1, 1, tolerance, "a = b")


def test_holds(capsys):
    proofs.holds(np.float32(2) > 1, "two is more than one")
    assert capsys.readouterr().out == "two is more than one ✓\n"
    with pytest.raises(
        AssertionError, match=r"^one is more than two: ✗ .* \(measured 1\)"
    ):
        proofs.holds(np.float32(1) > 2, "one is more than two", np.float32(1))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "measured, text",
    [(0.12345, "0.123"), (np.float32(1234.5), "1,234"), (7, "7"), ("4 %", "4 %")],
)
def test_holds_tells_what_was_measured_and_nbval_leaves_it_out(capsys, measured, text):
    proofs.holds(True, "it is so", measured)
    line = capsys.readouterr().out
    assert line == f"it is so ✓ (measured {text})\n"
    config = (
        pathlib.Path(__file__).parents[1] / "notebooks" / "nbval_sanitize.cfg"
    ).read_text(encoding="utf-8")
    regex, replace = re.findall(r"^regex: (.*)\nreplace: (.*)$", config, re.M)[-1]
    assert re.sub(regex, replace, line) == "it is so ✓\n"


@pytest.mark.parametrize(
    "problem, sentences, line",
    [
        (ValueError("Too many. Use fewer."), 1, "ValueError: Too many."),
        (
            ValueError("Too many. Use fewer! Or none. Please."),
            2,
            "ValueError: Too many. Use fewer!",
        ),
        (
            ValueError("x=1.5 is no e.g. of an integer"),
            1,
            "ValueError: x=1.5 is no e.g. of an integer",
        ),
        (ValueError("\n  first line\nsecond line"), 1, "ValueError: first line"),
        (
            UnicodeError("a subclass. It has its own name."),
            1,
            "UnicodeError: a subclass.",
        ),
        (ValueError("\x1b[1mbold\x1b[0m and plain"), 1, "ValueError: bold and plain"),
        (
            ValueError("\x1b[1;31mred\x1b[m and plain"),
            1,
            "ValueError: red and plain",
        ),
        (
            ValueError(
                "{{function_node __wrapped__AddV2_device_/CPU:0}} No. [Op:AddV2]"
            ),
            1,
            "ValueError: No.",
        ),
        (
            ValueError("it does not fit [Op:AddV2] name: "),
            1,
            "ValueError: it does not fit",
        ),
        (
            ValueError(
                "<tensorflow.python.One object at 0x7f00ab> is not <Two object at 0x1>"
            ),
            1,
            "ValueError: <One> is not <Two>",
        ),
    ],
)
def test_raises(capsys, problem, sentences, line):
    with proofs.raises(ValueError, sentences):
        raise problem
    assert capsys.readouterr().out == line + "\n"


def test_another_error_passes_through(capsys):
    with pytest.raises(KeyError), proofs.raises(ValueError):
        raise KeyError("other")
    assert capsys.readouterr().out == ""


def test_the_words_of_an_error(capsys):
    with proofs.raises(ValueError, words="too many"):
        raise ValueError("In /home/me/x.py:\nthere are too many of them")
    assert capsys.readouterr().out == "ValueError: … too many …\n"
    said = "should have said 'too few', and said: too many"
    with (
        pytest.raises(AssertionError, match=said),
        proofs.raises(ValueError, words="too few"),
    ):
        raise ValueError("too many")


def test_a_notebook_does_not_echo_the_difference():
    echo = DisplayFormatter().format
    assert echo(0.5)[0] == {"text/plain": "0.5"}
    assert echo(proofs.same(1.0, 1.5, 1, "a = b")) == ({}, {})


@pytest.mark.parametrize("kind", ["GPU", "TPU"])
def test_a_tolerance_that_was_not_measured_here_stops_nobody(capsys, monkeypatch, kind):
    monkeypatch.setattr(proofs.devices, "accelerator", lambda: kind)
    assert proofs.same(1.0, 1.0 + 5e-5, 1e-5, "a = b") == pytest.approx(5e-5)
    assert (
        capsys.readouterr().out
        == f"a = b: max |Δ| = 5e-05, above 1e-05: not yet measured here, on a {kind}\n"
    )
    proofs.same(1.0, 1.0 + 5e-6, 1e-5, "a = b")
    assert capsys.readouterr().out == "a = b: max |Δ| ≤ 1e-05 ✓ (measured 5e-06)\n"
    for wrong, tolerance in ((1.001, 1e-5), (np.nan, 1e-5), (1.1, 0)):
        with pytest.raises(AssertionError, match="✗ max"):
            proofs.same(1.0, wrong, tolerance, "a = b")


def test_complex_numbers_and_names_are_compared():
    with pytest.raises(AssertionError, match=r"x: ✗ max .Δ. = 4, which is not ≤ 0.1"):
        proofs.same(np.array([1 + 1j]), np.array([1 + 5j]), 0.1, "x")
    assert proofs.same(np.array([1 + 1j]), np.array([1 + 1j]), 0, "x") == 0
    with pytest.raises(AssertionError, match=r"x: ✗ names a and b$"):
        proofs.same({"a": 1.0}, {"b": 1.0}, 0, "x")
    assert proofs.same({"a": 1.0, "b": 2.0}, {"b": 2.0, "a": 1.0}, 0, "x") == 0
