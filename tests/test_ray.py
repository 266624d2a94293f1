"""The ray backend on a real local cluster of two CPUs: same bytes, and nothing lost when an actor is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import slow
from conftest import payload_bytes
from slow import SlowStorage, hurry, mixed_study_in, records_in, slow_study_in
from test_unfinished import STATE, events_of, study_in

from ray_unlearn.generation import Summary, generate
from ray_unlearn.store import open_storage

pytestmark = pytest.mark.ray


def actor_pids() -> set[int]:
    """Return the processes on this machine that hold a Ray actor called Worker."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended meanwhile
        if command.startswith(b"ray::Worker"):
            found.add(int(folder.name))
    return found


class Killed(NamedTuple):
    """A study made by two workers, one of which was killed on the way."""

    folder: Path
    victims: list[int]
    summary: Summary


@pytest.fixture(scope="module")
def killed(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """Generate with two workers, and kill -9 one of them after four records."""
    folder = tmp_path_factory.mktemp("ray") / "study"
    study = mixed_study_in(folder, 8)
    strangers, victims = actor_pids(), list[int]()
    over = threading.Event()

    def kill_one() -> None:
        while not over.is_set() and not victims:
            ours = actor_pids() - strangers
            if records_in(folder) >= 4 and ours:
                victims.append(max(ours))
                os.kill(victims[0], signal.SIGKILL)
                hurry(folder)
            time.sleep(0.02)

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        summary = generate(study, backend="ray", workers=2)
    finally:
        over.set()
        killer.join()
    return Killed(folder, victims, summary)


@pytest.fixture(scope="module")
def inline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The payloads of the same study with two more runs, made in this process."""
    folder = tmp_path_factory.mktemp("inline") / "study"
    study = mixed_study_in(folder, 10)
    hurry(folder)
    assert generate(study, backend="inline").made == 14
    return payload_bytes(folder / "store/tiny")


def test_an_actor_killed_in_the_middle_costs_nothing(killed: Killed, inline: dict[str, bytes]):
    """Law: of two workers one is killed -9; it is replaced, its run made anew, and every byte is inline's."""
    assert len(killed.victims) == 1
    assert (killed.summary.made, killed.summary.failed, killed.summary.exit_code) == (12, {}, 0)
    found = payload_bytes(killed.folder / "store/tiny")
    found = {name: data for name, data in found.items() if ".tmp-" not in name}  # the victim's; swept by the next
    assert len(found) == 12 * 2 + 1
    assert found.items() <= inline.items()


def test_one_more_worker_makes_exactly_what_a_raised_count_lacks(killed: Killed, inline: dict[str, bytes]):
    """Law: one worker goes on where two stopped: two more runs, no other file touched, every byte inline's."""
    times = {path: path.stat().st_mtime_ns for path in killed.folder.glob("store/tiny/*/0*/*")}
    assert len(times) == 12 * 3
    summary = generate(mixed_study_in(killed.folder, 10), backend="ray", workers=1)
    assert (summary.already, summary.made, summary.exit_code) == (12, 2, 0)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert payload_bytes(killed.folder / "store/tiny") == inline


def test_nothing_to_do_starts_no_actor(killed: Killed):
    """Law: a finished study asks the cluster for nothing."""
    before = actor_pids()
    summary = generate(mixed_study_in(killed.folder, 8), backend="ray", workers=2)
    assert (summary.already, summary.made) == (12, 0)
    assert actor_pids() <= before


def test_a_worker_killed_while_it_trains_and_publishes_costs_both_and_no_more(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Law: run 1 in publication (1 s), run 2 in training (0.3 s) when the worker is killed -9: both are made again."""
    import ray

    ray.cloudpickle.register_pickle_by_value(slow)

    def open_slowly(uri: str) -> SlowStorage:
        plain = open_storage(uri)
        return SlowStorage(plain.uri, plain.filesystem, plain.root)

    monkeypatch.setattr("ray_unlearn.generation.job.open_storage", open_slowly)
    strangers, at, made_before = actor_pids(), tmp_path / "store/at", list[int]()

    def kill() -> None:
        while not at.exists() or not at.read_text().endswith("mine/00001"):
            time.sleep(0.01)
        time.sleep(0.1)
        made_before.append(records_in(tmp_path))
        (victim,) = actor_pids() - strangers
        os.kill(victim, signal.SIGKILL)
        hurry(tmp_path)

    killer = threading.Thread(target=kill)
    killer.start()
    summary = generate(slow_study_in(tmp_path, 4), backend="ray", workers=1)
    killer.join()
    assert made_before == [2]  # the original and run 0
    assert (summary.made, summary.exit_code) == (5, 0)
    assert "retrying mine/00002 (attempt 1 of 2): worker process died" in capsys.readouterr().err
    monkeypatch.undo()
    whole = tmp_path / "whole"
    study = slow_study_in(whole, 4)
    hurry(whole)
    assert generate(study, backend="inline").made == 5
    found = {name: data for name, data in payload_bytes(tmp_path / "store/tiny").items() if ".tmp-" not in name}
    assert found == payload_bytes(whole / "store/tiny")


@pytest.mark.long
def test_a_worker_killed_on_ray_is_replaced_by_one_that_goes_on(ray_cluster: None, tmp_path: Path) -> None:
    """Law: an actor that dies after a state loses the epochs since then; the bytes are those of the inline backend."""
    changes = {"training": {"epochs": 400}, "populations": {"scrub": None, "finetune": None}}
    plain = study_in(tmp_path / "inline", **changes, execution={"resume_every_minutes": None})
    assert generate(plain, backend="inline").exit_code == 0
    folder = tmp_path / "ray"
    state = folder / "tiny/original/unfinished" / STATE

    def kill() -> None:
        for _ in range(6000):
            ready = [event for event in events_of(folder) if event.get("event") == "ready"]
            if ready and state.exists():
                os.kill(ready[-1]["pid"], signal.SIGKILL)
                return
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    summary = generate(study_in(folder, **changes), backend="ray", workers=1)
    killer.join()
    assert (summary.made, summary.exit_code) == (1, 0)
    (note,) = [event["note"] for event in events_of(folder) if "note" in event]
    assert note.startswith("went on after epoch ")
    assert payload_bytes(folder / "tiny") == payload_bytes(tmp_path / "inline/tiny")
