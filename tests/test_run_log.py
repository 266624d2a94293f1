"""What a run's code prints, warns and logs: kept with the run, bounded, and no one else's."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import payload_bytes
from plans import PAYLOADS, finetune, plan_of, record_of
from rich.console import Console
from rich.progress import Progress

from ray_unlearn.cli import main
from ray_unlearn.errors import StoreError
from ray_unlearn.generation import generate, open_job
from ray_unlearn.run.run_log import LIMIT_BYTES, RunLog, recorded
from ray_unlearn.store import FailedRecord, StudyStore, open_storage
from ray_unlearn.store.verify import verify
from ray_unlearn.study import Run, Study

MINE = Run(population="mine", index=0)
Scripted = Callable[..., Study]


def recording(act: Callable[[], object]) -> str:
    log = RunLog()
    with recorded(log):
        act()
    return log.content().decode()


def store_of(study: Study) -> StudyStore:
    return open_job(study).store


EVERYTHING = """\
print("to stdout")
print("to stderr", file=sys.stderr)
sys.stdout.buffer.write(b"bytes\\n")
with warnings.catch_warnings():
    warnings.simplefilter("default")
    warnings.warn("take care")
logging.getLogger(__name__).warning("logged")
logging.getLogger(__name__).info("not asked for")"""
SAID = "to stdout\nto stderr\nbytes\nscript.py:11: UserWarning: take care\nlogged\n"


def test_what_a_method_prints_warns_and_logs_is_a_payload_of_its_run(scripted: Scripted):
    """Law: all of it in order, without folders; a payload as any other; runs that printed nothing have none; again, the
    same bytes."""
    study = scripted(EVERYTHING, count=2)
    assert generate(study, backend="inline").exit_code == 0
    store = store_of(study)
    assert [store.log(Run(population="mine", index=index)).decode() for index in range(2)] == [SAID, SAID]
    assert store.log(Run(population="original", index=0)) == b""
    records = store.made("original") | {index + 1: record for index, record in store.made("mine").items()}
    assert ["log.txt" in record.payloads for record in records.values()] == [False, True, True]
    path = Path(study.storage) / "tiny/mine/00001/log.txt"
    path.write_bytes(b"edited")
    (problem,) = verify(store, ["mine"]).problems
    assert (problem.run.index, problem.file) == (1, "log.txt")


def test_published_bytes_are_the_same_with_a_log(scripted: Scripted):
    """Law: a run that prints and one that does not have the same outputs and checkpoint."""
    body, made = "with torch.no_grad():\n    net[-1].bias += torch.rand(net[-1].bias.shape)", []
    for folder, more in (("silent", ""), ("loud", "\nprint('here')")):
        study = scripted(body + more, folder=folder)
        assert generate(study, backend="inline").exit_code == 0
        made.append(payload_bytes(Path(study.storage) / "tiny"))
    silent, loud = ({name: data for name, data in one.items() if "/0000" in name} for one in made)
    assert len(silent) == 4
    assert loud == silent


def test_a_failed_runs_log_is_next_to_its_failure_and_goes_when_it_succeeds(scripted: Scripted, tmp_path: Path):
    """Law: what was printed before the error is kept; once the run is made, it has its own log, and no other."""
    mended = tmp_path / "mended"
    study = scripted(f"import os\nprint('working')\nassert os.path.exists({str(mended)!r}), 'broken'\nprint('done')")
    assert generate(study, backend="inline").exit_code == 3
    store, failed = store_of(study), Path(study.storage) / "tiny/mine/failed"
    assert store.log(MINE) == b"working\n"
    assert [failure.error for failure in store.failures("mine").values()] == ["AssertionError: broken (script.py:8)"]
    assert store.failed_indexes("mine") == [0]
    assert sorted(path.name for path in failed.iterdir()) == ["00000.json", "00000.log.txt"]
    mended.touch()
    assert generate(study, backend="inline").exit_code == 0
    assert list(failed.iterdir()) == []
    assert store.log(MINE) == b"working\ndone\n"


def test_a_failure_without_output_removes_the_log_of_an_earlier_one(tmp_path: Path):
    """Law: the log that is next to a failure is that failure's."""
    plan, store = plan_of(1), StudyStore(open_storage(str(tmp_path)), "tiny")
    failure = FailedRecord(
        population="finetune", index=0, digest="", error="no", traceback="", attempts=1, host="", failed_at=""
    )
    with pytest.raises(StoreError, match="run finetune/00000 has no log: it is neither made nor failed yet"):
        store.log(finetune(0))
    for log in (b"first", b""):
        store.publish_failure(finetune(0), failure, log)
        assert store.log(finetune(0)) == log
    store.publish(finetune(0), PAYLOADS, record_of(plan, finetune(0)))
    assert store.log(finetune(0)) == b""


def test_two_runs_one_after_another_share_no_log(scripted: Scripted):
    """Law: a handler, a level or a kept stream of one run changes nothing for the next in the same process."""
    body = """\
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
mine = logging.getLogger("mine")
mine.addHandler(logging.StreamHandler(sys.stdout))
mine.setLevel(logging.DEBUG)
mine.debug("once")
logging.getLogger("other").info("or not")
with warnings.catch_warnings():
    warnings.simplefilter("default")
    warnings.warn("every time")"""
    study = scripted(body, count=3)
    handlers = list(logging.getLogger().handlers)
    assert generate(study, backend="inline").exit_code == 0
    logs = {store_of(study).log(Run(population="mine", index=index)) for index in range(3)}
    assert len(logs) == 1
    assert logs.pop().startswith(b"once\nDEBUG once\nINFO or not\n")  # by both handlers, as in a process of its own
    assert logging.getLogger().handlers == handlers
    assert logging.getLogger("mine").handlers == []


def test_logging_is_as_in_a_new_process(monkeypatch):
    """Law: without handlers, warnings are shown and basicConfig works; it is undone afterwards."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", logging.WARNING)

    def act() -> None:
        logging.getLogger("a").warning("first")
        logging.getLogger("a").info("no")
        logging.basicConfig(level=logging.INFO, format="%(levelname)s:%(message)s")
        logging.getLogger("a").info("yes")

    assert [recording(act) for _ in range(2)] == ["first\nINFO:yes\n"] * 2
    assert root.handlers == []
    assert root.level == logging.WARNING


def test_only_the_runs_own_threads_are_noticed(capsys):
    """Law: a thread that was there before writes to the old streams, one that the run starts into the log."""
    go, done = threading.Event(), threading.Event()

    def old() -> None:
        go.wait(5)
        print("old thread")
        logging.getLogger("old").warning("old warning")
        done.set()

    def act() -> None:
        print("before")
        go.set()
        done.wait(5)
        new = threading.Thread(target=lambda: print("new thread"))
        new.start()
        new.join()

    thread = threading.Thread(target=old)
    thread.start()
    assert recording(act) == "before\nnew thread\n"
    thread.join()
    assert capsys.readouterr().out == "old thread\n"


def test_the_streams_come_back_and_a_kept_one_still_works(capsys):
    """Law: after a block that raised, sys.stdout is what it was; code that kept the run's stream reaches that."""
    before, kept = sys.stdout, []

    def act() -> None:
        kept.append(sys.stdout)
        assert not sys.stdout.isatty()
        assert sys.stdout.encoding == "utf-8"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recording(act)
    assert sys.stdout is before
    kept[0].write("later\n")
    assert capsys.readouterr().out == "later\n"
    assert recording(lambda: (print("so far", end=""), sys.stdout.close())) == "so far"
    print("still open")
    assert capsys.readouterr().out == "still open\n"


def test_a_child_gets_the_streams_that_were_there(capfd):
    """Law: what a subprocess is given as its output is the process's own, and a forked child's print is not lost."""
    import subprocess

    def act() -> None:
        subprocess.run([sys.executable, "-c", "print('from a child')"], stdout=sys.stdout, check=True)
        child = os.fork()
        if not child:
            print("from a fork", flush=True)
            os._exit(0)
        os.waitpid(child, 0)

    with warnings.catch_warnings(action="ignore"):  # about forking with threads
        assert recording(act) == ""
    assert capfd.readouterr().out == "from a child\nfrom a fork\n"


def test_a_log_is_bounded_and_states_what_is_missing():
    """Law: of 64 MiB, the first and last half MiB are kept, the line states the rest, and memory never held it."""
    log, line = RunLog(), ("x" * 62 + "é\n").encode()
    assert len(line) == 65
    tracemalloc.start()
    written = 0
    with recorded(log):
        for _ in range(2**10):
            sys.stdout.write(line.decode() * 2**10)
            written += len(line) * 2**10
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    content = log.content()
    assert peak < 4 * LIMIT_BYTES
    assert LIMIT_BYTES - 256 < len(content) <= LIMIT_BYTES
    head, _, tail = content.partition(b"\n[... ")
    count = int(tail.split()[0])
    rest = tail.partition(b" bytes are missing here ...]\n")[2]
    assert len(head) + count + len(rest) == written
    whole = line * (written // len(line))
    assert (head, rest) == (whole[: len(head)], whole[-len(rest) :])


@pytest.mark.parametrize("cut", range(8))
def test_no_character_is_torn_by_the_cut(cut: int):
    """Law: wherever the cut falls in a text of three-byte characters, what is left is UTF-8, and the count is right."""
    log = RunLog(limit_bytes=200 + cut)
    text = "a" * cut + "€" * 300
    log.write(text.encode())
    head, _, tail = log.content().decode().partition("\n[... ")
    count, _, rest = tail.partition(" bytes are missing here ...]\n")
    assert len(head.encode()) + int(count) + len(rest.encode()) == len(text.encode())
    assert rest
    assert set(head + rest) <= {"a", "€"}


def test_what_fits_is_kept_whole():
    """Law: up to the limit nothing is missing; bytes that are no text stay as they are."""
    log = RunLog(limit_bytes=264)
    data = bytes(range(200))
    for byte in data:
        log.write(bytes([byte]))
    assert log.content() == data
    assert recording(lambda: print("\udc80")) == "\\udc80\n"


def test_verbose_shows_each_runs_output_with_its_name(scripted: Scripted, capsys):
    """Law: every line with the run before it, failed attempts too, escape codes made harmless; without it, nothing."""
    body = "print('first\\n\\x1b[31msecond')\nif len(val.dataset): raise ValueError('no')"
    for verbose, times in ((False, 0), (True, 2)):
        assert generate(scripted(body), backend="inline", verbose=verbose).exit_code == 3
        assert capsys.readouterr().err.count("mine/00000: first\nmine/00000: \\u001b[31msecond\n") == times
    assert generate(scripted("print('made')", folder="good"), backend="inline", verbose=True).exit_code == 0
    said = capsys.readouterr()
    assert said.err.count("\nmine/00000: made\n") == 1
    assert said.out == ""


def test_what_runs_print_on_ray_is_kept_and_forwarded(scripted: Scripted, ray_cluster, capsys):
    """Law: the same logs as inline, of a run that fails, too."""
    failing = scripted("print('working')\nraise ValueError('no')", folder="failing").populations["mine"]
    study = scripted(EVERYTHING, count=2)
    study = study.model_copy(update={"populations": {**study.populations, "failing": failing}})
    assert generate(study, backend="ray", workers=1, verbose=True).exit_code == 3
    assert [store_of(study).log(Run(population="mine", index=index)).decode() for index in range(2)] == [SAID, SAID]
    shown = capsys.readouterr().err
    for index in range(2):
        assert "".join(f"mine/0000{index}: {line}\n" for line in SAID.splitlines()) in shown
    assert store_of(study).log(Run(population="failing", index=0)) == b"working\n"


def test_logs_prints_a_runs_log(scripted: Scripted, tmp_path: Path, capsys):
    """Law: as text that no terminal obeys; a run without output, one that is not made and no run at all are
    reported.
    """
    study = scripted("print('\\x1b]0;title\\x07', '\\x9b2J', 'ü')")
    assert generate(study, backend="inline").exit_code == 0
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study.model_dump(mode="json", exclude_unset=True)))
    capsys.readouterr()

    def logs(run: str) -> tuple[int, str, str]:
        code, said = main(["logs", str(file), run]), capsys.readouterr()
        return code, said.out, said.err

    assert logs("mine/0") == (0, "\\u001b]0;title\\u0007 \\u009b2J ü\n", "")
    assert logs("original/00000") == (0, "", "run original/00000 printed nothing\n")
    assert logs("mine/1")[::2] == (
        1,
        f"error: {study.storage}/tiny: run mine/00001 has no log: it is neither made nor failed yet\n",
    )
    assert logs("mien/0")[::2] == (2, "error: logs: 'mien' is not a population of the study (did you mean 'mine'?)\n")
    for text in ("mine", "mine/x", "/0", "mine/-1"):
        code, _, error = logs(text)
        assert code == 2
        assert error.startswith("error: logs: ")


def test_logs_ends_with_the_traceback_of_a_failed_run(scripted: Scripted, tmp_path: Path, capsys):
    """Law: what the run printed comes first, then where it failed, so that no file has to be opened."""
    study = scripted("print('working')\nraise ValueError('no')")
    assert generate(study, backend="inline").exit_code == 3
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study.model_dump(mode="json", exclude_unset=True)))
    capsys.readouterr()
    assert main(["logs", str(file), "mine/0"]) == 0
    first, second, *_, last = capsys.readouterr().out.splitlines()
    assert (first, second, last) == ("working", "Traceback (most recent call last):", "ValueError: no")


def test_a_progress_bar_goes_to_the_terminal_and_prints_into_the_log(capsys):
    """Law: a bar that another thread draws meanwhile is not in the log, and the run's lines are not on the terminal."""
    drawn: list[str] = []
    steps = 0

    class Terminal(io.StringIO):
        def write(self, text: str) -> int:
            drawn.append(text)
            return sys.stderr.write(text)

    with Progress(console=Console(file=Terminal(), force_terminal=True, width=80), refresh_per_second=50) as bar:
        task = bar.add_task("starting", total=100)

        def act() -> None:
            nonlocal steps
            while steps < 10 or (steps < 3000 and not any("runs" in text for text in drawn)):
                bar.update(task, completed=steps % 100, description=f"runs {steps}")
                print("step", steps)
                time.sleep(0.02)
                steps += 1

        log = recording(act)
    assert log == "".join(f"step {step}\n" for step in range(steps))
    shown = capsys.readouterr()
    assert "runs" in shown.err
    assert "step" not in shown.err + shown.out
