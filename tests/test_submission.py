"""A job as values: which attempt comes next, what its command line states, what its end means."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from ray_unlearn.submit.bundle import Parcel
from ray_unlearn.submit.jobs import Attempt, command_line, job_line, next_attempt, rival, submission_of

PREFIX = "faces-1a2b3c4d-a"


def parcel(stage: str = "all", storage: str = "s3://key:secret@bucket/studies?region=eu") -> Parcel:
    return Parcel(study="faces", storage=storage, stage=stage, text="{}", files={}, digest="1a2b3c4d")


def attempts(*given: tuple[str, str]) -> list[Attempt]:
    return [Attempt(id=name, status=status) for name, status in given]


@pytest.mark.parametrize(
    ("known", "number", "running"),
    [
        ([], 1, None),
        ([(f"{PREFIX}1", "RUNNING")], 1, f"{PREFIX}1"),
        ([(f"{PREFIX}1", "PENDING")], 1, f"{PREFIX}1"),
        ([(f"{PREFIX}1", "SUCCEEDED")], 2, None),
        ([(f"{PREFIX}9", "STOPPED"), (f"{PREFIX}10", "FAILED"), (f"{PREFIX}2", "SUCCEEDED")], 11, None),
        ([(f"{PREFIX}2", "RUNNING"), (f"{PREFIX}1", "FAILED")], 2, f"{PREFIX}2"),
        ([("faces-1a2b3c4d-abc", "RUNNING"), ("other", "RUNNING"), ("faces-1a2b3c4e-a7", "RUNNING")], 1, None),
        ([(f"{PREFIX}1x", "RUNNING"), (f"{PREFIX}-1", "RUNNING"), (f"{PREFIX}", "RUNNING")], 1, None),
    ],
)
def test_the_next_attempt_is_one_more_than_the_last_that_ended(
    known: list[tuple[str, str]], number: int, running: str | None
) -> None:
    """Law: nothing known: 1; the last one running: that one; ended: one more, by number, not by text; no one else's."""
    found, attached = next_attempt(PREFIX, attempts(*known))
    assert found == number
    assert (attached.id if attached else None) == running


@pytest.mark.parametrize(
    ("status", "exit_code", "code"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 1, 1),
        ("FAILED", 2, 2),
        ("FAILED", 3, 3),
        ("FAILED", 130, 130),
        ("FAILED", 143, 143),
        ("FAILED", None, 1),
        ("FAILED", -9, 137),
        ("STOPPED", None, 143),
    ],
)
def test_who_waits_ends_with_the_drivers_code(status: str, exit_code: int | None, code: int) -> None:
    """Law: the driver's code; killed by a signal 128 + it; none available 1; stopped 143, interrupted and resumable."""
    attempt = Attempt(id="x", status=status, exit_code=exit_code)
    assert (attempt.code, attempt.ended) == (code, True)


def test_the_command_line_states_all_that_is_submitted(tmp_path: Path) -> None:
    """Law: split by a shell's rules, every option is there; no credentials, no entrypoint resources."""
    folder = tmp_path / "it's here"
    submission = submission_of(parcel("generate"), "http://127.0.0.1:8265", 2, folder)
    line = command_line(submission, {"RAY_AUTH_MODE": "token"})
    words = shlex.split(line)
    assert words[:4] == ["RAY_AUTH_MODE=token", "ray", "job", "submit"]
    options = dict(zip(words[4:-7:2], words[5:-7:2], strict=True))
    assert options["--submission-id"] == "faces-generate-1a2b3c4d-a2"
    assert options["--working-dir"] == str(folder)
    assert json.loads(options["--runtime-env-json"]) == {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "30"}}
    assert json.loads(options["--metadata-json"])["ray_unlearn_storage"] == "s3://bucket/studies"
    assert words[-7:] == ["--no-wait", "--", "python", "-m", "ray_unlearn", "generate", "study.yaml"]
    assert "--no-wait" not in command_line(submission, {}, wait=True)
    assert "secret" not in line
    assert "entrypoint" not in line


def test_lines_for_the_job_that_is_there() -> None:
    """Law: logs and stop name the address and the id."""
    assert job_line("logs", "x-a1", "http://h:1", {}, "--follow") == "ray job logs --address http://h:1 --follow x-a1"
    assert job_line("stop", "x-a1", "http://h:1", {"A": "b c"}) == "A='b c' ray job stop --address http://h:1 x-a1"


@pytest.mark.parametrize(
    ("mine", "status", "change", "found"),
    [
        ("all", "RUNNING", {}, True),
        ("generate", "PENDING", {}, True),
        ("all", "STOPPED", {}, False),
        ("evaluate", "RUNNING", {}, False),
        ("all", "RUNNING", {"ray_unlearn_stage": "report"}, False),
        ("all", "RUNNING", {"ray_unlearn_study": "other"}, False),
        ("all", "RUNNING", {"ray_unlearn_storage": "/mnt"}, False),
    ],
)
def test_two_jobs_do_not_make_the_same_runs(mine: str, status: str, change: dict[str, str], found: bool) -> None:
    """Law: another version of the study that makes runs in the same storage is found while it runs; scoring is none."""
    submission = submission_of(parcel(mine), "http://h:1", 1, Path("/w"))
    metadata = {**submission_of(parcel(), "http://h:1", 1, Path("/w")).metadata, **change}
    other = Attempt(id="faces-99999999-a1", status=status, metadata=metadata)
    assert (rival(submission, [other]) is other) is found
    assert rival(submission, [Attempt(id=submission.id, status="RUNNING", metadata=metadata)]) is None
    assert rival(submission, [Attempt(id="somebody", status="RUNNING")]) is None
