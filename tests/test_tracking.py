"""Trackers: what each of them holds is metrics.parquet, read back by its own library; none can fail a run."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import forks
import pandas as pd
import pytest
import yaml
from conftest import TINY, write_study
from plans import finetune

from ray_unlearn.cli import main
from ray_unlearn.errors import StudyError
from ray_unlearn.generation import generate
from ray_unlearn.monitor import tracking
from ray_unlearn.monitor.trackers import is_installed
from ray_unlearn.run.outcome import Outcome, Spent
from ray_unlearn.schedule.events import Made
from ray_unlearn.store import StudyStore, open_storage
from ray_unlearn.study import Study, load_study

Numbers = dict[tuple[str, int, str], float]
"""(population, run, name) -> value."""


def expected(folder: Path) -> Numbers:
    """Return the numbers of metrics.parquet that trackers get."""
    table = pd.read_parquet(folder / "store" / "tiny" / "metrics.parquet")
    names = [name for name in table if name.endswith(("_accuracy", "_loss")) or name.startswith("seconds_")]
    names.remove("train_loss")
    rows = table.to_dict("records")
    return {(row["population"], row["run"], name): row[name] for row in rows for name in names}


def from_tensorboard(where: Path) -> Numbers:
    """Read event files with TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    found = {}
    for folder in (where / "tiny").iterdir():
        events = EventAccumulator(str(folder))
        events.Reload()
        for name in events.Tags()["tensors"]:
            for one in events.Tensors(name):
                found[folder.name, one.step, name] = float(make_ndarray(one.tensor_proto))
    return found


def from_mlflow(where: Path) -> Numbers:
    """Read the runs with MLflow's client."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{where / 'mlflow.db'}")
    found = {}
    for run in client.search_runs([client.get_experiment_by_name("tiny").experiment_id]):
        assert run.info.status == "FINISHED"
        for name in run.data.metrics:
            for one in client.get_metric_history(run.info.run_id, name):
                found[run.info.run_name, one.step, name] = one.value
    return found


def from_wandb(where: Path) -> Numbers:
    """Read the offline files: W&B's own messages, in the framing of LevelDB's logs."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = {}
    for file in where.rglob("run-*.wandb"):
        name = ""
        for data in framed(file.read_bytes()):
            record = Record.FromString(data)
            if record.WhichOneof("record_type") == "run":
                name = record.run.display_name
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                row = {one.key or ".".join(one.nested_key): json.loads(one.value_json) for one in items}
                found |= {(name, row["run"], key): row[key] for key in row if key != "run" and not key.startswith("_")}
    return found


def framed(data: bytes) -> Iterator[bytes]:
    """Yield the messages of a W&B file: a head of 7 bytes, blocks of 32 KiB, and pieces of crc, length and kind."""
    at, message = 7, b""
    while at + 7 <= len(data):
        if 2**15 - at % 2**15 < 7:
            at += 2**15 - at % 2**15
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        message += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole message, or its last piece
            yield message
            message = b""


def from_trackio(where: Path) -> Numbers:
    """Read the project with Trackio's own reader, whose folder TRACKIO_DIR named when it was imported."""
    from trackio.sqlite_storage import SQLiteStorage

    found = {}
    for name in SQLiteStorage.get_runs("tiny"):
        for row in SQLiteStorage.get_logs("tiny", name):
            values = {key: value for key, value in row.items() if key not in ("step", "timestamp", "id")}
            found |= {(name, row["step"], key): value for key, value in values.items()}
    assert list(where.glob("*.db"))
    return found


READERS: dict[str, Callable[[Path], Numbers]] = {
    "tensorboard": from_tensorboard,
    "mlflow": from_mlflow,
    "wandb": from_wandb,
    "trackio": from_trackio,
}


@pytest.mark.filterwarnings("ignore")  # of other projects' code
@pytest.mark.parametrize("name", READERS)
def test_a_tracker_holds_what_metrics_parquet_holds(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Law: every run's numbers, to the last bit that the tracker keeps; runs made later are added."""
    if not is_installed(name):  # not imported here: Trackio reads its folder then
        pytest.skip(f"{name} is not installed: uv pip install {name}")
    where = tmp_path / "store" / "trackers" / name
    monkeypatch.setenv("TRACKIO_DIR", str(where))
    study = write_study(tmp_path, execution={"track": [name]})
    generate(load_study(study, ["populations.finetune.count=2"]), backend="inline")
    generate(load_study(study), backend="inline")
    wanted = expected(tmp_path)
    assert len(wanted) >= 4 * 6
    found = READERS[name](where)
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert found[key] == pytest.approx(value, rel=1e-6)


def test_a_tracker_that_is_not_installed_is_refused(tiny: Callable[..., Study], monkeypatch, tmp_path: Path, capsys):
    """Law: by `generate` and by `plan`, before any run; a tracker that does not exist is a wrong study."""
    monkeypatch.setattr(tracking, "is_installed", lambda name: False)
    with pytest.raises(
        StudyError, match=r"execution\.track: wandb needs a package .* pip install 'ray-unlearn\[wandb\]'"
    ):
        generate(tiny(execution={"track": ["wandb"]}), backend="inline")
    file = write_study(tmp_path, execution={"track": ["trackio=here"]})
    assert main(["plan", str(file), "--quick"]) == 2
    assert "execution.track: trackio needs a package" in capsys.readouterr().err
    assert load_study(file).execution.track == (f"trackio={tmp_path / 'here'}",)
    with pytest.raises(StudyError, match=r"execution\.track"):
        tiny(execution={"track": ["comet"]})


class Fake:
    """A tracker that notes what it gets, and fails at a run's index."""

    noted: list[tuple[int, dict[str, float]]]
    fails_at = -1
    delay_s = 0.0

    def __init__(self, study: str, where: str) -> None:
        self.noted.append((-1, {}))

    def log(self, run, values) -> None:
        time.sleep(self.delay_s)
        if run.index == self.fails_at:
            raise ValueError("no such s3://key:secret@bucket/x")
        self.noted.append((run.index, dict(values)))

    def close(self) -> None:
        self.noted.append((-2, {}))


def made(index: int) -> Made:
    """Return the event of a made run."""
    outcome = Outcome(run=finetune(index), seconds=1.0, metrics={"a": 1.0}, spent=Spent(seconds={"train": 2.0}))
    return Made(outcome, 1, 1)


@pytest.mark.parametrize(
    ("fails_at", "delay_s", "indexes", "said"),
    [
        (-1, 0.0, [-1, 0, 1, 2, -2], ""),
        (1, 0.0, [-1, 0, -2], "wandb failed and is left out: ValueError: no such s3://bucket/x"),
        (-1, 9.0, [-1], "wandb did not take everything within 0 s; the store has it all"),
    ],
)
def test_no_tracker_can_fail_or_delay_a_run(tmp_path, tiny, monkeypatch, fails_at, delay_s, indexes, said):
    """Law: an error leaves the tracker out, a slow one is waited for only so long; either is one line."""
    lines: list[str] = []
    fake = type("Other", (Fake,), {"noted": [], "fails_at": fails_at, "delay_s": delay_s})
    monkeypatch.setattr(tracking, "TRACKERS", {"wandb": fake})
    monkeypatch.setattr(tracking, "is_installed", lambda name: True)
    monkeypatch.setattr(tracking, "CLOSING_S", 0.3 if delay_s else 30.0)
    store = StudyStore(open_storage(str(tmp_path)), "tiny")
    start = time.monotonic()
    with tracking.tracked(tiny(execution={"track": ["wandb"]}), store, lines.append) as sinks:
        for index in range(3):
            for sink in sinks:
                sink(made(index))
        assert time.monotonic() - start < 5
    assert [index for index, _ in fake.noted] == indexes
    assert "".join(lines) == said
    if 0 in indexes:
        assert fake.noted[1][1] == {"a": 1.0, "seconds_train": 2.0}


def test_a_tracker_with_too_many_runs_waiting_is_left_out_with_a_line(tmp_path, tiny, monkeypatch):
    """Law: a tracker that lacks runs is named, once; none is dropped in silence."""
    lines: list[str] = []
    monkeypatch.setattr(tracking, "TRACKERS", {"wandb": type("Slow", (Fake,), {"noted": [], "delay_s": 1.0})})
    monkeypatch.setattr(tracking, "is_installed", lambda name: True)
    monkeypatch.setattr(tracking, "_WAITING", 1)
    store = StudyStore(open_storage(str(tmp_path)), "tiny")
    with tracking.tracked(tiny(execution={"track": ["wandb"]}), store, lines.append) as (sink,):
        for index in range(4):
            sink(made(index))
    assert lines == ["wandb is too slow and is left out; the store has it all"]


def test_a_study_without_trackers_imports_none(tmp_path: Path):
    """Law: their packages cost nothing unless the study names them."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY | {"storage": str(tmp_path)}))
    process = forks.forked(generate_and_list, tmp_path / "tiny.yaml", tmp_path / "imported")
    process.join(200)
    assert (process.exitcode, (tmp_path / "imported").read_text()) == (0, "[]")


def generate_and_list(study: Path, found: Path) -> None:
    """Generate a study, and write which packages of trackers this process has imported."""
    assert generate(load_study(study), backend="inline").made == 4
    found.write_text(str(sorted({"tensorboard", "mlflow", "wandb", "trackio"} & set(sys.modules))))
