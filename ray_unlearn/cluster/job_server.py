"""Ray's job server over HTTP: submit a study's job, attach to one that runs, follow it to its end.

    server = JobServer("http://127.0.0.1:8265", report)
    attempt = server.submit(submission)
    ended = server.follow(attempt.id, show)      # shows its log as it grows; returns its end

A server that cannot be used is a `ClusterError` of one line. Ray is imported when a server is connected to, after
RAY_AUTH_MODE is set, which Ray reads once, at import: `ray job` sends a token only in that mode.

Does not cover: the contents of a submission (`submit.bundle`, `submit.jobs`); starting or stopping clusters.
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
from ray_unlearn.study.uris import last_line
from ray_unlearn.submit.jobs import Attempt, Submission

ADDRESS = "http://127.0.0.1:8265"
_WEB = ("http://", "https://")
_CONNECT_S = 10.0
_PATIENCE_S = 90.0
"""Seconds that a server may be without an agent, or out of reach while a job is followed."""
_AGAIN_S = 1.0
_SILENCE_S = 60.0
"""Seconds without a line of the log after which a new connection is made: the old one may have broken unnoticed."""
_OVERRIDES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Variables that override the address that Ray's client is given."""

_CHATTY = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private.runtime_env.packaging")
"""Loggers of which only warnings are shown: this module prints the information of the others itself."""


def default_address() -> str:
    """Return the address that `ray job` uses by default."""
    named = [os.environ.get(name, "") for name in _OVERRIDES]
    return next(
        (address for address in named if address.startswith(_WEB)), ADDRESS
    )  # RAY_ADDRESS need not be a web address


def environment_of(address: str) -> dict[str, str]:
    """Return the environment variables with which a `ray job` command reaches the same server."""
    token = os.environ.get("RAY_AUTH_MODE") is None and _has_token()
    other = any(os.environ.get(name, address) != address for name in _OVERRIDES)
    return ({"RAY_AUTH_MODE": "token"} if token else {}) | ({_OVERRIDES[0]: address} if other else {})


def _has_token() -> bool:
    """Return whether this user has a token in one of the places where Ray reads it."""
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(named) or (Path.home() / ".ray" / "auth_token").is_file()


class JobServer:
    """A connection to the job server of one cluster."""

    def __init__(self, address: str, report: Callable[[str], None]) -> None:
        """Connect.

        Args:
            address: the dashboard's URL.
            report: called with one line while the server is slow to respond.

        Raises:
            ClusterError: the URL is not that of a job server, or the server cannot be reached or refuses the token.

        """
        self.address, self._report = address.rstrip("/"), report
        _check_reachable(self.address)
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
        """Return the server's description of one job."""
        with self._asking():
            return _attempt(self._client.get_job_info(submission_id))

    def submit(self, submission: Submission) -> bool:
        """Submit a job; return True if the job is new, False if another client has submitted one of that name first.

        Raises:
            ClusterError: the server does not accept it.

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
            except Exception as error:  # Ray raises RuntimeError for every answer that is an error
                if "already exists" in str(error):
                    return False
                if "No available agent" not in str(error) or time.monotonic() > until:
                    raise ClusterError(f"{self.address} does not accept the job: {last_line(error)}") from error
                self._report("the cluster has only just started and accepts no jobs yet; trying again")
                time.sleep(_AGAIN_S)
            else:
                return True

    def follow(self, submission_id: str, show: Callable[[str], None]) -> Attempt:
        """Show a job's log as it grows, until the job has ended; a broken connection is made again.

        Raises:
            ClusterError: the server cannot be reached any more.

        """
        shown, grown_at = 0, time.monotonic()
        while True:
            for chunk in _tail(self._client, submission_id, skip=shown):
                shown, grown_at = shown + len(chunk), time.monotonic()
                show(chunk)
            try:
                attempt = self.attempt(submission_id)
            except ClusterError as error:
                if time.monotonic() - grown_at > _PATIENCE_S:
                    raise ClusterError(f"{error}; the job may go on: the same command attaches to it") from error
                time.sleep(_AGAIN_S)
                continue
            grown_at = time.monotonic()
            if attempt.ended:
                with contextlib.suppress(ClusterError):  # the server may end with its job, whose end is known already
                    show(self._log(submission_id)[shown:])
                return attempt
            time.sleep(_AGAIN_S)

    def _log(self, submission_id: str) -> str:
        with self._asking():
            return str(self._client.get_job_logs(submission_id))

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Turn errors of the connection into a `ClusterError` of one line."""
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            missing = "required" in str(error).split(":")[0]
            what = "requires a token, and this user has none" if missing else "does not accept this user's token"
            raise ClusterError(
                f"{self.address} {what}; put the cluster's token (`ray get-auth-token` prints it there) into "
                "RAY_AUTH_TOKEN, a file named by RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token"
            ) from error
        except OSError as error:  # requests' errors are OSErrors
            raise ClusterError(f"{self.address}: {last_line(error)}") from error
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise ClusterError(f"{self.address} does not answer as Ray's job server: {last_line(error)}") from error


def _tail(client: Any, submission_id: str, *, skip: int) -> Iterator[str]:
    """Yield a log from character `skip` on, until the job or the connection ends, or no line arrives for some time.

    Another thread reads the connection, so that a signal meets this thread while it waits, not inside an event loop
    that may swallow it.
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
            ):  # a closed connection need not be the job's end: `follow` asks for its status
                asyncio.run(listen())
        finally:
            chunks.put(None)

    threading.Thread(target=run, daemon=True, name="job-log").start()
    while (chunk := chunks.get()) is not None:
        skip, rest = max(0, skip - len(chunk)), chunk[skip:]
        if rest:
            yield rest


def _check_reachable(address: str) -> None:
    """Check within seconds that a server can be reached; Ray's client would wait for minutes.

    Raises:
        ClusterError: the address is not a web address, or no server answers there.

    """
    if not address.startswith(_WEB):
        raise ClusterError(f"--address {address}: expected the dashboard's URL, such as {ADDRESS}")
    try:
        urllib.request.urlopen(f"{address}/api/version", timeout=_CONNECT_S).close()  # noqa: S310 - http(s), see above
    except urllib.error.HTTPError:
        return  # the server answers; Ray's client handles the rest
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ClusterError(
            f"{address}: no job server can be reached ({getattr(error, 'reason', error)}); is the cluster up, and the "
            "tunnel to its dashboard (`ray dashboard cluster.yaml`)?"
        ) from error


@contextlib.contextmanager
def _only_given_address() -> Iterator[None]:
    """Hide the variables that would override the address."""
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
