"""One case of one kind: set up, run, and judged: refused, accepted, or a violation.

    verdict = judge("parquet", "7/parquet/123", root, template)
    verdict.outcome, verdict.why

A violation is anything but exit code 0 to 3 with at most one `error:` line, a traceback, a file changed outside the
storage, more seconds or more memory than stated.

Does not cover: crashes and hangs, which only another process can see (`fuzz`).
"""

import contextlib
import io
import os
import resource
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

from fuzz_bench import Attack, Bench
from fuzz_kinds import KINDS

from ray_unlearn.cli import main
from ray_unlearn.errors import RayUnlearnError

SECONDS = 30.0
"""CPU time of one command in all its threads: machines are shared. Who waits for nothing at all is found by `fuzz`."""
MEMORY_GIB = 1.0
"""Growth of the process's resident memory during one command."""

Outcome = Literal["refused", "accepted", "violation"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one case."""

    outcome: Outcome
    why: str = ""
    """Of a violation: what happened, with the traceback where there is one."""


def judge(kind: str, seed: str, root: Path, template: Path) -> Verdict:
    """Set one case up below `root` and run its commands."""
    return judge_with(kind, Random(seed), root, template)  # noqa: S311 - cases, not secrets


def judge_with(kind: str, rng: Random, root: Path, template: Path) -> Verdict:
    """Do the same with a generator of the caller's."""
    bench = Bench(root, template)
    bench.here.mkdir(parents=True)
    attack = KINDS[kind](bench, rng)
    codes = []
    for command in attack.commands:
        before = _tree(bench, attack)
        start, memory = time.process_time(), _reset_peak()
        said = _run(command, bench.here)
        seconds, grown = time.process_time() - start, (_peak() - memory) / 2**30
        why = said if isinstance(said, str) else ""
        if not why and seconds > SECONDS:
            why = f"took {seconds:.0f} s of CPU time"
        if not why and grown > MEMORY_GIB:
            why = f"memory grew by {grown:.2f} GiB"
        changed = sorted(set(_tree(bench, attack).items()) ^ set(before.items()))
        if not why and changed:
            why = f"changed outside the storage: {changed[:3]}"
        if why:
            return Verdict("violation", f"{command}: {why}")
        codes.append(said)
    if attack.refused and 0 in codes:
        return Verdict("violation", f"{attack.commands}: accepted, and should have been refused")
    return Verdict("refused" if any(code in (1, 2) for code in codes) else "accepted")


def _run(command: list[str], folder: Path) -> int | str:
    """Run one command in a folder; return its exit code, or what is wrong with it."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = _open(command[1]) if command[0] == "open" else main(command)
        except BaseException:  # that none gets here is what is tested
            return traceback.format_exc()
        finally:
            out.flush()
            err.flush()
    text = _text(err)
    if "Traceback" in text or "Traceback" in _text(out):
        return f"a traceback: {text[-2000:]}"
    if code not in (0, 1, 2, 3):
        return f"exit code {code}"
    if code in (1, 2) and not any(line.startswith(("error: ", "Error", "Usage")) for line in text.splitlines()):
        return f"exit code {code} without a line that says why: {text[-300:]!r}"
    return code


def _text(stream: io.TextIOWrapper) -> str:
    return stream.buffer.getvalue().decode("utf-8", "replace")  # type: ignore[attr-defined,no-any-return]


def _open(study: str) -> int:
    """Do what `generate` does before the first run starts."""
    from ray_unlearn.generation import open_job
    from ray_unlearn.study import load_study

    try:
        open_job(load_study(study))
    except RayUnlearnError as error:
        text = str(error)
        print(f"error: {text}", file=__import__("sys").stderr)
        return error.exit_code
    return 0


def _tree(bench: Bench, attack: Attack) -> dict[str, tuple[int, int]]:
    """Return size and time of every file that no command may touch."""
    return {
        str(path): (info.st_size, info.st_mtime_ns) for path, info in _files(bench.root, bench.here / "store", attack)
    }


def _files(root: Path, storage: Path, attack: Attack) -> Iterator[tuple[Path, os.stat_result]]:
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        folders[:] = [name for name in folders if here / name != storage]
        for name in (*names, *folders):
            path = here / name
            if path not in attack.may_write:
                info = path.lstat()
                yield path, info if name in names else os.stat_result((*info[:6], 0, *info[7:8], 0, 0))


def _reset_peak() -> int:
    """Forget the process's peak memory, where Linux lets us; return its memory now, in bytes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """Return the peak of resident memory in bytes, since the last reset."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
