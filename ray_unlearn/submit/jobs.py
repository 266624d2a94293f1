"""One job of Ray's job server, as values: the next attempt, the equivalent command line, the exit code.

    attempts = [Attempt(id="faces-1a2b3c4d-a1", status="STOPPED"), ...]
    next_attempt("faces-1a2b3c4d-a", attempts)   # (2, None): make attempt 2; (1, attempt): attempt 1 is running
    command_line(submission)                     # RAY_AUTH_MODE=token ray job submit --address ... -- python -m ...

Does not cover: communication with the server (`cluster.job_server`), the sent files (`bundle`).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ray_unlearn.study.uris import label
from ray_unlearn.submit.bundle import STUDY, Parcel

GRACE_S = 30
"""Seconds between `ray job stop`'s SIGTERM and SIGKILL; Ray's default of 3 is too short for a publication."""
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
_MAKING = ("all", "prepare", "generate")


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """The server's description of a job."""

    id: str
    status: str
    """Status: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    exit_code: int | None = None
    """Exit code of the driver; None if it left none, as after a stop."""
    message: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether the job has ended, so that its status is final."""
        return self.status in _ENDED

    @property
    def code(self) -> int:
        """Exit code for a command that waits for the job: the driver's; 143 (interrupted, resumable) after a stop."""
        if self.status == "SUCCEEDED":
            return 0
        if self.status == "STOPPED":
            return 143
        code = self.exit_code or 1
        return code if code > 0 else 128 - code  # ended by a signal


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """A job to submit: `ray job submit` has an option for each field."""

    address: str
    id: str
    working_dir: Path
    entrypoint: tuple[str, ...]
    metadata: Mapping[str, str]

    @property
    def runtime_env(self) -> dict[str, object]:
        """Runtime environment without the working_dir, which is an option of its own in `ray job submit`."""
        return {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(GRACE_S)}}


def submission_of(parcel: Parcel, address: str, attempt: int, working_dir: Path) -> Submission:
    """Return the job of one attempt; without entrypoint resources, so that Ray runs the driver on the head node."""
    return Submission(
        address=address,
        id=parcel.submission_id(attempt),
        working_dir=working_dir,
        entrypoint=("python", "-m", "ray_unlearn", parcel.stage, STUDY),
        metadata={
            "ray_unlearn_study": parcel.study,
            "ray_unlearn_stage": parcel.stage,
            "ray_unlearn_storage": label(parcel.storage),
        },
    )


def next_attempt(prefix: str, attempts: Sequence[Attempt]) -> tuple[int, Attempt | None]:
    """Return the number of the attempt to make and None; or the number of the running attempt, and that attempt.

    Args:
        prefix: beginning of the submission's ids.
        attempts: every job of the cluster.

    """
    numbers = {int(one.id.removeprefix(prefix)): one for one in attempts if _is_attempt(prefix, one.id)}
    if not numbers:
        return 1, None
    last = max(numbers)
    return (last + 1, None) if numbers[last].ended else (last, numbers[last])


def _is_attempt(prefix: str, name: str) -> bool:
    return name.startswith(prefix) and name.removeprefix(prefix).isdecimal()


def rival(submission: Submission, attempts: Sequence[Attempt]) -> Attempt | None:
    """Return another running job that makes runs of the same study in the same storage, or None."""
    mine, keys = submission.metadata, ("ray_unlearn_study", "ray_unlearn_storage")
    if mine["ray_unlearn_stage"] not in _MAKING:
        return None
    for one in attempts:
        same = all(one.metadata.get(key) == mine[key] for key in keys)
        if same and not one.ended and one.metadata.get("ray_unlearn_stage") in _MAKING and one.id != submission.id:
            return one
    return None


def command_line(submission: Submission, environment: Mapping[str, str], *, wait: bool = False) -> str:
    """Return the `ray job submit` command of a submission, quoted for a shell.

    Args:
        submission: the job.
        environment: variables that `ray job` needs, as `cluster.job_server.environment_of` returns them.
        wait: whether the command follows the job until it ends, which is the default of `ray job submit`.

    """
    options = {
        "--address": submission.address,
        "--submission-id": submission.id,
        "--working-dir": str(submission.working_dir),
        "--runtime-env-json": json.dumps(submission.runtime_env),
        "--metadata-json": json.dumps(dict(submission.metadata)),
    }
    words = ["ray", "job", "submit", *(word for pair in options.items() for word in pair)]
    return _shell(environment, [*words, *([] if wait else ["--no-wait"]), "--", *submission.entrypoint])


def job_line(verb: str, submission_id: str, address: str, environment: Mapping[str, str], *more: str) -> str:
    """Return `ray job VERB ...` for a job, quoted for a shell."""
    return _shell(environment, ["ray", "job", verb, "--address", address, *more, submission_id])


def _shell(environment: Mapping[str, str], words: Sequence[str]) -> str:
    return " ".join([*(f"{name}={shlex.quote(value)}" for name, value in environment.items()), shlex.join(words)])
