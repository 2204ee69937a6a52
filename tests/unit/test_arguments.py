"""One way to refuse a wrong argument, used by all modules that take numbers."""

import math
import re

import numpy as np
import pytest

from course_planner import bubble_fraction
from course_utils.arguments import finite_number, one_of, whole_number
from course_utils.data import make_dataset
from course_utils.devices import logical_devices
from course_utils.model import build_model


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_whole_numbers_become_pythons(value):
    assert (whole_number("n", value), type(whole_number("n", value))) == (3, int)


@pytest.mark.parametrize("value", [2.5, 3, np.float32(2.5), np.int64(3)])
def test_finite_numbers_become_pythons(value):
    assert (finite_number("n", value), type(finite_number("n", value))) == (
        value,
        float,
    )


@pytest.mark.parametrize(
    "value", [0, 4, 2.0, True, np.True_, "2", None, math.nan, math.inf, np.float64(2)]
)
def test_not_a_whole_number_from_1_to_3(value):
    message = f"n={value!r}: must be a whole number from 1 to 3 (the number of sheep)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        whole_number("n", value, 1, 3, "the number of sheep")


@pytest.mark.parametrize(
    "value", [-0.1, True, "2", None, math.nan, math.inf, -math.inf]
)
def test_not_a_finite_number(value):
    with pytest.raises(
        ValueError,
        match=f"^{re.escape(f'rate={value!r}: must be a finite number, 0 or more')}$",
    ):
        finite_number("rate", value)


@pytest.mark.parametrize("value", ["d", "", None, 1, ["a"]])
def test_none_of_these(value):
    with pytest.raises(
        ValueError, match=f"^{re.escape(f'kind={value!r}: must be ')}'a', 'b' or 'c'$"
    ):
        one_of("kind", value, ("a", "b", "c"))


def test_numpys_whole_numbers_are_welcome_everywhere():
    assert logical_devices(np.int64(4), kind="cpu") == [f"CPU:{i}" for i in range(4)]
    assert build_model(np.int64(1)).count_params() == 693_962
    assert len(make_dataset(np.zeros((4, 1)), np.zeros(4), np.int32(2))) == 2
    assert bubble_fraction(np.int8(2), np.int8(1)) == 0.5
