"""Machines on this one that a launcher may treat as its own: processes, network, /tmp, home and host name for each.

    with hosts(3, folder) as (laptop, head, worker):
        for host in (head, worker):
            host.serve_ssh()
        laptop.sh("ray up -y cluster.yaml")      # a login shell of that host, with its own ~
        worker.power_off()                       # every process there is gone at once

`ray up` and `ray down` end every Ray process that they see; here they see those of one host. Every host has the same
user (root, with another home), the interpreter of the tests in an environment of its own, `~/env`, and the folder that
`shared` names at /mnt/studies, which stands for a network file system.

Needs root, `ip`, `nsenter`, `sshd` and `rsync` (Debian's openssh-server and rsync).

Does not cover: CPUs and memory, which all of them share; docker.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import machines
from waiting import until, which

HOME = "/mnt/home"
STUDIES = "/mnt/studies"
_SSHD = """\
HostKey {home}/.ssh/host_key
AuthorizedKeysFile {home}/.ssh/authorized_keys
PidFile none
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
AcceptEnv LANG
"""
_PROFILE = """\
export PATH={home}/env/bin:$PATH PIP_CONFIG_FILE=/dev/null PIP_NO_INDEX=1 PIP_NO_BUILD_ISOLATION=false
export RAY_USAGE_STATS_ENABLED=0 OMP_NUM_THREADS=1
"""
_RAY = """\
#!{home}/env/bin/python
import sys
from ray.scripts.scripts import main
sys.exit(main())
"""
_FIRST = """\
set -e
hostname {name}
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /mnt
mkdir -p /run/sshd {home} {studies}
mount --bind {own} {home}
mount --bind {shared} {studies}
mount --bind {passwd} /etc/passwd
mount --bind {tmp} /tmp
touch {home}/.up
sleep infinity & wait
"""  # a shell, because the first process must take note of the ends of all that lose their parents


def missing() -> str:
    """Return why no such host can be made here; empty if one can."""
    absent = [name for name in ("sshd", "ssh", "ssh-keygen", "rsync") if not which(name)]
    if absent:
        return f"needs Debian's openssh-server and rsync (absent: {', '.join(absent)})"
    made = machines.possible() and subprocess.run(["unshare", "-p", "-u", "-f", "true"], check=False).returncode == 0
    return "" if made else "needs root, ip and nsenter, to make namespaces"


@dataclass(frozen=True, slots=True)
class Running:
    """A script that runs on a host."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    @property
    def said(self) -> str:
        """All that it has printed so far."""
        return self.log.read_text()


class Host(machines.Machine):
    """One of them."""

    def __init__(self, number: int, folder: Path, shared: Path) -> None:
        super().__init__(number, folder)
        self.home = folder / f"home{number}"
        """Its ~, as this process sees it."""
        self.home.mkdir()
        passwd = folder / f"passwd{number}"
        lines = Path("/etc/passwd").read_text().splitlines()
        users = [f"root:x:0:0:root:{HOME}:/bin/bash", *(line for line in lines if not line.startswith("root:"))]
        passwd.write_text("\n".join(users) + "\n")
        machines.ip("-n", self.name, "route", "add", "default", "via", machines.gateway())  # it leads nowhere
        where = {"tmp": self.folder, "own": self.home, "shared": shared, "passwd": passwd}
        first = _FIRST.format(name=f"host{number}", home=HOME, studies=STUDIES, **where)
        enter = ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self.name]  # all ends with this process
        enter += ["unshare", "-m", "-u", "-p", "-f", "--mount-proc", "--kill-child"]
        self._unshare = subprocess.Popen([*enter, "bash", "-c", first], cwd="/", stderr=subprocess.DEVNULL)
        until((self.home / ".up").exists)
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        self._inside = children.read_text().strip()
        """Id, out here, of its first process."""

    def command(self, script: str) -> list[str]:
        """Return the command line of a login shell there that runs a script."""
        enter = ["nsenter", "-t", self._inside, "-m", "-u", "-n", "-p"]
        clean = ["env", "-i", f"HOME={HOME}", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "USER=root", "TERM=dumb"]
        return [*enter, *clean, "bash", "-c", f"cd; . ~/.bashrc 2> /dev/null; {script}"]

    def sh(self, script: str, timeout_s: float = 300.0) -> subprocess.CompletedProcess[str]:
        """Run a script there, in its home; return its exit code and what it printed."""
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.run(self.command(script), text=True, check=False, cwd="/", timeout=timeout_s, **pipe)

    def says(self, script: str, timeout_s: float = 300.0) -> str:
        """Return what a script prints there; fail if its exit code is not 0."""
        done = self.sh(script, timeout_s)
        assert done.returncode == 0, f"{script}: exit code {done.returncode}\n{done.stdout}"
        return done.stdout

    @contextmanager
    def running(self, script: str) -> Iterator[Running]:
        """Run a script there meanwhile, and end it."""
        log = self.home / f"log{len(list(self.home.glob('log*')))}"
        with log.open("wb") as file:
            process = subprocess.Popen(self.command(script), cwd="/", stdout=file, stderr=file)
        try:
            yield Running(process, log)
        finally:
            process.kill()
            process.wait()

    def serve_ssh(self) -> None:
        """Start its ssh server; it admits the key of `hosts`."""
        (self.home / ".ssh/sshd_config").write_text(_SSHD.format(home=HOME))
        self.says("ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/host_key")
        self.says(f"{which('sshd')} -f ~/.ssh/sshd_config -E ~/.ssh/sshd.log")

    def processes(self, name: str) -> list[str]:
        """Return the command lines there that contain a name."""
        listed = self.sh("ps -eo args --no-headers").stdout.splitlines()
        return [line for line in listed if name in line and "ps -eo" not in line]

    def power_off(self) -> None:
        """Kill every process there at once, as a cut of the power does, and take its network away."""
        self.unplug()
        os.kill(int(self._inside), signal.SIGKILL)  # the first process of a namespace takes all others with it
        self._unshare.wait()

    def end(self) -> None:
        """Kill what runs there, and remove its network."""
        self._unshare.kill()  # --kill-child
        self._unshare.wait()
        super().end()


def _environment(host: Host) -> None:
    """Give a host `~/env`: an interpreter of its own that sees the packages of the tests, and installs into itself."""
    (host.home / ".bashrc").write_text(_PROFILE.format(home=HOME))
    host.says(f"{sys.executable} -m venv ~/env")
    packages = next((host.home / "env/lib").glob("python*")) / "site-packages"
    for old in packages.glob("setuptools*"):  # older than torch asks for, and in front of the one there
        shutil.rmtree(old)
    # A path in a .pth file brings the packages there, and not what their own .pth files add: no editable ray_unlearn.
    (packages / "tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    ray = host.home / "env/bin/ray"
    ray.write_text(_RAY.format(home=HOME))
    ray.chmod(0o755)


@contextmanager
def hosts(count: int, folder: Path, shared: Path) -> Iterator[list[Host]]:
    """Make hosts on one network; the first holds the key that opens the others."""
    made: list[Host] = []
    with machines.network():
        try:
            for number in range(count):
                made.append(Host(number, folder, shared))
                (made[-1].home / ".ssh").mkdir(mode=0o700)
                if number:
                    shutil.copytree(made[0].home / "env", made[-1].home / "env", symlinks=True)
                    shutil.copy(made[0].home / ".bashrc", made[-1].home / ".bashrc")
                else:
                    _environment(made[0])
                    made[0].says("ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519")
                shutil.copy(made[0].home / ".ssh/id_ed25519.pub", made[-1].home / ".ssh/authorized_keys")
            yield made
        finally:
            for host in made:
                host.end()
