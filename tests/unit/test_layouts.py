"""What `check_layout` says of layouts."""

import pytest

from course_planner.layouts import check_layout

SHAPES = {
    "cnn/conv/kernel": (3, 3, 1, 32),
    "cnn/hidden/kernel": (64, 128),
    "cnn/hidden/bias": (128,),
}
GOOD = {
    ".*conv/kernel": (None, None, None, "batch"),
    ".*hidden/kernel": ("batch", "model"),
}


@pytest.mark.parametrize(
    "rules, said",
    [
        ({}, []),
        ({".*dense/kernel": ("batch", None)}, ["'.*dense/kernel' matches no variable"]),
        (
            {"hidden/bias": ("batch",)},
            ["'hidden/bias' matches no variable: begin it with .*"],
        ),
        ({".*bias": ("rows",)}, ["'.*bias': the mesh has no axis 'rows'"]),
        (
            {".*/hidden/kernel": ("batch", None)},
            ["cnn/hidden/kernel: '.*hidden/kernel' and '.*/hidden/kernel' both"],
        ),
        (
            {".*bias": ("batch", None)},
            ["'.*bias' has 2 axes, and cnn/hidden/bias has 1 dimensions"],
        ),
        ({".*bias": (None,)}, []),
    ],
)
def test_what_is_wrong_is_said(rules, said):
    found = check_layout(GOOD | rules, {"batch": 4, "model": 2}, SHAPES)
    assert len(found) == len(said) and all(
        one.startswith(start) for one, start in zip(found, said, strict=True)
    )


def test_what_does_not_divide():
    found = check_layout(
        GOOD | {".*bias": ("model",)}, {"batch": 64, "model": 5}, SHAPES
    )
    assert found == [
        (
            "'.*conv/kernel': dimension 3 of cnn/conv/kernel is 32, "
            "which 64 does not divide"
        ),
        (
            "'.*hidden/kernel': dimension 1 of cnn/hidden/kernel is 128, "
            "which 5 does not divide"
        ),
        "'.*bias': dimension 0 of cnn/hidden/bias is 128, which 5 does not divide",
    ]
