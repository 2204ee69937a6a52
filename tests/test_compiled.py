"""Exchanges that are read from a compiled step."""

import json
import os
import subprocess
import sys

import pytest

from course_planner import Collective, collectives, read_collectives

PROGRAM = """
ENTRY %main {
  %a = f32[32]{0} all-reduce(%x), channel_id=1, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  %b = (f32[], f32[3,3,1,32]{3,2,1,0}, bf16[10]{0}) all-reduce(%x, %y, %z), replica_groups=[2,4]<=[8], to_apply=%add
  %c = f32[128,10]{1,0} all-gather(%q), replica_groups={{0,4},{1,5},{2,6},{3,7}}, dimensions={0}
  %d = (f32[2,10]{1,0}, f32[16,10]{1,0}) all-gather-start(%q), replica_groups=[1,8]<=[8], dimensions={0}
  %e = f32[16,10]{1,0} all-gather-done(%d)
  %f = f32[4]{0} reduce-scatter(%q), replica_groups={{0,1,2,3}}, to_apply=%add
  %g = (f32[1,16]{1,0}, f32[1,16]{1,0}) all-to-all(%q, %r), replica_groups={{0,1}}
  %h = pred[8]{0} collective-permute(%q), source_target_pairs={{0,1},{1,2}}
  %j = f32[4]{0} all-reduce(%q), replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}, to_apply=%add
  %k = f32[4]{0} all-reduce(%q), replica_groups=mesh['a'=2,'b'=4] {'a','b'}, to_apply=%add
  %i = f32[4]{0} add(%all-reduce.1, %x)
}
"""


def test_a_program_is_read():
    found = [(each.kind, each.bytes, each.devices) for each in read_collectives(PROGRAM, 8)]
    assert found == [
        ("all-reduce", 128, 8),
        ("all-reduce", 4 + 4 * 288 + 20, 4),
        ("all-gather", 5120, 2),
        ("all-gather", 640, 8),
        ("reduce-scatter", 16, 4),
        ("all-to-all", 128, 2),
        ("collective-permute", 8, 8),
        ("all-reduce", 16, 2),
        ("all-reduce", 16, 8),
    ]


@pytest.mark.parametrize(
    ("kind", "sent"),
    [("all-reduce", 150), ("all-gather", 75), ("reduce-scatter", 300), ("all-to-all", 75), ("collective-permute", 100)],
)
def test_what_each_device_sends(kind, sent):
    assert Collective(kind, 100, 4).sent == sent


def test_only_on_jax():
    with pytest.raises(ValueError, match="collectives: Keras is on tensorflow here"):
        collectives(lambda: None, None, ())


READ = """
import json, keras, numpy as np
import course_planner as planner

def build():
    layers = [keras.Input((8,)), keras.layers.Dense(16, name="a"), keras.layers.Dense(8, name="b")]
    model = keras.Sequential(layers)
    model.compile("sgd", "mse")
    return model

def found(distribution):
    batch = np.zeros((32, 8), "float32"), np.zeros((32, 8), "float32")
    return [[each.kind, each.bytes, each.devices] for each in planner.collectives(build, distribution, batch)]

mesh = keras.distribution.DeviceMesh((2, 4), ("batch", "model"))
rules = keras.distribution.LayoutMap(mesh)
rules[".*a/kernel"], rules[".*a/bias"], rules[".*b/kernel"] = (None, "model"), ("model",), ("model", None)
both = keras.distribution.ModelParallel(layout_map=rules, batch_dim_name="batch")
ways = {"one": found(None), "data": found(keras.distribution.DataParallel()), "both": found(both)}
print(json.dumps([ways, keras.distribution.distribution() is None]))
"""


def test_a_model_of_ones_own_on_eight_devices():
    flags = "--xla_force_host_platform_device_count=8"
    env = os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = [sys.executable, "-W", "ignore", "-c", READ]
    printed = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    ways, as_before = json.loads(printed.stdout.splitlines()[-1])
    parameters = 8 * 16 + 16 + 16 * 8 + 8
    assert as_before and ways["one"] == []
    assert sum(size for _, size, _ in ways["data"]) == 4 * parameters + 4  # and the loss
    assert {(kind, devices) for kind, _, devices in ways["data"]} == {("all-reduce", 8)}
    # along "model" the outputs of b are added up, for half of the batch
    assert ["all-reduce", 16 * 8 * 4, 4] in ways["both"]
    # along "batch" each device's quarter of the kernels, and what is whole, and the loss
    assert ["all-reduce", 4 * (parameters - 8) // 4 + 4 * 8 + 4, 2] in ways["both"]
