"""A real S3 service: the same life of a study on OpenStack Swift as on moto's server, straight and through faults."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest
from s3 import Proxy, Server
from s3_cycle import live, made_on_a_disk

from ray_unlearn.store import retries

ENDPOINT = os.environ.get("RAY_UNLEARN_SWIFT_ENDPOINT", "")

pytestmark = [
    pytest.mark.swift,
    pytest.mark.skipif(not ENDPOINT, reason='no Swift: eval "$(tests/swift.sh)" starts one (Debian, root)'),
]


@pytest.fixture(scope="module")
def server() -> Server:
    return Server(ENDPOINT, os.environ["RAY_UNLEARN_SWIFT_KEY"], os.environ["RAY_UNLEARN_SWIFT_SECRET"])


@pytest.fixture
def bucket(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    server.make_bucket(name)
    return name


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return made_on_a_disk(tmp_path_factory.mktemp("disk"))


def test_the_whole_life_of_a_study_on_swift(server: Server, bucket: str, tmp_path: Path, expected: dict[str, bytes]):
    """Law: a real service does for a study what a disk does, to the same bytes."""
    live(server.uri(f"{bucket}/prefix"), tmp_path, expected)


def test_the_whole_life_of_a_study_on_swift_through_faults(server, bucket, tmp_path, expected, monkeypatch):
    """Law: 500s, 503s and resets between us and the service change nothing."""
    monkeypatch.setattr(retries, "_PAUSES_S", (0.0, 0.0, 0.0))
    with Proxy(server, seed=3, share=1 / 15) as proxy:
        live(proxy.uri(f"{bucket}/prefix"), tmp_path, expected)
    assert sum(count for kind, count in proxy.happened.items() if kind.startswith(("5", "reset"))) >= 10
