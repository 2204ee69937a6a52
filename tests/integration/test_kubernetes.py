"""The manifests of cluster/kubernetes, and what to change in them.

They are checked against Kubernetes' own schemas, offline.
"""

import json
import pathlib
import re

import kubernetes_validate
import pytest
import yaml

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "cluster" / "kubernetes"
DNS_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
"""What the server asks of the name of a namespace (RFC 1123)."""


def manifests(name, change=lambda text: text):
    return list(yaml.safe_load_all(change((FOLDER / name).read_text("utf-8"))))


@pytest.mark.parametrize(
    "manifest", manifests("job.yaml"), ids=lambda each: each["kind"]
)
@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_schemas(manifest, version):
    kubernetes_validate.validate(manifest, version, strict=True)


def test_refused_until_changed():
    for manifest in manifests("job.yaml"):
        assert not re.fullmatch(DNS_LABEL, manifest["metadata"]["namespace"])
    for manifest in manifests(
        "job.yaml", lambda text: text.replace("CHANGE-ME", "mine")
    ):
        assert re.fullmatch(DNS_LABEL, manifest["metadata"]["namespace"])


def test_the_job_tells_each_pod_its_place():
    service, policy, job = manifests("job.yaml")
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (worker,) = pod["containers"]
    env = {each["name"]: each.get("value") for each in worker["env"]}
    for index in range(spec["completions"]):
        config = json.loads(
            env["TF_CONFIG"].replace("$(INDEX)", str(index))
        )  # as the kubelet expands it
        assert config["task"] == {"type": "worker", "index": index}
        names = [
            f"{job['metadata']['name']}-{k}.{service['metadata']['name']}"
            for k in range(spec["completions"])
        ]
        assert config["cluster"]["worker"] == [
            f"{name}:{service['spec']['ports'][0]['port']}" for name in names
        ]
    assert list(env).index("INDEX") < list(env).index("TF_CONFIG"), (
        "only earlier variables are filled in"
    )
    assert (spec["completionMode"], spec["parallelism"]) == (
        "Indexed",
        spec["completions"],
    )
    assert (
        service["spec"]["clusterIP"] == "None"
        and pod["subdomain"] == service["metadata"]["name"]
    )
    labels = {
        "batch.kubernetes.io/job-name": job["metadata"]["name"]
    }  # set by Kubernetes on each of the job's pods
    assert service["spec"]["selector"] == labels
    assert policy["spec"]["podSelector"]["matchLabels"] == labels
    (rule,) = policy["spec"]["ingress"]
    assert rule == {"from": [{"podSelector": {"matchLabels": labels}}]}, (
        "on all ports: gloo and NCCL choose their own"
    )


def test_volumes_and_folders_agree():
    pod = manifests("job.yaml")[-1]["spec"]["template"]["spec"]
    (worker,) = pod["containers"]
    folders = {mount["name"]: mount["mountPath"] for mount in worker["volumeMounts"]}
    assert [*folders] == [volume["name"] for volume in pod["volumes"]] == ["run", "shm"]
    assert {"name": "RUN_FOLDER", "value": folders["run"]} in worker["env"]


def test_the_image_holds_what_the_course_pins():
    text = (FOLDER / "Dockerfile").read_text("utf-8").replace("${GPU:+[and-cuda]}", "")
    pins = dict(re.findall(r'"?(\w+)==([^\s"]+)', text))
    requirements = dict(
        re.findall(
            r"^(\S+?)==(\S+)",
            (FOLDER.parents[1] / "requirements.txt").read_text("utf-8"),
            re.M,
        )
    )
    assert pins and pins == {name: requirements[name] for name in pins}
