"""cluster.yaml: Ray's own validation accepts it, and it keeps our promises about ports, prices and versions."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ray = pytest.importorskip("ray")

FILE = Path(__file__).resolve().parents[1] / "cluster.yaml"
SCHEMA = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"


@pytest.fixture
def cluster() -> dict[str, Any]:
    """The cluster file's values."""
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return loaded


def prepared(cluster: dict[str, Any]) -> dict[str, Any]:
    """Return what `ray up` makes of the file before it talks to a cloud, or raise what it would raise."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config: dict[str, Any] = prepare_config(copy.deepcopy(cluster))
    validate_config(config)
    return config


def start_commands(cluster: dict[str, Any]) -> list[str]:
    """Return every `ray start` line."""
    commands = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    return [command for command in commands if "ray start" in command]


def test_the_file_fits_rays_schema(cluster: dict[str, Any]) -> None:
    """ray-schema.json of the installed Ray, as it is."""
    jsonschema.validate(cluster, json.loads(SCHEMA.read_text()))


def test_ray_up_would_accept_the_file(cluster: dict[str, Any]) -> None:
    """Ray's own preparation keeps our types and commands; where we say nothing, it would install a nightly build."""
    config = prepared(cluster)
    assert set(config["available_node_types"]) == {"head", "gpu-spot"}
    assert config["head_start_ray_commands"] == cluster["head_start_ray_commands"]
    assert config["setup_commands"] == cluster["setup_commands"]


def break_key(cluster: dict[str, Any]) -> None:
    cluster["max_worker"] = 8


def break_node_key(cluster: dict[str, Any]) -> None:
    cluster["available_node_types"]["gpu-spot"]["spot"] = True


def break_resource(cluster: dict[str, Any]) -> None:
    cluster["available_node_types"]["gpu-spot"]["resources"]["GPU"] = 0.5


def break_head(cluster: dict[str, Any]) -> None:
    cluster["head_node_type"] = "haed"


@pytest.mark.parametrize("spoil", [break_key, break_node_key, break_resource, break_head])
def test_ray_would_refuse_a_spoilt_file(cluster: dict[str, Any], spoil: Any) -> None:
    """The two tests above can fail: an unknown key, half a GPU, a head type that does not exist."""
    spoil(cluster)
    with pytest.raises((jsonschema.ValidationError, ValueError, RuntimeError)):
        prepared(cluster)


@pytest.mark.parametrize(("spoil", "names"), [(break_key, "max_worker"), (break_node_key, "spot")])
def test_the_schema_names_an_unknown_key(cluster: dict[str, Any], spoil: Any, names: str) -> None:
    """jsonschema alone refuses it, and says which."""
    spoil(cluster)
    with pytest.raises(jsonschema.ValidationError, match=f"'{names}' was unexpected"):
        jsonschema.validate(cluster, json.loads(SCHEMA.read_text()))


def test_the_dashboard_listens_on_loopback_alone(cluster: dict[str, Any]) -> None:
    """Whoever reaches it can run code: a head says 127.0.0.1, nobody says anything else, comments included."""
    heads = [command for command in start_commands(cluster) if "--head" in command]
    assert len(heads) == 1
    hosts = [re.findall(r"--dashboard-host[= ](\S+)", command) for command in start_commands(cluster)]
    assert hosts == [["127.0.0.1"] if "--head" in command else [] for command in start_commands(cluster)]
    assert "0.0.0.0" not in FILE.read_text()  # noqa: S104 - the address is what must be absent
    assert "::" not in FILE.read_text()


def test_every_ray_start_asks_for_a_token(cluster: dict[str, Any]) -> None:
    """A head with tokens and a worker without would not find each other, or worse, would."""
    assert len(start_commands(cluster)) == 2
    assert all("RAY_AUTH_MODE=token" in command for command in start_commands(cluster))
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"  # noqa: S105 - a path


def test_every_node_runs_the_ray_that_these_tests_ran(cluster: dict[str, Any]) -> None:
    """The image and the pip line pin the installed version, and nothing else is pinned."""
    pins = re.findall(r"ray(?:\[default\])?==([\w.]+)", FILE.read_text())
    assert pins
    assert set(pins) == {ray.__version__}
    assert cluster["docker"]["image"].startswith(f"rayproject/ray:{ray.__version__}-")


def test_workers_are_spot_and_the_head_is_not(cluster: dict[str, Any]) -> None:
    """A lost worker costs a run; a lost head costs the cluster."""
    types = cluster["available_node_types"]
    market = {name: node["node_config"].get("InstanceMarketOptions") for name, node in types.items()}
    assert market.pop(cluster["head_node_type"]) is None
    assert market
    assert all(options == {"MarketType": "spot"} for options in market.values())


def test_the_head_has_no_gpu_and_idle_workers_go(cluster: dict[str, Any]) -> None:
    """The head keeps the driver only; a cluster at rest costs one small machine."""
    types = cluster["available_node_types"]
    assert types[cluster["head_node_type"]]["resources"]["GPU"] == 0
    assert [node["min_workers"] for name, node in types.items() if name != cluster["head_node_type"]] == [0]
    assert cluster["idle_timeout_minutes"] <= 10
    assert cluster["provider"]["cache_stopped_nodes"] is False
