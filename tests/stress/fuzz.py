"""Bad input, thousands of times: nothing may answer with a traceback, hang, crash, swell, or write elsewhere.

    uv run python tests/stress/fuzz.py --cases 2000 --seed 0                    # every kind, N cases in all
    uv run python tests/stress/fuzz.py --only parquet,weights --cases 500
    uv run python tests/stress/fuzz.py --only record --case 17 --seed 0         # one case again, in this process

Prints refused, accepted and violations by kind; ends with 1 where there is a violation, whose files it keeps below
`--keep` with the command that repeats it. Cases run in processes of their own with a limit on address space (what is
there after imports, and 4 GiB), 30 seconds of CPU time and 5 minutes of patience. Expected: no violation; one to two
minutes for 2,000 cases on two busy cores. Needs Linux, no GPU, no Ray, no network. It feeds damaged files to every
decoder of this environment: run it where that may go wrong.
"""

import argparse
import contextlib
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection, wait
from pathlib import Path

_SECONDS = 300.0
_SPACE = 4 * 2**30
_LARGEST_KEPT = 100 * 2**20  # bytes of a file


def _work(pipe: Connection, root: str, template: str, seed: int) -> None:
    """Judge cases as they come; the parent notices when this process dies or hangs."""
    from fuzz_judge import judge

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + _SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        kind, number = pipe.recv()
        verdict = judge(kind, f"{seed}/{kind}/{number}", Path(root) / f"{kind}-{number}", Path(template))
        pipe.send((kind, number, verdict.outcome, verdict.why))


class _Worker:
    """A process that judges one case after another."""

    def __init__(self, root: Path, template: Path, seed: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, str(root), str(template), seed), daemon=True)
        self.process.start()
        theirs.close()
        self.case: tuple[str, int] | None = None
        self.since = 0.0

    def give(self, case: tuple[str, int]) -> None:
        self.case, self.since = case, time.monotonic()
        self.pipe.send(case)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def fuzz(cases: list[tuple[str, int]], folder: Path, seed: int, processes: int, keep: Path) -> Counter[tuple[str, str]]:
    """Judge all cases; return how many ended how, by (kind, outcome)."""
    template, counts, queue = folder / "template", Counter[tuple[str, str]](), list(reversed(cases))
    workers = [_Worker(folder, template, seed) for _ in range(min(processes, len(cases)))]
    for worker in workers:
        worker.give(queue.pop())
    while any(worker.case for worker in workers):
        wait([worker.pipe for worker in workers if worker.case], timeout=1.0)
        for place, worker in enumerate(workers):
            outcome, why = _outcome_of(worker)
            if not outcome or worker.case is None:
                continue
            kind, number = worker.case
            counts[kind, outcome] += 1
            if outcome == "violation":
                _keep(
                    folder / f"{kind}-{number}", keep / f"{kind}-{number}", f"{kind}, case {number}, seed {seed}: {why}"
                )
            shutil.rmtree(folder / f"{kind}-{number}", ignore_errors=True)
            if (why and not worker.process.is_alive()) or why.startswith("hangs"):
                worker.end()
                workers[place] = _Worker(folder, template, seed)
            workers[place].case = None
            if queue:
                workers[place].give(queue.pop())
    for worker in workers:
        worker.end()
    return counts


def _outcome_of(worker: _Worker) -> tuple[str, str]:
    """Return (outcome, why) of the worker's case; empty where it still works."""
    if worker.case is None:
        return "", ""
    try:
        if worker.pipe.poll():
            _, _, outcome, why = worker.pipe.recv()
            return outcome, why
    except (EOFError, ConnectionError):
        worker.process.join(10)
        return "violation", f"crash: the process ended with {worker.process.exitcode}"
    hangs = time.monotonic() - worker.since > _SECONDS
    return ("violation", f"hangs: no answer in {_SECONDS:.0f} s") if hangs else ("", "")


def _large(folder: str, names: list[str]) -> list[str]:
    """Return what is not kept: a copy of a sparse terabyte is a full disk."""
    return [name for name in names if (Path(folder) / name).lstat().st_size > _LARGEST_KEPT]


def _keep(case: Path, kept: Path, why: str) -> None:
    shutil.rmtree(kept, ignore_errors=True)
    with contextlib.suppress(shutil.Error):  # pipes cannot be copied
        shutil.copytree(case, kept, symlinks=True, ignore=_large)
    (kept / "why.txt").write_text(why + "\n", encoding="utf-8", errors="backslashreplace")
    print(f"violation: {why.splitlines()[0][:300]} ... {why.splitlines()[-1][:300]}\n  kept in {kept}", flush=True)


def main() -> int:
    """Read the command line, make what is damaged, and judge."""
    from fuzz_judge import judge
    from fuzz_kinds import KINDS, make_template

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000, help="in all, spread evenly over the kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(KINDS), help="kinds, with commas")
    parser.add_argument("--case", type=int, help="only this case, in this process")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-violations"))
    given = parser.parse_args()
    kinds = given.only.split(",")
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"--only: no kind {sorted(unknown)[0]!r}; there are {', '.join(KINDS)}")
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(prefix="ray-unlearn-fuzz-") as name:
        folder = Path(name)
        os.environ["HOME"] = str(folder)
        make_template(folder / "template")
        if given.case is not None:
            verdict = judge(kinds[0], f"{given.seed}/{kinds[0]}/{given.case}", folder / "case", folder / "template")
            print(verdict.outcome, verdict.why)
            return int(verdict.outcome == "violation")
        cases = [(kinds[i % len(kinds)], i // len(kinds)) for i in range(given.cases)]
        start = time.monotonic()
        counts = fuzz(cases, folder, given.seed, given.processes, given.keep)
    for kind in kinds:
        line = ", ".join(f"{counts[kind, outcome]} {outcome}" for outcome in ("refused", "accepted", "violation"))
        print(f"{kind:10} {line}")
    violations = sum(count for (_, outcome), count in counts.items() if outcome == "violation")
    print(f"{len(cases)} cases, seed {given.seed}: {violations} violations, {time.monotonic() - start:.0f} s")
    return int(violations > 0)


if __name__ == "__main__":
    sys.exit(main())
