"""Kills at named points of the store's protocol: who dies (worker, driver, node), and just before, in or after what.

    python tests/stress/faults.py "half a payload" -- generate study.yaml --backend inline   # this driver dies there
    faults.order(folder, "before record", "node")        # the next worker with a chaos_net.py in `folder` obeys

Points: those of a run's publication (before payload, half a payload, before record, after record), and those of the
driver alone (during resume, during compaction, during verify --repair). A kill is SIGKILL: no one tidies up. The
product knows nothing of this file; it takes the store's functions apart in a process that was chosen to die.

Does not cover: random kills from outside (`chaos.py`).
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ray_unlearn.store import disk, filesystem, study_store
from ray_unlearn.store.records import RECORD
from ray_unlearn.store.study_store import StudyStore

PUBLICATION = ("before payload", "half a payload", "before record", "after record")
DRIVER_ALONE = ("during resume", "during compaction", "during verify --repair")
_ORDERS = "orders"
_BAD = "bad_write"  # what an armed process writes with


def order(folder: Path, point: str, victim: str, pid: int = 0) -> Path:
    """Leave an order: at `point` of its publication, a run that finds it kills `victim` (worker, node, driver `pid`).

    Returns:
        The file that appears when it has been carried out.

    """
    orders = folder / _ORDERS
    orders.mkdir(exist_ok=True)
    path = orders / f"{time.monotonic_ns()}.json"
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps({"point": point, "victim": victim, "pid": pid}))
    temporary.rename(path)
    return path.with_suffix(".done")


def obey(folder: Path) -> None:
    """Take one order, where there is one for this process, and prepare to carry it out."""
    if disk._write_synced.__name__ == _BAD:
        return  # it has its order; of two, the second would die with the first
    for path in sorted((folder / _ORDERS).glob("*.json")):
        wanted = json.loads(path.read_text())
        if wanted["victim"] == "node" and _is_head(os.getppid()):
            continue  # the head node holds the cluster together
        try:
            path.rename(path.with_suffix(".taken"))
        except FileNotFoundError:
            continue  # another worker was faster
        arm(wanted["point"], partial(_kill, path.with_suffix(".done"), **wanted))
        return


def arm(point: str, kill: Callable[[], Any]) -> None:
    """Let this process call `kill` when it comes to `point`."""
    if point in PUBLICATION:
        _arm_publication(point, kill)
    elif point == "during resume":
        _after(StudyStore, "compact", kill)
    elif point == "during compaction":
        study_store._WORTH_COMPACTING = 0
        _after(study_store, "encode", lambda: _arm_publication("half a payload", kill))
    elif point == "during verify --repair":
        _after(filesystem.Storage, "remove", kill)  # the record is gone, its payloads are still there
    else:
        raise SystemExit(f"no point {point!r}; expected one of {', '.join((*PUBLICATION, *DRIVER_ALONE))}")


def _arm_publication(point: str, kill: Callable[[], Any]) -> None:
    write, rename = disk._write_synced, disk._rename_folder

    def bad_write(path: Path, data: bytes) -> None:
        record = path.name == RECORD
        if point == ("before record" if record else "before payload"):
            kill()
        if point == "half a payload" and not record:
            write(path, data[: len(data) // 2])
            kill()
        write(path, data)

    def bad_rename(temporary: Path, final: Path, complete: str) -> None:
        rename(temporary, final, complete)
        if point == "after record":
            kill()

    disk._write_synced, disk._rename_folder = bad_write, bad_rename


def _after(owner: Any, name: str, kill: Callable[[], Any]) -> None:
    """Let `kill` follow the function's next return."""
    function = getattr(owner, name)

    def then_kill(*arguments: Any, **named: Any) -> Any:
        result = function(*arguments, **named)
        kill()
        return result

    setattr(owner, name, then_kill)


def _kill(done: Path, point: str, victim: str, pid: int) -> None:
    """Kill, and leave word: a death that no one saw proves nothing."""
    done.write_text(f"{victim} {point}")
    if victim == "driver":
        os.kill(pid, signal.SIGKILL)
        return
    if victim == "node":
        os.kill(os.getppid(), signal.SIGKILL)  # a Ray worker's parent is its node's raylet
    os.kill(os.getpid(), signal.SIGKILL)


def _is_head(raylet: int) -> bool:
    return "__internal_head__" in Path(f"/proc/{raylet}/cmdline").read_text()


def main(arguments: list[str]) -> int:
    """Arm this process, then run the command line in it."""
    from ray_unlearn.cli import main as run

    arm(arguments[0], lambda: os.kill(os.getpid(), signal.SIGKILL))
    return run(arguments[2:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
