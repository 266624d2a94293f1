"""The subcommand that sends a study to a cluster: submit.

    ray-unlearn submit faces.yaml --set storage=s3://bucket/studies --wait

The job's name comes from the study, as in `faces-1a2b3c4d-a1`. Submitting a study while its job runs attaches to that
job; submitting it after the job has ended starts the next attempt, which makes the missing runs.

Does not cover: which files are sent (`submit.bundle`), Ray's job server (`cluster.job_server`), nor the job itself,
which is another of these subcommands, run on the head node.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ray_unlearn.cli.options import Overrides, StudyFile
from ray_unlearn.errors import ClusterError, Interrupted
from ray_unlearn.terminal import print_error, print_line, show

if TYPE_CHECKING:
    from ray_unlearn.cluster.job_server import JobServer
    from ray_unlearn.submit.bundle import Parcel
    from ray_unlearn.submit.jobs import Attempt, Submission


class StageName(StrEnum):
    """Stage that the job runs; each is a subcommand."""

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
            help="URL of the dashboard. Default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, else http://127.0.0.1:8265.",
        ),
    ] = None,
    stage: Annotated[StageName, typer.Option(help="Stage that the job runs.")] = StageName.all,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Show the job's log, and end with its exit code.")
    ] = False,
    ship_code: Annotated[
        bool, typer.Option("--ship-code", help="Send this ray_unlearn too. Default: the one installed on the cluster.")
    ] = False,
    send: Annotated[
        list[Path],
        typer.Option(
            "--send", metavar="PATH", help="Allow sending a file or folder outside the study's folder. Repeatable."
        ),
    ] = [],  # noqa: B006
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Send nothing; print the `ray job submit` line of the next attempt.")
    ] = False,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Send a study to a Ray cluster as a job, or follow its job.

    While a job of the study runs, the command attaches to it; after its end, the next attempt makes the missing runs.

    The study is sent with the scripts that it names, and with the module of an `arch: package.module:factory` in its
    folder; any other factory must be installed on every node. Every node must see the data and the storage. The command
    lists each file that it sends, and refuses one outside the study's folder, unless --send names it.
    """
    from ray_unlearn.cluster import job_server as ray_jobs
    from ray_unlearn.submit.bundle import pack
    from ray_unlearn.submit.jobs import command_line, job_line, next_attempt, rival, submission_of
    from ray_unlearn.wording import plural

    parcel = pack(study, overrides, stage=stage.value, ship_code=ship_code, send=send)
    address = (address or ray_jobs.default_address()).rstrip("/")
    environment = ray_jobs.environment_of(address)
    server = ray_jobs.JobServer(address, print_error)
    attempts = server.attempts()
    number, running = next_attempt(parcel.prefix, attempts)
    submission = submission_of(parcel, address, number, parcel.write())
    if dry_run:
        _list(parcel)
        print_line(command_line(submission, environment, wait=wait))
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
        print_line(f"submitted {submission.id} to {address} ({travels})")
        print_line(f"the same as: {command_line(submission, environment, wait=wait)}")
    else:
        print_line(f"{submission.id} runs already on {address}; attached to it, nothing submitted")
    print_line(f"follow: {job_line('logs', submission.id, address, environment, '--follow')}")
    print_line(f"stop:   {job_line('stop', submission.id, address, environment)}")
    if wait:
        raise typer.Exit(_followed(server, submission))


def _list(parcel: Parcel) -> None:
    """Print the files that are sent, unless the study file is the only one."""
    for line in parcel.lines() if parcel.files else ():
        print_error(f"sends: {line}")


def _followed(server: JobServer, submission: Submission) -> int:
    """Show the job's log; return the exit code of its end."""
    try:
        ended = server.follow(submission.id, show)
    except Interrupted as stop:
        print_error(
            f"{stop}; {submission.id} keeps running: follow or stop it with the lines above; the same command attaches"
        )
        return stop.exit_code
    print_error(_ending(ended))
    return ended.code


def _ending(ended: Attempt) -> str:
    """Return one line that reports how a job ended, and what to do."""
    if ended.status == "SUCCEEDED":
        return f"{ended.id} succeeded"
    if ended.status == "STOPPED":
        return f"{ended.id} was stopped; nothing is lost: the same command makes what is missing"
    if ended.exit_code == 3:
        return f"{ended.id} ended with runs that failed; the same command tries them again"
    from ray_unlearn.study.uris import without_keys

    reason = without_keys(" ".join(ended.message.split()))[:300]
    return f"{ended.id} failed with exit code {ended.code}: {reason}"
