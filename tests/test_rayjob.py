"""jobs/rayjob.yaml: every field is one that KubeRay's RayJob has, of its type, and it keeps cluster.yaml's promises.

tests/rayjob_fields.yaml lists the fields at the levels that the manifest uses, from KubeRay's own definition.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FIELDS: dict[str, dict[str, str]] = yaml.safe_load((ROOT / "tests" / "rayjob_fields.yaml").read_text())
TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "boolean": (bool,),
    "number": (int, float),
    "quantity": (int, str),
    "object": (dict,),
    "array": (list,),
}


@pytest.fixture
def job() -> dict[str, Any]:
    """The manifest's values."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "jobs" / "rayjob.yaml").read_text())
    return loaded


def offences(value: Any, path: str) -> list[str]:
    """Return each field that the table does not have, or has with another type; a path without fields is free."""
    if isinstance(value, list):
        return [line for one in value for line in offences(one, f"{path}[]")]
    if not isinstance(value, dict):
        return []
    found = []
    for key, inner in value.items():
        kind = FIELDS[path].get(key) if path in FIELDS else None
        if path in FIELDS and kind is None:
            found.append(f"{path}.{key}: no such field")
        elif kind and (not isinstance(inner, TYPES[kind]) or (kind != "boolean" and isinstance(inner, bool))):
            found.append(f"{path}.{key}: expected {kind}")
        found += offences(inner, f"{path}.{key}")
    return found


def test_every_field_is_kuberays(job: dict[str, Any]) -> None:
    """Names and types of the definition, at every level but the free maps (labels, resources, rayStartParams)."""
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert offences(job["spec"], "spec") == []


SPOILT = {
    "spec.backofLimit: no such field": lambda job: job["spec"].update(backofLimit=1),
    "spec.backoffLimit: expected integer": lambda job: job["spec"].update(backoffLimit="3"),
    "spec.backoffLimit: expected integer ": lambda job: job["spec"].update(backoffLimit=True),
    "spec.rayClusterSpec.workerGroupSpecs[].replica: no such field": lambda job: workers(job).update(replica=1),
    "spec.rayClusterSpec.headGroupSpec.template.spec.containers[].envs: no such field": lambda job: pod(head(job))[
        "containers"
    ][0].update(envs=[]),
}


@pytest.mark.parametrize("offence", SPOILT)
def test_a_wrong_field_is_found(job: dict[str, Any], offence: str) -> None:
    """The test above can fail, at every depth."""
    spoilt = copy.deepcopy(job)
    SPOILT[offence](spoilt)
    assert offences(spoilt["spec"], "spec") == [offence.strip()]


def head(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = job["spec"]["rayClusterSpec"]["headGroupSpec"]
    return found


def workers(job: dict[str, Any]) -> dict[str, Any]:
    (found,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    return found  # type: ignore[no-any-return]


def pod(group: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = group["template"]["spec"]
    return found


def test_it_has_the_shape_of_the_cluster_file(job: dict[str, Any]) -> None:
    """Head without a GPU, on-demand; 0..N spot workers with one; the same Ray, and the same number of them."""
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    spec, group = job["spec"]["rayClusterSpec"], workers(job)
    assert f":{spec['rayVersion']}-" in cluster["docker"]["image"]
    assert head(job)["rayStartParams"]["num-gpus"] == "0"
    assert "nvidia.com/gpu" not in pod(head(job))["containers"][0]["resources"]["limits"]
    assert not any("spot" in str(value).lower() for value in pod(head(job)).get("nodeSelector", {}).values())
    assert pod(group)["nodeSelector"] == {"eks.amazonaws.com/capacityType": "SPOT"}
    assert pod(group)["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    most = cluster["available_node_types"]["gpu-spot"]["max_workers"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (0, 0, most)
    assert spec["enableInTreeAutoscaling"] is True


def test_anyone_who_reaches_it_needs_the_token(job: dict[str, Any]) -> None:
    """Tokens on; the submitter next to the head; the operator asks the dashboard, so it cannot be on loopback here."""
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert job["spec"]["submissionMode"] == "SidecarMode"
    assert "dashboard-host" not in head(job)["rayStartParams"]
    assert "0.0.0.0" not in (ROOT / "jobs" / "rayjob.yaml").read_text()  # noqa: S104 - the address must be absent


def test_the_driver_stays_on_the_head_and_has_time_to_stop(job: dict[str, Any]) -> None:
    """No entrypoint resources; our grace; a failed attempt resumes on a new cluster, which goes when it has ended."""
    spec = job["spec"]
    assert not [key for key in spec if key.startswith("entrypoint") and key != "entrypoint"]
    assert yaml.safe_load(spec["runtimeEnvYAML"]) == {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "30"}}
    assert spec["backoffLimit"] == 1  # a refused study, exit code 2, is tried again, too
    assert spec["shutdownAfterJobFinishes"] is True
    assert pod(head(job))["restartPolicy"] == "Never"


def test_the_entrypoint_is_a_command_of_ours(job: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m ray_unlearn` with these arguments gets as far as looking for the study."""
    from ray_unlearn.cli import main

    words = job["spec"]["entrypoint"].split()
    assert words[:3] == ["python", "-m", "ray_unlearn"]
    mounts = {mount["name"]: mount["mountPath"] for mount in pod(head(job))["containers"][0]["volumeMounts"]}
    assert words[4].startswith(f"{mounts['study']}/")
    assert main(words[3:]) == 2
    assert capsys.readouterr().err.startswith("error: /home/ray/study/study.yaml: cannot be read")


def test_every_pod_sees_the_study_and_its_scripts(job: dict[str, Any]) -> None:
    """What a script imports from its own folder is imported on workers; the mounts are the head's."""
    seen = []
    for group in (head(job), workers(job)):
        volumes = {volume["name"]: volume for volume in pod(group)["volumes"]}
        mounts = pod(group)["containers"][0]["volumeMounts"]
        seen.append([(mount, volumes[mount["name"]].get("configMap")) for mount in mounts if mount["name"] == "study"])
    assert seen[0] == seen[1]
    assert seen[0][0][1] == {"name": "ray-unlearn-study"}


def test_every_pod_has_shared_memory_and_the_buckets_account(job: dict[str, Any]) -> None:
    """Ray's objects live in /dev/shm, 64 MB unless a volume states otherwise; storage is reached without keys."""
    for group in (head(job), workers(job)):
        container = pod(group)["containers"][0]
        assert pod(group)["serviceAccountName"] == "ray-unlearn"
        names = [mount["name"] for mount in container["volumeMounts"] if mount["mountPath"] == "/dev/shm"]
        volumes = {volume["name"]: volume for volume in pod(group)["volumes"]}
        assert [volumes[name]["emptyDir"]["medium"] for name in names] == ["Memory"]
        assert not any("SECRET" in one["name"] or "KEY" in one["name"] for one in container["env"])
