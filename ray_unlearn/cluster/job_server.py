"""Ray's job server over HTTP: submit a study's job, attach to one that runs, follow it to its end.

    server = JobServer("http://127.0.0.1:8265", report)
    attempt = server.submit(submission)
    ended = server.follow(attempt.id, show)      # its log as it grows; then how it ended

Each way in which a server cannot be used is one `ClusterError`. Ray is imported when a server is connected to, after
RAY_AUTH_MODE is set, which Ray reads once, at import: `ray job` sends a token only in that mode.

Does not cover: what is submitted (`submit.bundle`, `submit.jobs`); starting or stopping clusters.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
import os
import queue
import shlex
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ray_unlearn.errors import ClusterError
from ray_unlearn.study.uris import without_keys
from ray_unlearn.submit.jobs import Attempt, Submission

ADDRESS = "http://127.0.0.1:8265"
_WEB = ("http://", "https://")
_CONNECT_S = 10.0
_PATIENCE_S = 90.0
"""How long a server may be without an agent, or out of reach while a job is followed."""
_AGAIN_S = 2.0
_SILENCE_S = 60.0
"""How long a log may say nothing before it is listened to anew; a connection may have been dropped without a word."""
_OVERRIDES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Ray's client prefers these to the address that it is given."""

_CHATTY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers whose information we give ourselves; their warnings pass."""


def default_address() -> str:
    """Return the address to use where none is given, as `ray job` finds it."""
    named = [os.environ.get(name, "") for name in _OVERRIDES]
    return next(
        (address for address in named if address.startswith(_WEB)), ADDRESS
    )  # RAY_ADDRESS may be no web address


def environment_of(address: str) -> dict[str, str]:
    """Return the variables that a `ray job` command line needs in front of it to reach the same server."""
    token = os.environ.get("RAY_AUTH_MODE") is None and _has_token()
    other = any(os.environ.get(name, address) != address for name in _OVERRIDES)
    return ({"RAY_AUTH_MODE": "token"} if token else {}) | ({_OVERRIDES[0]: address} if other else {})


def _has_token() -> bool:
    """Return whether this user has a token where Ray looks for one."""
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(named) or (Path.home() / ".ray" / "auth_token").is_file()


class JobServer:
    """A connection to the job server of one cluster."""

    def __init__(self, address: str, report: Callable[[str], None]) -> None:
        """Connect.

        Args:
            address: the dashboard's URL.
            report: called with one line where something takes its time.

        Raises:
            ClusterError: it is no URL of a job server that can be reached with our token.

        """
        self.address, self._report = address.rstrip("/"), report
        _refuse_unreachable(self.address)
        if _has_token():
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        from ray.job_submission import JobSubmissionClient

        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
        with _only_given_address(), self._asking():
            self._client = JobSubmissionClient(self.address)

    def attempts(self) -> list[Attempt]:
        """Return every job that was submitted to the cluster."""
        with self._asking():
            return [_attempt(job) for job in self._client.list_jobs() if job.submission_id]

    def attempt(self, submission_id: str) -> Attempt:
        """Return what the server says about one job."""
        with self._asking():
            return _attempt(self._client.get_job_info(submission_id))

    def submit(self, submission: Submission) -> bool:
        """Submit a job; return whether it is a new one, and not one of that name that somebody was quicker with.

        Raises:
            ClusterError: the server does not take it.

        """
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self._client.submit_job(
                    entrypoint=shlex.join(submission.entrypoint),
                    submission_id=submission.id,
                    runtime_env={**submission.runtime_env, "working_dir": str(submission.working_dir)},
                    metadata=dict(submission.metadata),
                )
            except Exception as error:  # Ray raises RuntimeError for everything that a server says
                if "already exists" in str(error):
                    return False
                if "No available agent" not in str(error) or time.monotonic() > until:
                    raise ClusterError(f"{self.address} does not take the job: {_reason(error)}") from error
                self._report("the cluster has only just started and takes no jobs yet; trying again")
                time.sleep(_AGAIN_S)
            else:
                return True

    def follow(self, submission_id: str, show: Callable[[str], None]) -> Attempt:
        """Show a job's log as it grows, until it has ended; a connection that breaks is made again.

        Raises:
            ClusterError: the server cannot be reached any more.

        """
        shown, heard = 0, time.monotonic()
        while True:
            for chunk in _tail(self._client, submission_id, skip=shown):
                shown, heard = shown + len(chunk), time.monotonic()
                show(chunk)
            try:
                attempt = self.attempt(submission_id)
            except ClusterError as error:
                if time.monotonic() - heard > _PATIENCE_S:
                    raise ClusterError(f"{error}; the job may go on: the same command attaches to it") from error
                time.sleep(_AGAIN_S)
                continue
            heard = time.monotonic()
            if attempt.ended:
                with contextlib.suppress(ClusterError):  # the server may go with its job; how that ended is known
                    show(self._log(submission_id)[shown:])
                return attempt
            time.sleep(_AGAIN_S)

    def _log(self, submission_id: str) -> str:
        with self._asking():
            return str(self._client.get_job_logs(submission_id))

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Word what goes wrong between us and the server."""
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            missing = "required" in str(error).split(":")[0]
            what = "asks for a token, and there is none here" if missing else "does not know the token that we have"
            raise ClusterError(
                f"{self.address} {what}; give the cluster's (`ray get-auth-token` there): RAY_AUTH_TOKEN, "
                "RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
            ) from error
        except OSError as error:  # requests' errors are OSErrors
            raise ClusterError(f"{self.address}: {_reason(error)}") from error
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise ClusterError(f"{self.address} does not answer as Ray's job server: {_reason(error)}") from error


def _tail(client: Any, submission_id: str, *, skip: int) -> Iterator[str]:
    """Yield a log from character `skip` on, until the job or the connection ends, or nothing comes any more.

    A thread of its own listens, so that a signal finds this one waiting, not inside an event loop that may swallow it.
    """
    chunks: queue.Queue[str | None] = queue.Queue()

    async def listen() -> None:
        log = client.tail_job_logs(submission_id)
        while True:
            chunks.put(await asyncio.wait_for(anext(log), _SILENCE_S))

    def run() -> None:
        try:
            with contextlib.suppress(
                Exception
            ):  # its end and its silence are two; whoever follows asks what became of the job
                asyncio.run(listen())
        finally:
            chunks.put(None)

    threading.Thread(target=run, daemon=True, name="job-log").start()
    while (chunk := chunks.get()) is not None:
        skip, rest = max(0, skip - len(chunk)), chunk[skip:]
        if rest:
            yield rest


def _refuse_unreachable(address: str) -> None:
    """Say within seconds that nobody listens; Ray's client would wait for minutes.

    Raises:
        ClusterError: it is no web address, or cannot be reached.

    """
    if not address.startswith(_WEB):
        raise ClusterError(f"--address {address}: expected the dashboard's URL, such as {ADDRESS}")
    try:
        urllib.request.urlopen(f"{address}/api/version", timeout=_CONNECT_S).close()  # noqa: S310 - http(s), see above
    except urllib.error.HTTPError:
        return  # it answers; what it wants, Ray's client knows
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ClusterError(
            f"{address}: no job server can be reached ({getattr(error, 'reason', error)}); is the cluster up, and the "
            "tunnel to its dashboard (`ray dashboard cluster.yaml`)?"
        ) from error


@contextlib.contextmanager
def _only_given_address() -> Iterator[None]:
    """Hide the variables that would overrule the address."""
    hidden = {name: os.environ.pop(name) for name in _OVERRIDES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _attempt(job: Any) -> Attempt:
    return Attempt(
        id=job.submission_id,
        status=str(getattr(job.status, "value", job.status)),
        exit_code=job.driver_exit_code,
        message=job.message or "",
        metadata=job.metadata or {},
    )


def _reason(error: BaseException) -> str:
    """Return one line of what may be a server's whole traceback: its last, which says most."""
    lines = [line.strip() for line in without_keys(str(error)).splitlines() if line.strip(" .")]
    return lines[-1][:300] if lines else type(error).__name__
