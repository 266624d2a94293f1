"""Kill workers, drivers and nodes at random for some minutes; then compare with a study that no one disturbed.

    uv run python tests/stress/chaos.py --minutes 10 --seed 0                  # 171 to 200 kills on 2 cores
    uv run python tests/stress/chaos.py --minutes 2 --seed 7 --kills 100 --folder /tmp/chaos  # 100 at least

Starts a Ray cluster of three nodes on this machine (the head runs no workers; a token guards the ports), lets
`ray-unlearn generate` make a study on it, and kills: workers and drivers from outside at random moments, nodes, and any
of the three at a named point of a run's publication (`faults.py`). A driver that died is started again; a study that is
finished grows. Ray itself loses some calls and replies. In the end the driver runs undisturbed, everything is verified,
and the bytes are compared with the same study made inline. Prints kills by victim and point, runs, lost, corrupt, bytes
equal, and how many calls Ray states that it lost; exit code 1 where anything was lost or differs, or Ray lost no call.
It kills for `--minutes`, and on until there were `--kills`; start, end and comparison are a minute or two in
addition. How far it is goes to stderr, every 15 s while it kills.

Needs no GPU and no data. Ends only processes that it started.
"""

import argparse
import json
import os
import random
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import faults
from chaos_study import BATCH, Study

from ray_unlearn.store import StudyStore, open_storage
from ray_unlearn.store.verify import verify
from ray_unlearn.wording import plural

NODE: dict[str, Any] = {"object_store_memory": 100 * 2**20}
_GAVE_UP = "workers in a row could not start"
_LAST_DRIVER_S = 1200.0  # undisturbed it makes at most what is left of a batch
_EVERY_S = 15.0  # between lines about how far it is
_RPC_FAILURES = {  # Ray's own injection: calls of actors whose request or reply is lost
    "CoreWorkerService.grpc_client.PushTask": {
        "num_failures": 20,
        "req_failure_prob": 5,
        "resp_failure_prob": 5,
        "in_flight_failure_prob": 0,
    }
}


class Chaos:
    """A cluster, a driver on it, and a source of misfortune."""

    def __init__(self, study: Study, seed: int, log: Any) -> None:
        from ray.cluster_utils import Cluster  # Ray reads its settings when it is imported: after `_guard`

        self.study, self.random, self.log = study, random.Random(seed), log  # noqa: S311 - no secret
        head = {"num_cpus": 0, "include_dashboard": False, **NODE}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        started: Any = self.cluster.head_node  # typed as if there were none
        self.logs = Path(started.get_logs_dir_path())
        self.nodes = [self.cluster.add_node(num_cpus=1, **NODE) for _ in range(2)]
        self.kills: Counter[str] = Counter()
        self.gave_up = 0
        self.ordered: list[Path] = []
        self.driver = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Start a driver."""
        command = [sys.executable, "-m", "ray_unlearn.cli", "generate", str(self.study.write())]
        return subprocess.Popen([*command, "--address", self.cluster.address], stdout=self.log, stderr=self.log)

    def step(self) -> None:
        """Let one misfortune happen, and put in place what it needs to go on."""
        code = self.driver.poll()
        if code is not None:
            if code == 0:
                self.study.count += BATCH
            elif code == 1 and self.had_no_nodes():
                self.gave_up += 1  # as it should; the same command goes on
            elif code != -signal.SIGKILL:
                raise SystemExit(f"the driver ended with {code}; see {self.log.name}")
            self.driver = self.start()
        self.replace_nodes()
        victim = self.random.choices(("worker", "node", "driver"), (6, 2, 2))[0]
        if self.random.random() < 0.4:
            self.order(victim)
        elif getattr(self, f"kill_{victim}")():
            self.kills[f"{victim}, at random"] += 1
        time.sleep(self.random.uniform(0.2, 2.0))

    def had_no_nodes(self) -> bool:
        """Return whether the driver gave up for want of workers while no node was there that could have had one."""
        alive = any(process.poll() is None for node in self.nodes for process in _processes(node))
        return not alive and _GAVE_UP in Path(self.log.name).read_text().rstrip().rpartition("\n")[2]

    def order(self, victim: str) -> None:
        """Have someone die at a named point; one order at a time, so that a driver's pid is still its own."""
        if not self.ordered or self.ordered[-1].exists():
            point = self.random.choice(faults.PUBLICATION)
            self.ordered.append(faults.order(self.study.folder, point, victim, self.driver.pid))

    def kill_worker(self) -> bool:
        """Kill one of the actors."""
        raylets = [process.pid for node in self.nodes for process in _processes(node)]
        actors = [pid for pid in _children(raylets) if "ray::" in _command(pid) and "IDLE" not in _command(pid)]
        return _kill(self.random.choice(actors)) if actors else False

    def kill_driver(self) -> bool:
        """Kill the driver."""
        return _kill(self.driver.pid)

    def kill_node(self) -> bool:
        """Kill a node's raylet; its workers follow."""
        return any(_kill(process.pid) for process in _processes(self.random.choice(self.nodes)))

    def replace_nodes(self) -> None:
        """Let a new node join for every one that died."""
        for node in [n for n in self.nodes if any(p.poll() is not None for p in _processes(n))]:
            self.nodes.remove(node)
            self.cluster.remove_node(node, allow_graceful=False)
            self.nodes.append(self.cluster.add_node(num_cpus=1, **NODE))

    def finish(self) -> None:
        """Disturb nothing any more, and let the driver come to its end."""
        for path in (self.study.folder / "orders").glob("*.json"):
            path.unlink()
        for _ in range(5):  # an order that was taken already may still be carried out
            if self.driver.wait(_LAST_DRIVER_S) in (0, 3):  # or an error: it hangs
                break
            self.replace_nodes()
            self.driver = self.start()

    def died(self) -> Counter[str]:
        """Return how many were killed so far, by victim and point."""
        done = [path.read_text().partition(" ") for path in self.ordered if path.exists()]
        return self.kills + Counter(f"{victim}, {point}" for victim, _, point in done if point)  # else half written


def lost_calls(logs: Path) -> Counter[str]:
    """Return what Ray states in its logs of the calls that it lost on purpose, by kind; an injection may not take."""
    found: Counter[str] = Counter()
    for path in (*logs.glob("python-core-*.log"), *logs.glob("gcs_server*.out")):  # anyone who calls actors
        with path.open(errors="replace") as lines:
            found.update(said[1] for line in lines if (said := re.search(r"Inject RPC (.+?) failure", line)))
    return found


def disturb(chaos: Chaos, minutes: float, kills: int) -> set[Path]:
    """Let misfortunes happen for so long, and until there were so many kills; return the records that were lost."""
    begun = said = time.monotonic()
    lost = set[Path]()
    while time.monotonic() - begun < 60 * minutes or chaos.died().total() < kills:
        chaos.step()
        lost |= chaos.study.lost()
        if time.monotonic() - said >= _EVERY_S:
            said = time.monotonic()
            _tell(progress((said - begun) / 60, chaos.died(), len(chaos.study.seen)))
    return lost


def progress(minutes: float, died: Counter[str], runs: int) -> str:
    """Return a line: minutes, kills by victim, runs that are recorded."""
    victims: Counter[str] = Counter()
    for name, count in died.items():
        victims[name.partition(",")[0]] += count
    by = ", ".join(plural(count, victim) for victim, count in sorted(victims.items())) or "none"
    return f"{minutes:.1f} min: {plural(died.total(), 'kill')} ({by}), {plural(runs, 'run')} made"


def _tell(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _guard(home: Path) -> None:
    """Let Ray ask for a token of this run's own."""
    (home / ".ray").mkdir(mode=0o700)
    (home / ".ray/auth_token").write_text(secrets.token_hex(32))
    os.environ |= {"HOME": str(home), "RAY_AUTH_MODE": "token", "RAY_testing_rpc_failure": json.dumps(_RPC_FAILURES)}


def _processes(node: Any) -> list[Any]:
    return [info.process for info in node.all_processes["raylet"]]


def _children(parents: list[int]) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[1]) in parents:
                found.append(int(path.parent.name))
        except (OSError, ValueError):
            continue
    return sorted(found)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def compare(study: Study, folder: Path) -> dict[str, Any]:
    """Make the same study undisturbed, and state what differs."""
    store = StudyStore(open_storage(str(study.folder / "store")), "chaos")
    checked = verify(store, store.populations())
    twin = Study(folder)
    twin.count = study.count
    command = [sys.executable, "-m", "ray_unlearn.cli", "generate", str(twin.write()), "--backend", "inline"]
    subprocess.run(command, check=True, capture_output=True)
    return {
        "runs": checked.runs,
        "planned": study.count + 1,
        "lost": len(study.lost()),
        "corrupt": len(checked.problems),
        "bytes equal": study.payloads() == twin.payloads(),
    }


def parse() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="how long to kill")
    parser.add_argument("--kills", type=int, default=0, help="go on until there were so many")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of victims and moments")
    parser.add_argument("--folder", type=Path, help="where to work; default a temporary folder that is removed")
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser.parse_args()


def main() -> int:
    """Run, compare, print."""
    options = parse()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        _guard(Path(temporary))
        study = Study(folder / "disturbed")
        with (folder / "driver.log").open("wb") as log:
            chaos = Chaos(study, options.seed, log)
            begun = time.monotonic()
            try:
                lost = disturb(chaos, options.minutes, options.kills)
                _tell("no more kills: the driver makes the rest, then the same study is made undisturbed and compared")
                chaos.finish()
            finally:
                _kill(chaos.driver.pid)
                chaos.cluster.shutdown()  # type: ignore[no-untyped-call]
        lost_by_ray, died = lost_calls(chaos.logs), chaos.died()
        minutes = (time.monotonic() - begun) / 60
        found = compare(study, folder / "undisturbed")
    found |= {"lost": len(lost) or found["lost"], "minutes": round(minutes, 1), "seed": options.seed}
    found["calls that Ray lost"] = dict(sorted(lost_by_ray.items()))
    found["drivers that gave up without nodes"] = chaos.gave_up
    found["kills"] = dict(sorted(died.items()))
    found["kills in all"] = died.total()
    for name, value in found.items():
        sys.stdout.write(f"{name}: {value}\n")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    whole = found["runs"] == found["planned"] and not found["lost"] and not found["corrupt"] and found["bytes equal"]
    return 0 if whole and lost_by_ray else 1


if __name__ == "__main__":
    sys.exit(main())
