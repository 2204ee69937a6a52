"""TF_CONFIG from Slurm's variables: node lists with ranges, one and several tasks a node."""

import json

import pytest

from course_utils.cluster import slurm_tf_config


def step(nodes="n[1-2]", tasks="1(x2)", task=0, job=4711, **more):
    return {
        "SLURM_STEP_NODELIST": nodes,
        "SLURM_STEP_TASKS_PER_NODE": tasks,
        "SLURM_PROCID": str(task),
        "SLURM_JOB_ID": str(job),
    } | more


def workers(*args, **more):
    return json.loads(slurm_tf_config(step(*args, **more), port=2222))["cluster"]["worker"]


@pytest.mark.parametrize(
    "nodes, expected",
    [
        ("n1", "n1"),
        ("n1,n2", "n1 n2"),
        ("n[9-11]", "n9 n10 n11"),
        ("n[008-010,12]", "n008 n009 n010 n12"),
        ("login,gpu-a[1,3],b7", "login gpu-a1 gpu-a3 b7"),
        ("r[1-2]n[3-4]", "r1n3 r1n4 r2n3 r2n4"),
    ],
)
def test_node_lists(nodes, expected):
    hosts = expected.split()
    assert workers(nodes, f"1(x{len(hosts)})") == [f"{host}:2222" for host in hosts]


def test_several_tasks_a_node_have_ports_in_a_row():
    assert workers("n[9-10]", "2(x2)") == ["n9:2222", "n9:2223", "n10:2222", "n10:2223"]
    assert workers("n[1-3]", "3,1(x2)") == ["n1:2222", "n1:2223", "n1:2224", "n2:2222", "n3:2222"]


def test_each_task_finds_itself_and_all_agree():
    found = [json.loads(slurm_tf_config(step("n[1-2]", "2(x2)", task))) for task in range(4)]
    assert [each["task"] for each in found] == [{"type": "worker", "index": index} for index in range(4)]
    assert all(each["cluster"] == found[0]["cluster"] for each in found)


def test_neighbouring_jobs_have_other_ports():
    def ports(job):
        addresses = json.loads(slurm_tf_config(step("n1", "4", job=job)))["cluster"]["worker"]
        return {int(address.split(":")[1]) for address in addresses}

    for job in 1, 4711, 19999, 20000, 2**31:
        assert not ports(job) & ports(job + 1)
        assert all(12000 <= port < 32000 for port in ports(job))


@pytest.mark.parametrize("name", step())
def test_a_variable_that_is_missing(name):
    variables = {key: value for key, value in step().items() if key != name}
    with pytest.raises(ValueError, match=f"{name} is missing: start the program with srun"):
        slurm_tf_config(variables)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"nodes": "n[1-2"}, r"SLURM_STEP_NODELIST='n\[1-2': cannot be read"),
        ({"nodes": "n[1-2-3]"}, "SLURM_STEP_NODELIST=.*cannot be read"),
        ({"nodes": "n[a-b]"}, "SLURM_STEP_NODELIST=.*cannot be read"),
        ({"tasks": "1"}, "SLURM_STEP_TASKS_PER_NODE='1': must be like .* for 2 nodes"),
        ({"tasks": "one(x2)"}, "SLURM_STEP_TASKS_PER_NODE='one"),
        ({"task": 2}, r"SLURM_PROCID=2: must be a whole number from 0 to 1 \(the last task\)"),
    ],
)
def test_variables_that_make_no_sense(change, words):
    with pytest.raises(ValueError, match=words):
        slurm_tf_config(step(**change))


def test_a_task_that_runs_elsewhere_than_the_list_says():
    assert json.loads(slurm_tf_config(step(task=1, SLURMD_NODENAME="n2")))["task"]["index"] == 1
    with pytest.raises(ValueError, match=r"SLURMD_NODENAME='n2': .*task 0 is on n1: .*--distribution=block"):
        slurm_tf_config(step(task=0, SLURMD_NODENAME="n2"))


def test_a_port_that_does_not_fit():
    with pytest.raises(ValueError, match="port=65535: must be a whole number from 1 to 65534"):
        slurm_tf_config(step(tasks="2(x2)"), port=65535)
