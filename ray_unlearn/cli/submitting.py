"""The subcommand that sends a study to a cluster: submit.

    ray-unlearn submit faces.yaml --set storage=s3://bucket/studies --wait

The study's job has a name of its own, `faces-1a2b3c4d-a1`: submitted while it runs, it is attached to, not doubled;
submitted after it has ended, the next attempt makes what is missing.

Does not cover: what travels (`submit.bundle`), Ray's job server (`cluster.job_server`), what the job does: it is
another of these subcommands, on the head node.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ray_unlearn.cli.options import Overrides, StudyFile
from ray_unlearn.errors import ClusterError, Interrupted
from ray_unlearn.study.uris import without_keys
from ray_unlearn.terminal import say, say_error, show

if TYPE_CHECKING:
    from ray_unlearn.cluster.job_server import JobServer
    from ray_unlearn.submit.bundle import Parcel
    from ray_unlearn.submit.jobs import Attempt, Submission


class StageName(StrEnum):
    """What the job does; each is a subcommand."""

    all = "all"
    prepare = "prepare"
    generate = "generate"
    evaluate = "evaluate"
    report = "report"


def submit(
    study: StudyFile,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The cluster's dashboard. Default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, else http://127.0.0.1:8265.",
        ),
    ] = None,
    stage: Annotated[StageName, typer.Option(help="What the job does.")] = StageName.all,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Show the job's log; end with its exit code.")] = False,
    ship_code: Annotated[
        bool, typer.Option("--ship-code", help="Take this ray_unlearn along; else the cluster has it installed.")
    ] = False,
    send: Annotated[
        list[Path],
        typer.Option("--send", metavar="PATH", help="A file or folder elsewhere that may travel; repeatable."),
    ] = [],  # noqa: B006
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Send nothing: ask which attempt it would be, and print the line.")
    ] = False,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Send a study to a Ray cluster as a job, or follow it.

    A job of the study that runs already is attached to; one that has ended goes on.

    The study travels, with the scripts that it names, and an `arch: package.module:factory` that lies beside it; one
    that lies elsewhere must be installed on every node. Data and storage must be where every node sees them. Each file
    that travels is listed; one outside the study's folder is refused, unless --send names it.
    """
    from ray_unlearn.cluster import job_server as ray_jobs
    from ray_unlearn.submit.bundle import pack
    from ray_unlearn.submit.jobs import command_line, job_line, next_attempt, rival, submission_of
    from ray_unlearn.wording import plural

    parcel = pack(study, overrides, stage=stage.value, ship_code=ship_code, send=send)
    address = (address or ray_jobs.default_address()).rstrip("/")
    environment = ray_jobs.environment_of(address)
    server = ray_jobs.JobServer(address, say_error)
    attempts = server.attempts()
    number, running = next_attempt(parcel.prefix, attempts)
    submission = submission_of(parcel, address, number, parcel.write())
    if dry_run:
        _list(parcel)
        say(command_line(submission, environment, wait=wait))
        return
    if running is None and (other := rival(submission, attempts)) is not None:
        raise ClusterError(
            f"{other.id} makes runs of study {parcel.study} in the same storage, from another version of the study or "
            f"in another stage; wait for it, or stop it first: {job_line('stop', other.id, address, environment)}"
        )
    if running is None:
        _list(parcel)
    if running is None and server.submit(submission):
        travels = f"{plural(len(parcel.files) + 1, 'file')}, {parcel.size_bytes:,} bytes"
        say(f"submitted {submission.id} to {address} ({travels})")
        say(f"the same as: {command_line(submission, environment, wait=wait)}")
    else:
        say(f"{submission.id} runs already on {address}; attached to it, nothing submitted")
    say(f"follow: {job_line('logs', submission.id, address, environment, '--follow')}")
    say(f"stop:   {job_line('stop', submission.id, address, environment)}")
    if wait:
        raise typer.Exit(_followed(server, submission))


def _list(parcel: Parcel) -> None:
    """List the files that are sent, where the study is not the only one."""
    for line in parcel.lines() if parcel.files else ():
        say_error(f"sends: {line}")


def _followed(server: JobServer, submission: Submission) -> int:
    """Show the job's log; return the exit code that says how it ended."""
    try:
        ended = server.follow(submission.id, show)
    except Interrupted as stop:
        say_error(f"{stop}; {submission.id} goes on: follow or stop it as said above; the same command attaches")
        return stop.exit_code
    say_error(_ending(ended))
    return ended.code


def _ending(ended: Attempt) -> str:
    """Return one line about how a job ended, and what to do."""
    if ended.status == "SUCCEEDED":
        return f"{ended.id} succeeded"
    if ended.status == "STOPPED":
        return f"{ended.id} was stopped; nothing is lost: the same command makes what is missing"
    if ended.exit_code == 3:
        return f"{ended.id} ended with runs that failed; the same command tries them again"
    reason = without_keys(" ".join(ended.message.split()))[:300]
    return f"{ended.id} failed with exit code {ended.code}: {reason}"
