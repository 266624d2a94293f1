"""A cluster that `generate` starts is its user's alone: another user of the machine gets nothing from it.

The commands below run as `nobody` where this test runs as root, and as this user, without the token, where it does not.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml
from conftest import TINY, merged

pytest.importorskip("ray")
from ray_unlearn.cluster import backend as ray_backend
from ray_unlearn.cluster import liveness as ray_watch
from ray_unlearn.cluster import local as ray_local
from ray_unlearn.errors import ClusterError, ClusterLost

pytestmark = pytest.mark.ray

NOBODY = 65534
SLOW = """
import time
def slow(net, retain, forget, val):
    time.sleep(600)
"""


def as_nobody(command: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command as a user who has nothing to do with ours."""
    prefix = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if os.getuid() == 0 else []
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    return subprocess.run(
        [*prefix, "sh", "-c", command], capture_output=True, text=True, timeout=60, env=environment, cwd="/"
    )


class Generating:
    """A `generate` in a process of its own, on a cluster that it starts."""

    def __init__(self, folder: Path, temporary: Path) -> None:
        self.home, self.temporary, self.log = folder / "home", temporary, folder / "log"
        self.home.mkdir()
        (folder / "slow.py").write_text(SLOW)
        populations = {"finetune": None, "slow": {"method": "slow.py:slow", "count": 2}}
        study = merged(TINY | {"storage": str(folder / "store")}, {"populations": populations})
        (folder / "study.yaml").write_text(yaml.safe_dump(study))
        environment = os.environ | {"HOME": str(self.home), "RAY_TMPDIR": str(temporary)}
        environment = {k: v for k, v in environment.items() if k not in ("RAY_AUTH_TOKEN", "RAY_ADDRESS")}
        environment["RAY_AUTH_MODE"] = "disabled"  # of someone's other cluster: ours has a token all the same
        file = str(folder / "study.yaml")
        command = [sys.executable, "-m", "ray_unlearn.cli", "generate", file, "--backend", "ray", "--workers", "1"]
        self._output = self.log.open("w")
        self.process = subprocess.Popen(command, env=environment, stdout=self._output, stderr=self._output)

    @property
    def said(self) -> str:
        return self.log.read_text()

    def wait_for(self, text: str, limit_s: float = 120.0) -> None:
        """Wait until it has reported something."""
        end = time.monotonic() + limit_s
        while text not in self.said:
            assert time.monotonic() < end, self.said
            assert self.process.poll() is None, self.said
            time.sleep(0.1)

    @property
    def session(self) -> Path:
        """Ray's session folder."""
        return next(self.temporary.glob("ru-*/*/session_2*"))

    def processes(self) -> dict[int, list[str]]:
        """Return the command lines of Ray's processes of this cluster, and of its workers, by pid."""
        import psutil  # Ray brings its own

        found = {}
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended; a zombie is one of them
                found[child.pid] = child.cmdline()
        return found

    def pid_of(self, name: str) -> int:
        return next(pid for pid, words in self.processes().items() if name in words[0])

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._output.close()


@contextmanager
def open_folder() -> Iterator[Path]:
    """Yield a folder with a name that is short enough for sockets, and that everybody may enter, as /tmp."""
    folder = Path(tempfile.mkdtemp(prefix="h3", dir="/tmp"))
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder for the test alone."""
    with open_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Generating]]:
    """Return a function: the process of Ray that a test will kill -> a driver at work, started when first asked for."""
    with ExitStack() as stack:

        @functools.cache
        def driver(victim: str) -> Generating:
            started = Generating(tmp_path_factory.mktemp(victim), stack.enter_context(open_folder()))
            stack.callback(started.close)
            return started

        yield driver


def listening(pids: set[int]) -> dict[str, int]:
    """Return address:port -> pid for every TCP port on which the processes listen."""
    inodes = {}
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                found = re.fullmatch(r"socket:\[(\d+)\]", str(descriptor.readlink()))
            except OSError:
                continue
            if found:
                inodes[found[1]] = pid
    ports = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                ports[fields[1]] = inodes[fields[9]]
    return ports


LOOPBACK = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="looks at Linux's /proc")
@pytest.mark.timeout(300)
def test_another_user_gets_nothing(drivers: Callable[[str], Generating]) -> None:
    """Law: there is no token file; no other user enters the session folder, reads a process's environment, or submits a
    job. Every port is on loopback. Those that answer without a token give metrics, and nothing else.
    """
    generating = drivers("raylet")
    temporary = generating.temporary
    generating.wait_for("worker ready")
    assert list(generating.home.rglob("auth_token")) == []
    parent = generating.session.parents[1]
    assert stat.S_IMODE(parent.stat().st_mode) == 0o700
    assert parent.parent == generating.temporary, "RAY_TMPDIR was not respected"
    ours = {*generating.processes(), generating.process.pid}
    assert len(ours) > 4
    ports = listening(ours)
    assert len(ports) > 5
    assert [where for where in ports if where.split(":")[0] not in LOOPBACK] == []
    numbers = sorted({int(where.split(":")[1], 16) for where in ports})
    agent = int(next(generating.session.glob("dashboard_agent_listen_port_*")).read_text())
    assert agent in numbers or agent == -1, "of -1, another cluster of this machine has the port"

    if os.getuid() == 0:
        for command in (
            f"ls {generating.session}",
            f"cat {generating.session}/logs/*",
            f"cat /proc/{generating.process.pid}/environ",
            f"cat /proc/{generating.pid_of('raylet')}/environ",
        ):
            refused = as_nobody(command)
            assert refused.returncode != 0, command
            assert "denied" in refused.stderr, refused.stderr

    done = temporary / "pwned"
    job = json.dumps({"entrypoint": f"touch {done}", "submission_id": "x"})
    post = f"""
        def ask(port):
            for where in ("/api/job_agent/jobs/", "/api/jobs/"):
                for headers in ({{}}, {{"Authorization": "Bearer 0"}}):
                    client = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                    try:
                        client.request("POST", where, {job!r}, headers | {{"Content-Type": "application/json"}})
                        yield port, client.getresponse().status
                    except Exception as error:
                        yield port, type(error).__name__
    """
    answers = answers_to_nobody(temporary / "post.py", post, numbers)
    assert len(answers) == 4 * len(numbers)
    assert [line.split()[1] for line in answers if line.split()[0] == str(agent)] in (["401", "403"] * 2, [])
    assert not done.exists()

    get = """
        def ask(port):
            try:
                client = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                client.request("GET", "/metrics")
                answer = client.getresponse()
                yield port, answer.status, answer.getheader("Content-Type")
            except Exception as error:
                yield port, type(error).__name__
    """
    answers = answers_to_nobody(temporary / "get.py", get, numbers)
    assert len(answers) == len(numbers)
    open_to_all = [line for line in answers if " 200 " in line]
    assert len(open_to_all) <= 3
    assert all("text/plain" in line for line in open_to_all), answers


def answers_to_nobody(script: Path, ask: str, ports: list[int]) -> list[str]:
    """Return the lines of `ask`, a function in `script`, for every port; all are asked at once: some never answer."""
    each = f"""
        with concurrent.futures.ThreadPoolExecutor({len(ports)}) as pool:
            for lines in pool.map(lambda port: list(ask(port)), {ports}):
                for line in lines:
                    print(*line)
    """
    script.write_text("import concurrent.futures\nimport http.client\n" + textwrap.dedent(ask) + textwrap.dedent(each))
    script.chmod(0o644)
    return as_nobody(f"{python()} {script}").stdout.splitlines()


def python() -> str:
    """Return a Python that everybody may execute: this one may be in a private folder."""
    return next(
        (found for found in ("/usr/bin/python3", "/usr/local/bin/python3") if Path(found).exists()), sys.executable
    )


@pytest.mark.parametrize("what", ["raylet", pytest.param("gcs_server", marks=pytest.mark.long)])
@pytest.mark.timeout(300)
def test_ray_dies(drivers: Callable[[str], Generating], what: str) -> None:
    """Law: where Ray's own processes die, the driver reports it in one line within seconds, ends its event log, and has
    exit code 3.
    """
    generating = drivers(what)
    generating.wait_for("worker ready")
    time.sleep(1.0)
    killed = time.monotonic()
    os.kill(generating.pid_of(what), signal.SIGKILL)
    code = generating.process.wait(30)
    took_s = time.monotonic() - killed
    lines = [line for line in generating.said.splitlines() if line.startswith("error: Ray is gone: its ")]
    assert code == 3, generating.said
    assert len(lines) == 1, generating.said
    assert lines[0].endswith("nothing is lost: the same command makes what is missing")
    assert "Traceback" not in generating.said
    assert took_s < 25.0
    events = "".join(path.read_text() for path in (generating.home.parent / "store/tiny/events").iterdir())
    last = json.loads(events.splitlines()[-1])
    assert (last["event"], last["why"]) == ("broken off", "ClusterLost")


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_signal_leaves_no_folder(drivers: Callable[[str], Generating]) -> None:
    """Law: SIGTERM ends the driver with 143, and with its cluster goes the cluster's folder."""
    generating = drivers("nothing")
    generating.wait_for("worker ready")
    parent = generating.session.parents[1]
    generating.close()
    assert generating.process.returncode == 143, generating.said
    assert list(parent.iterdir()) == []


def test_folders_of_dead_processes_go(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: the next start removes what a killed process left, and nothing of a process that lives."""
    monkeypatch.setenv("RAY_TMPDIR", str(temporary))
    code = "from ray_unlearn.cluster.local import _Folder; f = _Folder.make(); print(f.path, flush=True); input()"
    lives, dies = (
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    )
    paths = [Path(one.stdout.readline().strip()) for one in (lives, dies) if one.stdout]
    for path in paths:
        (path / "session_x").mkdir()
    dies.kill()
    dies.communicate()
    mine = ray_local._Folder.make()
    assert sorted(paths[0].parent.iterdir()) == sorted([paths[0], mine.path])
    mine.leave(remove=True)
    lives.communicate("\n")
    assert not mine.path.exists()
    assert paths[0].exists()


def test_a_folder_of_someone_else_is_refused(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: a link, another user's folder, or a path that no socket's name fits into, is one line; our modes are set."""
    monkeypatch.setenv("RAY_TMPDIR", str(temporary))
    place = temporary / f"ru-{os.getuid()}"
    (temporary / "theirs").mkdir()
    place.symlink_to(temporary / "theirs")
    with pytest.raises(ClusterError, match="expected a folder of this user's"):
        ray_local._Folder.make()
    place.unlink()
    place.mkdir()
    place.chmod(0o777)
    ray_local._Folder.make().leave(remove=True)
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    if os.getuid() == 0:
        os.chown(place, NOBODY, NOBODY)
        with pytest.raises(ClusterError, match="another user's"):
            ray_local._Folder.make()
    monkeypatch.setenv("RAY_TMPDIR", str(temporary / ("x" * 60)))
    with pytest.raises(ClusterError, match=r"RAY_TMPDIR: .* bytes too long for Ray's sockets"):
        ray_local._Folder.make()


class _Ray:
    """A Ray that times out while it starts, so many times."""

    def __init__(self, times: int) -> None:
        self.left, self.inits, self.shutdowns = times, 0, 0

    def init(self, **_: object) -> None:
        self.inits += 1
        self.left -= 1
        if self.left >= 0:
            raise Exception("The current node timed out during startup. This could happen because ...")

    def shutdown(self) -> None:
        self.shutdowns += 1


@pytest.mark.parametrize(("times", "inits"), [(0, 1), (1, 2), (2, 2)])
def test_a_start_that_times_out_is_tried_once_more(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, times: int, inits: int
) -> None:
    """Law: one more start, reported in a line; the second failure is the command's one line. Nothing is left behind."""
    monkeypatch.setenv("RAY_TMPDIR", str(temporary))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    fake, said = _Ray(times), list[str]()
    monkeypatch.setattr(ray_local, "ray", fake)
    cluster = ray_local.LocalCluster()
    if times == 2:
        with pytest.raises(Exception, match="timed out during startup"):
            cluster.start(said.append)
    else:
        cluster.start(said.append)
        assert cluster.folder is not None
        assert cluster.folder.is_dir()
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
        assert "RAY_AUTH_MODE" not in os.environ, "Ray turns the token on where the mode is not set"
    cluster.end()
    assert fake.inits == inits
    assert len(said) == min(times, 1)
    assert "RAY_AUTH_TOKEN" not in os.environ
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    assert list(temporary.glob("ru-*/*")) == []


def test_the_backend_words_a_start_that_fails(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: two starts that time out are one `ClusterError`."""
    monkeypatch.setenv("RAY_TMPDIR", str(temporary))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_local, "ray", _Ray(2))
    monkeypatch.setattr(ray_backend.ray, "is_initialized", lambda: False)
    backend = ray_backend.RayBackend(address=None, workers=None, log=lambda _: None)
    with pytest.raises(ClusterError, match=r"Ray at local: cannot connect: The current node timed out during startup"):
        backend.connect()
    backend.close()


class _Node:
    """What a driver knows of its node."""

    def __init__(self, raylet: Path, gcs: str, dead: list[tuple[str, object]] | None = None) -> None:
        self.raylet_socket_name, self.gcs_address, self._dead = str(raylet), gcs, dead or []

    def dead_processes(self) -> list[tuple[str, object]]:
        return self._dead


def test_a_joined_cluster_that_dies_is_noticed(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: a raylet is dead where no one answers at its socket; a GCS where its port is refused for some time."""
    import socket

    with socket.socket(socket.AF_UNIX) as raylet, socket.socket() as gcs:
        raylet.bind(str(temporary / "raylet"))
        raylet.listen()
        gcs.bind(("127.0.0.1", 0))
        gcs.listen()
        node = _Node(temporary / "raylet", f"127.0.0.1:{gcs.getsockname()[1]}")
        monkeypatch.setattr(ray_watch.ray_worker, "_global_node", node)
        monkeypatch.setattr(ray_watch, "_GCS_S", 0.0)
        watch = ray_watch.RayWatch(local=False, log=lambda _: None)
        watch.stop()
        watch.check()
        assert watch._dead_gcs() == ""
        gcs.close()
        assert "has not answered" in watch._dead_gcs()
        raylet.close()
        with pytest.raises(ClusterLost, match="its raylet on this machine has died; nothing is lost"):
            watch.check()


def test_workers_share_the_environment_of_uv_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: where `uv run` started the driver, workers get no environment of their own, unless the user asks for one."""
    from ray._private import ray_constants, worker
    from ray._private.runtime_env import uv_runtime_env_hook

    monkeypatch.setattr(uv_runtime_env_hook, "_get_uv_run_cmdline", lambda: ["uv", "run", "--no-sync", "x"])
    monkeypatch.setattr(ray_constants, "RAY_ENABLE_UV_RUN_RUNTIME_ENV", True)
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "1")
    monkeypatch.setattr(ray_backend.RayBackend, "_init", lambda *_: None)
    backend = ray_backend.RayBackend(address=None, workers=None)
    backend._join()
    assert "py_executable" in worker._maybe_modify_runtime_env({}, False)
    monkeypatch.delenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV")
    backend._join()
    assert worker._maybe_modify_runtime_env({}, False) == {}


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(200)
def test_a_study_is_made_under_uv_run(tmp_path: Path) -> None:
    """Law: `uv run` starts the driver, and its workers start within its environment."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(TINY | {"storage": str(tmp_path / "store")}))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ENABLE_UV_RUN_RUNTIME_ENV"}
    command = [uv, "run", "--no-sync", "ray-unlearn", "generate", str(study), "--backend", "ray", "--workers", "1"]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    assert "made 4 runs" in done.stdout
