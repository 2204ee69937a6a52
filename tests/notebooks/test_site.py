"""The page that plans a training: its stored models, and what it answers.

tests/integration/browser.py opens the page itself.
"""

import math
import runpy
import types

import keras
import pytest

import course_planner as planner
from tests.notebooks.test_notebooks import ROOT
from tools import model_costs

plan = types.SimpleNamespace(**runpy.run_path(str(ROOT / "site" / "plan.py")))

GPT = {"model": "GPT", "weights": 7, "machine": "8 x H100", "hosts": 4, "batch": 512}
OWN = {
    "model": "my own numbers",
    "layers": 3,
    "parameters": 1,
    "outputs": 0.1,
    "flops": 200,
}
MACHINE = {"machine": "my own machine", "hosts": 2, "devices": 4, "memory": 16}
MACHINE |= {"tflops": 50, "inside": 16, "between": 6}


def test_all_of_keras_models_are_stored():
    assert list(plan.MODELS) == model_costs.APPLICATIONS and len(plan.MODELS) >= 38


@pytest.mark.parametrize("name", ["MobileNetV3Small", "ResNet50", "VGG16"])
def test_a_stored_model_is_what_is_counted_today(name):
    """`make soak` does the same for all."""
    stored = plan.layers_of({"model": name})
    assert stored == model_costs.counted(name)
    trained = getattr(keras.applications, name)(weights=None).trainable_weights
    assert sum(layer.parameters for layer in stored) == sum(
        math.prod(weight.shape) for weight in trained
    )


def test_it_answers_as_the_planner_does():
    answer = plan.answer(GPT | {"examples": 1000, "price": 100})
    machine = plan.machine_of(GPT | {"price": 100})
    layers = planner.transformer(33, 128 * 33, recomputed=True)
    assert answer["advice"] == str(
        planner.recommend(layers, machine, 512, examples=1000)
    )
    assert "cost" in answer["advice"] and answer["room"] == 72
    held = planner.memory(layers, "ZeRO-3", 32, 512)
    assert (
        answer["bars"]["ZeRO-3 on 32"] == max(held, key=lambda device: device.total).gib
    )
    fewer = plan.answer(GPT | {"batch": 24})["bars"]
    assert "data parallel on 24" in fewer, "as many devices as divide the batch"
    assert 6.9e9 < answer["weights"] < 7.1e9


def test_own_numbers_and_what_is_not_possible():
    answer = plan.answer(OWN | MACHINE | {"batch": 8})
    assert answer["weights"] == 3_000_000 and answer["room"] == pytest.approx(14.4)
    impossible = answer["bars"]["pipeline parallel on 8"]
    assert impossible.startswith("not possible: "), "three layers on eight devices"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"batch": 0}, "batch=0: must be"),
        ({"batch": 0.5}, "batch=0.5: must be a whole number"),
        ({"hosts": 0}, "machines=0: must be"),
        ({"weights": -1}, "billion weights=-1: must be"),
        ({"weights": None}, "billion weights=None: must be"),
        ({"model": "ResNet51"}, "model='ResNet51': must be"),
        ({"machine": "abacus"}, "machine='abacus': must be"),
    ],
)
def test_nonsense_is_named(wrong, words):
    with pytest.raises(ValueError, match=words):
        plan.answer(GPT | wrong)
