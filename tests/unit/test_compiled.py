"""Exchanges that are read from a compiled step."""

import json
import os
import subprocess
import sys

import pytest

from course_planner import Collective, collectives, read_collectives

PROGRAM = """
ENTRY %main {
  %a = f32[32]{0} all-reduce(%x), channel_id=1, replica_groups={{0,1,2,3,4,5,6,7}}, \
to_apply=%add
  %b = (f32[], f32[3,3,1,32]{3,2,1,0}, bf16[10]{0}) all-reduce(%x, %y, %z), \
replica_groups=[2,4]<=[8], to_apply=%add
  %c = f32[128,10]{1,0} all-gather(%q), replica_groups={{0,4},{1,5},{2,6},{3,7}}, \
dimensions={0}
  %d = (f32[2,10]{1,0}, f32[16,10]{1,0}) all-gather-start(%q), \
replica_groups=[1,8]<=[8], dimensions={0}
  %e = f32[16,10]{1,0} all-gather-done(%d)
  %f = f32[4]{0} reduce-scatter(%q), replica_groups={{0,1,2,3}}, to_apply=%add
  %g = (f32[1,16]{1,0}, f32[1,16]{1,0}) all-to-all(%q, %r), replica_groups={{0,1}}
  %h = pred[8]{0} collective-permute(%q), source_target_pairs={{0,1},{1,2}}
  %l = f32[4]{0} all-gather(%q), \
replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}, dimensions={0}
  %m = f32[4]{0} all-reduce(%q), replica_groups={}, to_apply=%add
  %n = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%q), \
source_target_pairs={{0,1}}
  %j = f32[4]{0} all-reduce(%q), \
replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}, to_apply=%add
  %k = f32[4]{0} all-reduce(%q), replica_groups=mesh['a'=2,'b'=4] {'a','b'}, \
to_apply=%add
  %i = f32[4]{0} add(%all-reduce.1, %x)
}
"""


def test_a_program_is_read():
    found = [
        (each.kind, each.bytes, each.devices) for each in read_collectives(PROGRAM, 8)
    ]
    assert found == [
        ("all-reduce", 128, 8),
        ("all-reduce", 4 + 4 * 288 + 20, 4),
        ("all-gather", 5120, 2),
        ("all-gather", 640, 8),
        ("reduce-scatter", 16, 4),
        ("all-to-all", 128, 2),
        ("collective-permute", 8, 8),
        ("all-gather", 16, 4),
        ("all-reduce", 16, 8),
        ("collective-permute", 32, 8),
        ("all-reduce", 16, 2),
        ("all-reduce", 16, 8),
    ]


LOOPS = """
%inner.2 (arg: (s32[], f32[4])) -> (s32[], f32[4]) {
  %a = f32[4]{0} all-reduce(%x), replica_groups={}, to_apply=%add
}

%outer.1 (arg: (s32[], f32[4])) -> (s32[], f32[4]) {
  %b = f32[2]{0} all-gather(%x), replica_groups={}, dimensions={0}
  %w = (s32[], f32[4]{0}) while(%t), condition=%c, body=%inner.2, \
backend_config={"known_trip_count":{"n":"3"}}
}

ENTRY %main.9_spmd (p: f32[4]) -> f32[4] {
  %w = (s32[], f32[4]{0}) while(%t), condition=%c, body=%outer.1, \
backend_config={"known_trip_count":{"n":"5"}}
  %c = f32[1]{0} all-reduce(%x), replica_groups={}, to_apply=%add
}
"""


def test_exchanges_in_loops_count_as_often_as_they_happen():
    found = [(each.kind, each.bytes) for each in read_collectives(LOOPS, 8)]
    assert found == [("all-reduce", 16)] * 15 + [("all-gather", 8)] * 5 + [
        ("all-reduce", 4)
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "%a = f32[4] all-reduce(%x), replica_groups=new{0}, to_apply=%add",
            "groups that are not known here",
        ),
        (
            "%a = ((f32[32]), f32[4]) reduce-scatter-start(%x), replica_groups={}",
            "what reduce-scatter-start returns",
        ),
    ],
)
def test_what_is_not_understood_is_not_counted(line, words):
    with pytest.raises(ValueError, match=words):
        read_collectives(line, 8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((None, None, (1, 2)), "build=None: must be a function"),
        ((print, "data", (1, 2)), "distribution='data': must be a keras.distribution"),
        ((print, None, None), "batch: must be"),
        ((print, None, (1,)), "batch: must be"),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        collectives(*arguments)


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("all-reduce", 150),
        ("all-gather", 75),
        ("reduce-scatter", 300),
        ("all-to-all", 75),
        ("collective-permute", 100),
    ],
)
def test_what_each_device_sends(kind, sent):
    assert Collective(kind, 100, 4).sent == sent


def test_only_on_jax():
    with pytest.raises(ValueError, match="collectives: Keras is on tensorflow here"):
        collectives(lambda: None, None, (1, 2))


READ = """
import json, keras, numpy as np
import course_planner as planner

def build():
    dense = keras.layers.Dense(16, name="a"), keras.layers.Dense(8, name="b")
    model = keras.Sequential([keras.Input((8,)), *dense])
    model.compile("sgd", "mse")
    return model

def found(distribution):
    batch = np.zeros((32, 8), "float32"), np.zeros((32, 8), "float32")
    exchanges = planner.collectives(build, distribution, batch)
    return [[each.kind, each.bytes, each.devices] for each in exchanges]

mesh = keras.distribution.DeviceMesh((2, 4), ("batch", "model"))
rules = keras.distribution.LayoutMap(mesh)
rules[".*a/kernel"], rules[".*a/bias"] = (None, "model"), ("model",)
rules[".*b/kernel"] = ("model", None)
both = keras.distribution.ModelParallel(layout_map=rules, batch_dim_name="batch")
data = keras.distribution.DataParallel()
ways = {"one": found(None), "data": found(data), "both": found(both)}
print(json.dumps([ways, keras.distribution.distribution() is None]))
"""


@pytest.mark.slow
def test_a_model_of_ones_own_on_eight_devices():
    flags = "--xla_force_host_platform_device_count=8"
    env = os.environ | {
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": flags,
    }
    command = [sys.executable, "-W", "ignore", "-c", READ]
    printed = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=300
    )
    ways, as_before = json.loads(printed.stdout.splitlines()[-1])
    parameters = 8 * 16 + 16 + 16 * 8 + 8
    assert as_before and ways["one"] == []
    assert (
        sum(size for _, size, _ in ways["data"]) == 4 * parameters + 4
    )  # and the loss
    assert {(kind, devices) for kind, _, devices in ways["data"]} == {("all-reduce", 8)}
    # along "model" the outputs of b are added up, for half of the batch
    assert ["all-reduce", 16 * 8 * 4, 4] in ways["both"]
    # along "batch" each device's quarter of the kernels, what is whole, and the loss
    assert ["all-reduce", 4 * (parameters - 8) // 4 + 4 * 8 + 4, 2] in ways["both"]
