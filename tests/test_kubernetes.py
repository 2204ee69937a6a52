"""The manifests of cluster/kubernetes against Kubernetes' own schemas, offline; and what to change in them."""

import json
import pathlib
import re

import kubernetes_validate
import pytest
import yaml

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "cluster" / "kubernetes"
DNS_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
"""What the server asks of the name of a namespace (RFC 1123)."""


def manifests(name, change=lambda text: text):
    return list(yaml.safe_load_all(change((FOLDER / name).read_text("utf-8"))))


def pod_template():
    """The pods of the TFJob, as core objects: Kubernetes' schemas do not hold Kubeflow's own kinds."""
    (job,) = manifests("tfjob.yaml")
    template = job["spec"]["tfReplicaSpecs"]["Worker"]["template"]
    return {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "course"}, "template": template}


@pytest.mark.parametrize("manifest", [*manifests("job.yaml"), pod_template()], ids=lambda each: each["kind"])
@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_schemas(manifest, version):
    kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("name", ["job.yaml", "tfjob.yaml"])
def test_refused_until_changed(name):
    for manifest in manifests(name):
        assert not re.fullmatch(DNS_LABEL, manifest["metadata"]["namespace"])
    for manifest in manifests(name, lambda text: text.replace("CHANGE-ME", "mine")):
        assert re.fullmatch(DNS_LABEL, manifest["metadata"]["namespace"])


def test_the_job_tells_each_pod_its_place():
    service, policy, job = manifests("job.yaml")
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (worker,) = pod["containers"]
    env = {each["name"]: each.get("value") for each in worker["env"]}
    for index in range(spec["completions"]):
        config = json.loads(env["TF_CONFIG"].replace("$(INDEX)", str(index)))  # as the kubelet expands it
        assert config["task"] == {"type": "worker", "index": index}
        names = [f"{job['metadata']['name']}-{k}.{service['metadata']['name']}" for k in range(spec["completions"])]
        assert config["cluster"]["worker"] == [f"{name}:{service['spec']['ports'][0]['port']}" for name in names]
    assert list(env).index("INDEX") < list(env).index("TF_CONFIG"), "only earlier variables are filled in"
    assert (spec["completionMode"], spec["parallelism"]) == ("Indexed", spec["completions"])
    assert service["spec"]["clusterIP"] == "None" and pod["subdomain"] == service["metadata"]["name"]
    labels = {"batch.kubernetes.io/job-name": job["metadata"]["name"]}  # set by Kubernetes on each of the job's pods
    assert service["spec"]["selector"] == labels
    assert policy["spec"]["podSelector"]["matchLabels"] == labels


def test_volumes_and_folders_agree():
    (tfjob,) = manifests("tfjob.yaml")
    for pod in manifests("job.yaml")[-1]["spec"]["template"]["spec"], pod_template()["template"]["spec"]:
        (worker,), (volume,) = pod["containers"], pod["volumes"]
        (mount,) = worker["volumeMounts"]
        assert mount["name"] == volume["name"]
        assert {"name": "RUN_FOLDER", "value": mount["mountPath"]} in worker["env"]
    assert [*tfjob["spec"]["tfReplicaSpecs"]] == ["Worker"]
    assert pod_template()["template"]["spec"]["containers"][0]["name"] == "tensorflow"


def test_the_image_holds_what_the_course_pins():
    pins = dict(re.findall(r"(\S+?)==(\S+)", (FOLDER / "Dockerfile").read_text("utf-8")))
    requirements = dict(
        re.findall(r"^(\S+?)==(\S+)", (FOLDER.parents[1] / "requirements.txt").read_text("utf-8"), re.M)
    )
    assert pins and pins == {name: requirements[name] for name in pins}
