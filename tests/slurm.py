"""A Slurm of one node on loopback, in a folder: munged, slurmctld and slurmd of this machine's packages.

    with slurm(folder) as cluster:
        job = cluster.submit("array.sbatch", "study.yaml")
        cluster.wait(job)

Needs root, and Debian's packages munge, slurmctld, slurmd and slurm-client. What it starts is ended by process id.

Does not cover: accounting, cgroups, several nodes.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from waiting import free_port, until, which

_NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue")
_CONF = """\
ClusterName=t
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=1,sched_interval=5
ReturnToService=2
KillWait=30
MailProg=/bin/true
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=8000 State=UNKNOWN
PartitionName=p Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Return why no Slurm can be started here; empty if one can."""
    absent = [name for name in _NEEDED if not which(name)]
    if absent:
        return f"no Slurm on this machine (absent: {', '.join(absent)})"
    return "" if os.geteuid() == 0 else "a Slurm of one's own needs root"


class Slurm:
    """A running Slurm."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.environment = folder, os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start the daemons, and wait for the node."""
        for name in ("state", "spool", "munge"):
            (self.folder / name).mkdir(mode=0o755)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        for path in (self.folder / "munge", key):
            shutil.chown(path, "munge", "munge")
        socket_file = self.folder / "munge" / "socket"
        munge = [f"--socket={socket_file}", f"--key-file={key}", f"--pid-file={self.folder}/munge/pid"]
        munge += [f"--log-file={self.folder}/munge/log", f"--seed-file={self.folder}/munge/seed", "--force"]
        self._start("runuser", "-u", "munge", "--", which("munged"), "--foreground", *munge)
        conf = _CONF.format(host=_host(), folder=self.folder, ports=[free_port(), free_port()])
        (self.folder / "slurm.conf").write_text(conf)
        until(socket_file.exists, 20)
        self._start(which("slurmctld"), "-D", "-f", str(self.folder / "slurm.conf"))
        self._start(which("slurmd"), "-D", "-f", str(self.folder / "slurm.conf"))
        try:
            until(lambda: self.says("sinfo", "-h", "-o", "%T", check=False) == "idle", 60)
        except AssertionError:
            logs = [path.read_text() for path in sorted(self.folder.glob("*.log"))]
            raise AssertionError("\n".join(logs)[-3000:]) from None

    def _start(self, *command: str) -> None:
        with (self.folder / "daemons.log").open("ab") as log:
            self._daemons.append(
                subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)
            )

    def says(self, *command: str, check: bool = True, **how: str) -> str:
        """Return what a client prints."""
        done = subprocess.run(
            command, env=self.environment | how, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout.strip()

    def submit(self, *words: str, cwd: Path) -> str:
        """Submit a batch script; return the job's number."""
        done = subprocess.run(
            ["sbatch", "--parsable", *words], env=self.environment, cwd=cwd, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def states(self, job: str) -> list[str]:
        """Return the state of every task of a job."""
        shown = self.says("scontrol", "show", "job", job, "--oneliner", check=False)
        return [word.removeprefix("JobState=") for word in shown.split() if word.startswith("JobState=")]

    def wait(self, job: str, timeout_s: float = 240.0) -> list[str]:
        """Return the states of a job's tasks, once none waits or runs."""
        until(lambda: not {*self.states(job)} & {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING"}, timeout_s)
        return self.states(job)

    def end(self) -> None:
        """End every job, then the daemons."""
        with suppress(AssertionError, subprocess.TimeoutExpired):
            self.says("scancel", "--full", "--user=root", check=False)
            until(lambda: not self.says("squeue", "-h", check=False), 60)
        for daemon in reversed(self._daemons):
            with suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGTERM)
        for daemon in self._daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(daemon.pid, signal.SIGKILL)


@contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """Start a Slurm in a folder with a short path, and end it."""
    cluster = Slurm(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.end()


def _host() -> str:
    return socket.gethostname().partition(".")[0]
