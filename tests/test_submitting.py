"""`ray-unlearn submit` and `all`, without a cluster: what is reported, what is refused, which exit code."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import shlex
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, merged
from waiting import free_port

from ray_unlearn.cli import main
from ray_unlearn.cluster import job_server as ray_jobs
from ray_unlearn.errors import ClusterError, Interrupted, StoreError
from ray_unlearn.submit.jobs import Attempt, Submission


def write(folder: Path, **changes: Any) -> str:
    """Write TINY with changes; its storage is `folder`/store."""
    file = folder / "study.yaml"
    file.write_text(json.dumps(merged(TINY | {"storage": str(folder / "store")}, changes)))
    return str(file)


class FakeServer:
    """Answers as a job server would, from a list of jobs."""

    def __init__(self, jobs: list[Attempt]) -> None:
        self.jobs, self.sent = jobs, list[Submission]()
        self.taken = True
        self.log: Callable[[], Iterator[str]] = lambda: iter(["line 1\n", "line 2\n"])
        self.end = Attempt(id="x", status="SUCCEEDED", exit_code=0)

    def __call__(self, address: str, report: Callable[[str], None]) -> FakeServer:
        self.address = address
        return self

    def attempts(self) -> list[Attempt]:
        return self.jobs

    def submit(self, submission: Submission) -> bool:
        self.sent.append(submission)
        return self.taken

    def follow(self, submission_id: str, show: Callable[[str], None]) -> Attempt:
        for chunk in self.log():
            show(chunk)
        return self.end


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeServer:
    """A job server that knows no job yet, for a user without a token; parcels are below the test's own folder."""
    fake = FakeServer([])
    monkeypatch.setattr(ray_jobs, "JobServer", fake)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return fake


def test_submit_states_what_it_did_and_what_to_do(server: FakeServer, tmp_path: Path, capsys) -> None:
    """Law: id, address and size; the equal `ray job submit` line; how to follow and to stop; exit code 0."""
    assert main(["submit", write(tmp_path)]) == 0
    said = capsys.readouterr().out.splitlines()
    (sent,) = server.sent
    assert sent.entrypoint == ("python", "-m", "ray_unlearn", "all", "study.yaml")
    size = (sent.working_dir / "study.yaml").stat().st_size
    assert said[0] == f"submitted {sent.id} to http://127.0.0.1:8265 (1 file, {size:,} bytes)"
    assert said[1].startswith(f"the same as: ray job submit --address http://127.0.0.1:8265 --submission-id {sent.id} ")
    assert said[2:] == [
        f"follow: ray job logs --address http://127.0.0.1:8265 --follow {sent.id}",
        f"stop:   ray job stop --address http://127.0.0.1:8265 {sent.id}",
    ]


def test_submit_lists_what_it_sends(server: FakeServer, tmp_path: Path, capsys) -> None:
    """Law: a line per file where there is more than the study; what is elsewhere is sent where --send names it."""
    (tmp_path / "study").mkdir()
    (tmp_path / "study/a.pth").write_bytes(b"weights")
    (tmp_path / "id_rsa").write_text("secret")
    original = {"method": None, "on": None, "weights": "a.pth"}
    file = write(tmp_path / "study", populations={"original": original})
    for more in ([], ["--dry-run"]):
        assert main(["submit", file, *more]) == 0
        assert capsys.readouterr().err.splitlines() == [
            "sends: study.yaml, overrides merged in",
            f"sends: files/0/a.pth from {tmp_path}/study/a.pth",
        ]
    stolen = ["--set", f"populations.original.weights={os.path.relpath(tmp_path / 'id_rsa')}"]
    assert main(["submit", file, *stolen]) == 2
    assert "id_rsa is outside the study's folder" in capsys.readouterr().err
    assert len(server.sent) == 1
    assert main(["submit", file, *stolen, "--send", str(tmp_path / "id_rsa")]) == 0
    assert "id_rsa from " in capsys.readouterr().err
    assert len(server.sent) == 2


def test_what_runs_is_attached_to_and_what_ended_goes_on(server: FakeServer, tmp_path: Path, capsys) -> None:
    """Law: the same study twice is one job while it runs, and the next attempt after it; a race ends attached, too."""
    file = write(tmp_path)
    assert main(["submit", file]) == 0
    first = server.sent[0].id
    server.jobs = [Attempt(id=first, status="RUNNING")]
    capsys.readouterr()
    assert main(["submit", file]) == 0
    assert capsys.readouterr().out.startswith(f"{first} runs already on http://127.0.0.1:8265; attached to it")
    assert len(server.sent) == 1
    server.jobs = [Attempt(id=first, status="STOPPED")]
    assert main(["submit", file]) == 0
    assert server.sent[1].id == first.removesuffix("1") + "2"
    server.taken = False
    capsys.readouterr()
    assert main(["submit", file]) == 0
    assert "runs already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("status", "exit_code", "code", "said"),
    [
        ("SUCCEEDED", 0, 0, "x succeeded"),
        ("FAILED", 3, 3, "x ended with runs that failed; the same command tries them again"),
        ("FAILED", 2, 2, "x failed with exit code 2: two lines"),
        ("STOPPED", None, 143, "x was stopped; nothing is lost: the same command makes what is missing"),
    ],
)
def test_wait_shows_the_log_and_ends_with_the_jobs_code(
    server: FakeServer, tmp_path: Path, capsys, status: str, exit_code: int | None, code: int, said: str
) -> None:
    """Law: the job's lines on standard output, how it ended in one line on standard error, its exit code."""
    server.end = Attempt(id="x", status=status, exit_code=exit_code, message="two\nlines")
    assert main(["submit", write(tmp_path), "--wait"]) == code
    captured = capsys.readouterr()
    assert captured.out.endswith("line 1\nline 2\n")
    assert captured.err == f"{said}\n"


def test_ctrl_c_leaves_the_job_running(server: FakeServer, tmp_path: Path, capsys) -> None:
    """Law: who stops waiting stops nothing else, ends with 130, and reads that the job goes on."""

    def interrupted() -> Iterator[str]:
        yield "line 1\n"
        raise Interrupted(signal.SIGINT)

    server.log = interrupted
    assert main(["submit", write(tmp_path), "--wait"]) == 130
    captured = capsys.readouterr()
    assert captured.err == (
        f"interrupted by SIGINT; {server.sent[0].id} keeps running: follow or stop it with the lines above; "
        "the same command attaches\n"
    )
    assert "stop:   ray job stop" in captured.out


def test_another_version_of_the_study_is_not_made_at_once(server: FakeServer, tmp_path: Path, capsys) -> None:
    """Law: a raised count while the old one runs is refused, with the line that stops it; nothing is sent."""
    assert main(["submit", write(tmp_path)]) == 0
    first = server.sent.pop()
    server.jobs = [Attempt(id=first.id, status="RUNNING", metadata=first.metadata)]
    capsys.readouterr()
    more = ["--set", "populations.finetune.count=9"]
    assert main(["submit", write(tmp_path), *more]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {first.id} makes runs of study tiny in the same storage, from another version")
    assert error.endswith(f"ray job stop --address http://127.0.0.1:8265 {first.id}\n")
    assert server.sent == []
    assert main(["submit", write(tmp_path), *more, "--stage", "report"]) == 0


def test_dry_run_sends_nothing(server: FakeServer, tmp_path: Path, capsys) -> None:
    """Law: one line, the command, whose working_dir is there."""
    assert main(["submit", write(tmp_path), "--dry-run", "--stage", "prepare"]) == 0
    words = shlex.split(capsys.readouterr().out)
    assert words[:3] == ["ray", "job", "submit"]
    assert (Path(words[words.index("--working-dir") + 1]) / "study.yaml").is_file()
    assert server.sent == []


def test_the_line_carries_what_ray_job_needs_to_reach_the_same_server(
    server: FakeServer, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: Ray sends a token only in token mode, and prefers its variables to --address: the line sets both."""
    monkeypatch.setenv("RAY_ADDRESS", "http://elsewhere:1")
    (tmp_path / "home/.ray").mkdir(parents=True)
    (tmp_path / "home/.ray/auth_token").write_text("t")
    assert main(["submit", write(tmp_path), "--dry-run", "--address", "http://here:2/"]) == 0
    line = capsys.readouterr().out
    assert line.startswith("RAY_AUTH_MODE=token RAY_API_SERVER_ADDRESS=http://here:2 ray job submit ")
    assert main(["submit", write(tmp_path), "--dry-run"]) == 0
    assert server.address == "http://elsewhere:1"
    assert capsys.readouterr().out.startswith("RAY_AUTH_MODE=token ray job submit ")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # for `generate`; the dashboard is elsewhere
    assert main(["submit", write(tmp_path), "--dry-run"]) == 0
    assert server.address == "http://127.0.0.1:8265"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--set", "storage=here"], 2, "storage: here is relative"),
        (["--set", "data.train=faces.parquet"], 2, "data.train: faces.parquet is relative"),
        (["--stage", "everything"], 2, "Invalid value for '--stage'"),
    ],
)
def test_what_cannot_work_is_refused_before_a_server_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys, arguments: list[str], code: int, said: str
) -> None:
    """Law: usage and study errors need no cluster."""
    monkeypatch.setattr(ray_jobs, "JobServer", lambda *given: pytest.fail("asked"))
    assert main(["submit", write(tmp_path), *arguments]) == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("address", ["auto", "ray://127.0.0.1:10001", "10.0.0.1:6379", "file:///etc/passwd"])
def test_an_address_that_is_no_dashboards_is_refused(tmp_path: Path, capsys, address: str) -> None:
    """Law: only http(s); Ray would import a module named by another scheme."""
    assert main(["submit", write(tmp_path), "--address", address]) == 1
    assert capsys.readouterr().err == (
        f"error: --address {address}: expected the dashboard's URL, such as http://127.0.0.1:8265\n"
    )


def test_an_address_where_no_one_listens_is_one_line(tmp_path: Path, capsys) -> None:
    """Law: exit code 1, at once, with what to look at."""
    address = f"http://127.0.0.1:{free_port()}"
    assert main(["submit", write(tmp_path), "--address", address]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {address}: no job server can be reached ([Errno 111] Connection refused); ")
    assert "ray dashboard cluster.yaml" in error


@pytest.mark.parametrize("address", ["http://127.0.0.1:82a65", "http://bad host:8265"])
def test_a_url_that_is_none_is_one_line(tmp_path: Path, capsys, address: str) -> None:
    """Law: a port that is no number and a host with a space are reported like a server that is not there."""
    assert main(["submit", write(tmp_path), "--address", address]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {address}: no job server can be reached (")
    assert error.count("\n") == 1


def test_a_port_that_does_not_speak_http_is_one_line(tmp_path: Path, capsys) -> None:
    """Law: a server of another protocol, which greets first, is reported like one that is not there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"220 mail\r\n")
                connection.recv(1000)

        threading.Thread(target=greet, daemon=True).start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert main(["submit", write(tmp_path), "--address", address]) == 1
    assert capsys.readouterr().err.startswith(f"error: {address}: no job server can be reached (220 mail")


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers every request with the status and text of its server."""

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Authorization")))  # type: ignore[attr-defined]
        status, text = self.server.answer  # type: ignore[attr-defined]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *given: Any) -> None:
        """Report nothing."""


@pytest.fixture
def web() -> Iterator[Callable[[int, str], str]]:
    """Return a function: what a web server answers -> its address."""
    pytest.importorskip("ray")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.asked = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def answering(status: int, text: str) -> str:
        server.answer = (status, text)  # type: ignore[attr-defined]
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield answering
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "text", "said"),
    [
        (
            401,
            "Unauthorized: Missing authentication token",
            r"requires a token, and this user has none; .*RAY_AUTH_TOKEN",
        ),
        (403, "Forbidden: Invalid authentication token", r"does not accept this user's token; put the cluster's token"),
        (404, "nothing", r"does not answer as Ray's job server: Version check returned 404"),
        (200, "<html>", r"^http://127\S+: .*Expecting value|does not answer as Ray's job server"),
        (200, "{}", r"does not answer as Ray's job server: 'ray_version'"),
        (200, '{"ray_version": "1.0"}', r"Ray version 1.0 is running on the cluster"),
        (500, "broken", r"500 Server Error"),
    ],
)
def test_a_server_that_cannot_be_used_is_one_line(web, status: int, text: str, said: str) -> None:
    """Law: no token, a wrong one, no Ray, an old Ray, a broken one: a ClusterError of one line each."""
    with pytest.raises(ClusterError, match=said) as refused:
        ray_jobs.JobServer(web(status, text), lambda line: None)
    assert "\n" not in str(refused.value)


class FakeClient:
    """Ray's client, whose log breaks off, and whose server takes no jobs at first."""

    def __init__(self, refusals: list[str]) -> None:
        self.refusals, self.asked = refusals, 0
        self.log, self.status = "one\ntwo\nthree\nfour\n", "RUNNING"

    def submit_job(self, **given: Any) -> str:
        if self.refusals:
            raise RuntimeError(f"Request failed with status code 500: {self.refusals.pop(0)}.")
        return str(given["submission_id"])

    async def tail_job_logs(self, name: str) -> Any:
        self.asked += 1
        if self.asked == 1:
            yield "one\ntw"
            raise RuntimeError("WebSocket connection closed unexpectedly")
        if self.asked == 2:
            yield "one\n"
            yield "two\nthree\n"
            self.status = "FAILED"

    def get_job_info(self, name: str) -> Any:
        if self.asked == 1 and not self.refusals:
            self.refusals = ["once"]
            raise ConnectionError("reset")
        job = {"submission_id": name, "driver_exit_code": 3, "message": None, "metadata": None, "status": self.status}
        return type("Job", (), job)()

    def get_job_logs(self, name: str) -> str:
        return self.log


def connected(client: FakeClient, said: list[str]) -> ray_jobs.JobServer:
    server = object.__new__(ray_jobs.JobServer)
    server.address, server._client, server._report = "http://h:1", client, said.append
    return server


SUBMISSION = Submission(address="http://h:1", id="x-a1", working_dir=Path("/w"), entrypoint=("python",), metadata={})


def test_a_server_without_an_agent_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: `No available agent` passes, and is reported; a name that is taken is no error; anything else is one
    line.
    """
    pytest.importorskip("ray")
    monkeypatch.setattr(ray_jobs, "_AGAIN_S", 0)
    said: list[str] = []
    agentless = "No available agent to submit job, please try again later."
    assert connected(FakeClient([agentless, agentless]), said).submit(SUBMISSION)
    assert len(said) == 2
    assert not connected(FakeClient(["Job with submission_id x-a1 already exists"]), said).submit(SUBMISSION)
    with pytest.raises(ClusterError, match=r"http://h:1 does not accept the job: ValueError: no"):
        connected(FakeClient(["Traceback\n  File\nValueError: no"]), said).submit(SUBMISSION)
    monkeypatch.setattr(ray_jobs, "_PATIENCE_S", -1)
    with pytest.raises(ClusterError, match=r"does not accept the job: .*No available agent"):
        connected(FakeClient([agentless]), said).submit(SUBMISSION)


def test_a_log_that_breaks_off_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: every character once, in order, over a broken connection, an unreachable server, and a lost end."""
    pytest.importorskip("ray")
    monkeypatch.setattr(ray_jobs, "_AGAIN_S", 0)
    shown: list[str] = []
    ended = connected(FakeClient([]), []).follow("x-a1", shown.append)
    assert "".join(shown) == "one\ntwo\nthree\nfour\n"
    assert (ended.status, ended.code) == ("FAILED", 3)


def test_a_connection_that_falls_silent_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: a connection dropped without a word is not waited for; the log goes on where it was."""
    pytest.importorskip("ray")
    monkeypatch.setattr(ray_jobs, "_AGAIN_S", 0)
    monkeypatch.setattr(ray_jobs, "_SILENCE_S", 0.05)

    class Silent(FakeClient):
        async def tail_job_logs(self, name: str) -> Any:
            self.asked += 1
            yield "one\n"
            if self.asked == 1:
                await asyncio.sleep(3600)
            yield "two\n"
            self.log, self.status = "one\ntwo\n", "SUCCEEDED"

        def get_job_info(self, name: str) -> Any:
            self.refusals = ["once"]
            return super().get_job_info(name)

    client, shown = Silent([]), list[str]()
    assert connected(client, []).follow("x-a1", shown.append).status == "SUCCEEDED"
    assert ("".join(shown), client.asked) == ("one\ntwo\n", 2)


def test_a_server_that_goes_with_its_job_has_reported_how_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: once the exit code is known, a log that cannot be had any more does not lose it."""
    pytest.importorskip("ray")
    monkeypatch.setattr(ray_jobs, "_AGAIN_S", 0)

    def gone(name: str) -> str:
        raise ConnectionError("reset")

    client = FakeClient([])
    monkeypatch.setattr(client, "get_job_logs", gone)
    assert connected(client, []).follow("x-a1", lambda text: None).code == 3


def test_a_server_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: not reached for longer than our patience: one line, and how to go on."""
    pytest.importorskip("ray")
    monkeypatch.setattr(ray_jobs, "_AGAIN_S", 0)
    monkeypatch.setattr(ray_jobs, "_PATIENCE_S", -1)
    with pytest.raises(ClusterError, match=r"http://h:1: reset; the job may go on: the same command attaches to it"):
        connected(FakeClient([]), []).follow("x-a1", lambda text: None)


def test_all_does_every_stage_once(tmp_path: Path, capsys) -> None:
    """Law: generate, evaluate, report, each named; again, nothing is left to do, and the page is there."""
    populations = {"retrained": {"method": "train", "on": "retain", "count": 4}}
    file = write(tmp_path, populations=populations, evaluation={"reference": "retrained", "resamples": 10})
    assert main(["all", file, "--backend", "inline"]) == 0
    text = capsys.readouterr().out
    stages = [line for line in text.splitlines() if line.startswith("stage: ")]
    assert stages == ["stage: generate", "stage: evaluate", "stage: report"]
    assert "made 8 runs" in text
    assert text.endswith(f"wrote {tmp_path}/store/tiny/report.html\n")
    assert main(["all", file, "--backend", "inline"]) == 0
    assert "nothing to do: all 8 runs" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["generate", "all"])
def test_options_of_workers_reach_the_driver(tmp_path: Path, capsys, command: str) -> None:
    """Law: both commands that make runs pass them on; here the driver refuses them, so it was asked."""
    on_gpu = ["--set", "execution.device=cuda"]
    for option, named in (
        (["--workers", "2", *on_gpu], "inline with --workers"),
        (["--gpus-per-worker", "0.5"], "--gpus-per-worker"),
    ):
        assert main([command, write(tmp_path), "--backend", "inline", *option]) != 0
        assert named in capsys.readouterr().err


def test_all_judges_what_was_made_next_to_failures(tmp_path: Path, capsys) -> None:
    """Law: runs that fail end it with 3, and the others are scored; without a reference run, it states why not."""
    hot = {"method": "finetune", "lr": 1e9, "epochs": 3, "weight_decay": 1.0}
    settings = {"evaluation": {"reference": "retrained", "resamples": 10}}
    populations = {"retrained": {"method": "train", "on": "retain", "count": 4}, "hot": hot}
    assert main(["all", write(tmp_path, populations=populations, **settings), "--backend", "inline"]) == 3
    captured = capsys.readouterr()
    assert "not made: hot/00000" in captured.out
    assert captured.out.endswith("report.html\n")
    populations = {"retrained": hot | {"method": "train", "on": "retain"}}
    assert main(["all", write(tmp_path, name="bad", populations=populations, **settings), "--backend", "inline"]) == 3
    assert "not scored, because runs failed: " in capsys.readouterr().out.splitlines()[-1]


def test_all_that_cannot_judge_reports_it_though_runs_failed(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law: an error that failed runs do not explain is reported as it is, and ends it with 1, not with 3."""

    def refused(*given: Any) -> None:
        raise StoreError("s3://bucket: cannot write scores.json: access denied")

    monkeypatch.setattr("ray_unlearn.cli.all_._judge", refused)
    hot = {"method": "finetune", "lr": 1e9, "epochs": 3, "weight_decay": 1.0}
    assert main(["all", write(tmp_path, populations={"hot": hot}), "--backend", "inline"]) == 1
    assert capsys.readouterr().out.endswith("\nnot scored: s3://bucket: cannot write scores.json: access denied\n")


def test_all_without_a_reference_only_generates(tmp_path: Path, capsys) -> None:
    """Law: a study with nothing to compare with is whole when its runs are made."""
    assert main(["all", write(tmp_path), "--backend", "inline"]) == 0
    assert capsys.readouterr().out.endswith("the study has no population retrained to compare with\n")
