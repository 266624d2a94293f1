"""cluster.yaml: Ray's own validation accepts it, and it keeps our promises about ports, prices and versions."""

from __future__ import annotations

import copy
import json
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ray = pytest.importorskip("ray")

FILE = Path(__file__).resolve().parents[1] / "cluster.yaml"
SCHEMA = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"


def uncommented(name: str) -> dict[str, Any]:
    """Return the values of a variant's lines, which begin with `#NAME `."""
    lines = [line.removeprefix(f"#{name} ") for line in FILE.read_text().splitlines() if line.startswith(f"#{name} ")]
    loaded: dict[str, Any] = yaml.safe_load("\n".join(lines))
    return loaded


def variant(name: str) -> dict[str, Any]:
    """Return the file, changed as its comments ask; `aws` is the file as it is."""
    base: dict[str, Any] = yaml.safe_load(FILE.read_text())
    if name == "aws":
        return base
    if name == "local":
        base = {key: base[key] for key in base.keys() - {"max_workers", "available_node_types", "head_node_type"}}
    return base | uncommented(name)


@pytest.fixture
def cluster() -> dict[str, Any]:
    """The cluster file's values."""
    return variant("aws")


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


@pytest.mark.parametrize("name", ["aws", "gcp", "local"])
def test_the_file_and_its_variants_fit_rays_schema(name: str) -> None:
    """ray-schema.json of the installed Ray, as it is."""
    jsonschema.validate(variant(name), json.loads(SCHEMA.read_text()))


@pytest.mark.parametrize(
    ("name", "types"), [("aws", {"head", "gpu-spot"}), ("gcp", {"head", "gpu_spot"}), ("local", {"local.cluster.node"})]
)
def test_ray_up_would_accept_the_file(name: str, types: set[str]) -> None:
    """Ray's own preparation keeps our types and commands; where we set nothing, it would install a nightly build."""
    config = prepared(variant(name))
    assert set(config["available_node_types"]) == types
    assert config["head_start_ray_commands"] == variant(name)["head_start_ray_commands"]
    assert config["setup_commands"] == variant(name)["setup_commands"]
    assert config["docker"]["image"] == "rayproject/ray:2.60.0-py311-gpu"


def test_every_worker_of_ones_own_is_used() -> None:
    """Two machines named, two workers; a variant that keeps what it should remove is refused by Ray."""
    (node,) = prepared(variant("local"))["available_node_types"].values()
    assert (node["min_workers"], node["max_workers"]) == (2, 2)
    with pytest.raises(Exception, match="available_node_types is not supported"):  # how `ray up` aborts
        prepared(variant("aws") | uncommented("local"))
    (head,) = [command for command in variant("local")["head_start_ray_commands"] if "ray start" in command]
    assert "RAY_enable_autoscaler_v2=0 ray start" in head  # v2 starts one; tests/test_launched.py starts them all


@pytest.mark.parametrize("name", ["gcp", "local"])
def test_a_variant_replaces_what_its_comment_names(name: str) -> None:
    """The comment above the lines names every key that they have."""
    text = FILE.read_text()
    comment = " ".join(text[: text.index(f"\n#{name} ")].split("\n\n")[-1].split())
    assert all(key in comment for key in uncommented(name))


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
    """jsonschema alone refuses it, and states which."""
    spoil(cluster)
    with pytest.raises(jsonschema.ValidationError, match=f"'{names}' was unexpected"):
        jsonschema.validate(cluster, json.loads(SCHEMA.read_text()))


def test_the_dashboard_listens_on_loopback_alone(cluster: dict[str, Any]) -> None:
    """Anyone who reaches it can run code: a head states 127.0.0.1, no one states anything else, comments included."""
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


def market_of(node: dict[str, Any]) -> str | None:
    """Return `spot` where a node type may be taken away."""
    config = node["node_config"]
    spot = config.get("InstanceMarketOptions") == {"MarketType": "spot"} or {"preemptible": True} in config.get(
        "scheduling", []
    )
    return "spot" if spot else None


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_workers_are_spot_and_the_head_is_not(name: str) -> None:
    """A lost worker costs a run; a lost head costs the cluster."""
    cluster = variant(name)
    market = {key: market_of(node) for key, node in cluster["available_node_types"].items()}
    assert market.pop(cluster["head_node_type"]) is None
    assert list(market.values()) == ["spot"]


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_the_head_has_no_gpu_and_idle_workers_go(name: str) -> None:
    """The head keeps the driver only; a cluster at rest costs one small machine."""
    cluster = variant(name)
    types = cluster["available_node_types"]
    assert types[cluster["head_node_type"]]["resources"]["GPU"] == 0
    workers = [node for key, node in types.items() if key != cluster["head_node_type"]]
    assert [(node["min_workers"], node["resources"]["GPU"]) for node in workers] == [(0, 1)]
    assert cluster["idle_timeout_minutes"] <= 10


def test_what_stopped_costs_nothing(cluster: dict[str, Any]) -> None:
    """AWS would keep stopped machines, and their disks, unless configured otherwise."""
    assert cluster["provider"]["cache_stopped_nodes"] is False


def test_the_setup_commands_find_what_they_install(cluster: dict[str, Any]) -> None:
    """The image's Python is one that we run on; what the build reads is copied to every node; Ray comes first."""
    project = tomllib.loads((FILE.parent / "pyproject.toml").read_text())["project"]
    major, minor = re.search(r"-py(\d)(\d+)-", cluster["docker"]["image"]).groups()
    assert (int(major), int(minor)) >= tuple(map(int, project["requires-python"].removeprefix(">=").split(".")))
    needed = [project["readme"], *project["license-files"], "ray_unlearn", "pyproject.toml"]
    assert all((FILE.parent / name).exists() and name not in cluster["rsync_exclude"] for name in needed)
    source = next(key for key, value in cluster["file_mounts"].items() if value == ".")
    assert cluster["setup_commands"] == ["pip install 'ray[default]==2.60.0'", f"pip install {source}"]


def test_nothing_that_nodes_need_is_left_out_of_the_copies(cluster: dict[str, Any]) -> None:
    """Law: `ray up` copies the whole package, the token, and the key with which the head opens its workers.

    Its names are rsync's: one without a slash is left out of every copy, that of a single file too.
    """
    root = FILE.parent
    package = {part for path in (root / "ray_unlearn").rglob("*.*") for part in path.relative_to(root).parts[:-1]}
    package |= {path.name for path in (root / "ray_unlearn").rglob("*.*") if path.parent.name != "__pycache__"}
    keys = {"ray-autoscaler_us-west-2.pem", "id_ed25519", "ray_bootstrap_key.pem"}
    sent = (package - {"__pycache__"}) | keys | {"auth_token", "ray_bootstrap_config.yaml"}
    assert [(one, name) for one in cluster["rsync_exclude"] for name in sent if fnmatch(name, one)] == []
    assert cluster["rsync_filter"] == [".gitignore"]  # which is not beside the keys
    ignored = [one for one in (root / ".gitignore").read_text().splitlines() if one and one[0] != "#"]
    assert [(one, name) for one in ignored for name in sent - keys if fnmatch(name, one)] == []
    assert all(any(fnmatch(key, one) for one in ignored) for key in keys)
