"""What strangers write reaches the terminal as text: no control character of theirs does.

Each way in which a text of someone else's comes to standard output or standard error is tried with a hostile one; a
law finds doors to the terminal that lead past `ray_unlearn.terminal`.
"""

from __future__ import annotations

import ast
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from conftest import TINY, merged
from PIL import Image
from test_floors import MODULES
from test_submitting import FakeServer
from test_submitting import write as study

from ray_unlearn.cli import main
from ray_unlearn.cluster import job_server as ray_jobs
from ray_unlearn.errors import StudyError
from ray_unlearn.submit.jobs import Attempt
from ray_unlearn.terminal import Escaping, print_line, run_script, safe, show, visible

HOSTILE = "a\x1b[2Jb\x1b]0;pwned\x07c\x9b31md\u202ee\u2066f\r\x08\x7fg"
SEEN = "a\\u001b[2Jb"
FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def made(folder: Path) -> tuple[str, Path]:
    """Return a study with one run made, and its folder in the store."""
    file = study(folder, populations={"finetune": {"count": 1}})
    assert main(["generate", file, "--backend", "inline"]) == 0
    return file, folder / "store/tiny"


def class_names(folder: Path) -> list[list[str]]:
    """Class names come from folders."""
    for name in (HOSTILE, "plain"):
        (folder / "images" / name).mkdir(parents=True)
        for number in range(6):
            pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name / f"{number}.png")
    (folder / "images" / HOSTILE / "bad.png").write_bytes(b"no image")
    data = {"train": str(folder / "images"), "test": str(folder / "images"), "limit": None}
    return [["prepare", study(folder, data=data), "--backend", "inline"]]


def failed_records(folder: Path) -> list[list[str]]:
    """Records of failed runs are files that any machine may have written."""
    script = folder / "mine.py"
    script.write_text(f"def f(net, *loaders):\n    raise ValueError({HOSTILE!r})\n")
    file = study(folder, populations={"finetune": None, "bad": {"method": f"{script}:f", "count": 1}})
    return [["generate", file, "--backend", "inline"], ["status", file], ["status", file, "--json"]]


def events(folder: Path) -> list[list[str]]:
    """So are events, of which only numbers are shown."""
    file, store = made(folder)
    (log,) = (store / "events").iterdir()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    kept = ("event", "at")
    hostile = [{k: HOSTILE if isinstance(v, str) and k not in kept else v for k, v in one.items()} for one in lines]
    log.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in [*hostile, hostile[0]]))
    (store / "events" / f"{log.stem}{HOSTILE.replace('/', '')}.jsonl").write_bytes(b"\xff")
    return [["status", file], ["status", file, "--watch"]]


def damaged(folder: Path) -> list[list[str]]:
    """Records name files."""
    file, store = made(folder)
    record = store / "finetune/00000/record.json"
    content = json.loads(record.read_text())
    content["payloads"][HOSTILE] = content["payloads"].pop("outputs.arrow")
    record.write_text(json.dumps(content))
    population = store / "finetune/population.json"
    changed = json.loads(population.read_text()) | {"digest": "0" * 64, "identity": {HOSTILE: HOSTILE}}
    population.write_text(json.dumps(changed))
    return [["verify", file], ["verify", file, "--repair"], ["status", file], ["generate", file, "--backend", "inline"]]


def paths(folder: Path) -> list[list[str]]:
    """A shell's glob types all that a folder holds."""
    name = HOSTILE.replace("/", "")
    (folder / name).write_text("name: x\n")
    at = str(folder / name)
    return [["status", at], ["status", str(folder / f"{name}x")], ["init", at], ["export", at, at, "--population", "x"]]


def keys(folder: Path) -> list[list[str]]:
    """A study's keys and values."""
    files = []
    for number, changes in enumerate(
        ({HOSTILE: 1}, {"data": {HOSTILE: 1}}, {"name": HOSTILE}, {"seed": HOSTILE}, {"model": {"arch": HOSTILE}})
    ):
        (folder / str(number)).mkdir()
        files.append(study(folder / str(number), **changes))
    (folder / "broken.yaml").write_bytes(b"a: \x1b[2J\n")
    broken = [["status", str(folder / "broken.yaml")]]
    return [*broken, *([command, file, *more] for file in files for command, *more in (["status"], ["submit"]))]


def columns(folder: Path) -> list[list[str]]:
    """Columns of Parquet and CSV files."""
    pq.write_table(pa.table({HOSTILE: [1]}), folder / "t.parquet")
    (folder / "ids.csv").write_text(f"{HOSTILE.replace(chr(13), '')}\n1\n")
    parquet = study(folder, data={"train": str(folder / "t.parquet")})
    (folder / "csv").mkdir()
    csv = study(folder / "csv", data={"forget": {"fraction": None, "ids": str(folder / "ids.csv")}})
    return [["prepare", parquet, "--backend", "inline"], ["prepare", csv, "--backend", "inline"]]


def tensors(folder: Path) -> list[list[str]]:
    """Names of tensors in weights."""
    (folder / "a.safetensors").write_bytes(safetensors.numpy.save({HOSTILE: np.zeros(1, dtype=np.float32)}))
    original = {"method": None, "on": None, "weights": str(folder / "a.safetensors")}
    return [["generate", study(folder, populations={"original": original}), "--backend", "inline"]]


def factories(folder: Path) -> list[list[str]]:
    """What a factory raises, and what it states on import."""
    (folder / "hostile_net.py").write_text(f"def f(**options):\n    raise ValueError({HOSTILE!r})\n")
    (folder / "hostile_import.py").write_text(f"raise ValueError({HOSTILE!r})\n")
    commands = []
    for name in ("hostile_net", "hostile_import"):
        changes = {"storage": str(folder / "store"), "model": {"arch": f"{name}:f", "options": None}}
        (folder / f"{name}.yaml").write_text(json.dumps(merged(TINY, changes)))
        commands.append(["generate", str(folder / f"{name}.yaml"), "--backend", "inline"])
    return commands


def words(folder: Path) -> list[list[str]]:
    """Words of a command line, which a script may have from anywhere."""
    file = study(folder)
    return [
        ["status", file, f"--{HOSTILE}"],
        [HOSTILE],
        ["status", file, "--set", HOSTILE],
        ["methods", HOSTILE],
        ["generate", file, "--only", HOSTILE, "--backend", "inline"],
        ["generate", file, "--workers", HOSTILE],
        ["submit", file, "--address", HOSTILE],
    ]


WAYS: list[Callable[[Path], list[list[str]]]] = [
    class_names,
    failed_records,
    events,
    damaged,
    paths,
    keys,
    columns,
    tensors,
    factories,
    words,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_no_stranger_controls_the_terminal(way, tmp_path: Path, capfd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: no matter what a command prints, each control character in it is written out."""
    monkeypatch.chdir(tmp_path)
    commands = way(tmp_path)
    capfd.readouterr()
    shown = ""
    for command in commands:
        main(command)
        said = "".join(capfd.readouterr())
        assert said
        assert not FORBIDDEN.search(said), (command, said)
        assert not re.search("^Traceback", said, re.MULTILINE), (command, said)
        shown += said
    assert SEEN in shown or way is events, "the hostile text was not shown at all"


def test_no_cluster_controls_the_terminal(tmp_path: Path, capfd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: job ids, messages and logs that a job server sends are texts, too."""
    fake = FakeServer([Attempt(id=f"x{HOSTILE}", status="RUNNING")])
    fake.end = Attempt(id=HOSTILE, status="FAILED", exit_code=1, message=HOSTILE)
    fake.follow = lambda name, tell: (tell(f"log {HOSTILE}\n"), fake.end)[1]
    monkeypatch.setattr(ray_jobs, "JobServer", fake)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    file = study(tmp_path)
    assert main(["submit", file, "--wait"]) == 1
    (sent,) = fake.sent
    fake.jobs = [Attempt(id=HOSTILE, status="RUNNING", metadata=sent.metadata)]
    assert main(["submit", file, "--set", "seed=7"]) == 1
    said = "".join(capfd.readouterr())
    assert said.count(SEEN) >= 3
    assert not FORBIDDEN.search(said)


def test_a_fault_of_ours_shows_its_traceback_as_text(capfd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Law: an exception that no room expects ends with 1; its text, and its lines, are escaped."""
    from ray_unlearn.cli import status

    def broken(*_: object) -> None:
        raise LookupError(HOSTILE)

    monkeypatch.setattr(status, "store_of", broken)
    assert main(["status", study(tmp_path)]) == 1
    said = capfd.readouterr().err
    assert "Traceback" in said
    assert SEEN in said
    assert not FORBIDDEN.search(said)


ON_A_TERMINAL = """
import sys, time
from ray_unlearn.monitor import TimeLeft, show_progress
from ray_unlearn.run.outcome import Outcome, WorkerInfo
from ray_unlearn.schedule.events import Failed, Made
from ray_unlearn.schedule.pool import Ready
from ray_unlearn.study import Run
from ray_unlearn.study.schema import Execution
from ray_unlearn.terminal import open_console, print_line
from rich.live import Live
from rich.table import Table
from rich.text import Text
with show_progress(2, 0, Execution(), TimeLeft({"a": 2})) as console:
    console.log("line " + sys.argv[1])
    console(Ready(1, WorkerInfo(host="here", pid=1, device="cpu")))
    console(Made(Outcome(run=Run(population="a", index=0), seconds=1.0), 1, 1))
    console(Failed(Outcome(run=Run(population="a", index=1), seconds=1.0, error=sys.argv[1]), 1, 1))
with Live(console=open_console(), auto_refresh=False) as live:
    live.update(Text(sys.argv[1]), refresh=True)
console = open_console()
table = Table(sys.argv[1])
table.add_row(sys.argv[1])
console.print(table)
print_line("said " + sys.argv[1])
"""


def test_rich_draws_and_strangers_do_not() -> None:
    """Law: on a real terminal the bar, tables and live texts move the cursor with Rich's codes and no one else's."""
    leader, follower = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "200", "LINES": "50"}
    command = [sys.executable, "-c", ON_A_TERMINAL, HOSTILE]
    process = subprocess.Popen(command, stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    data = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        data += piece
    os.close(leader)
    assert process.wait(60) == 0, data
    text = data.decode()
    assert text.count(SEEN) >= 5, text
    assert "\x1b[" in text, "Rich draws nothing: this is no terminal"
    codes = set(re.findall(r"\x1b(?!\[[0-9;?]*[a-zA-Z]).", text))
    assert codes == set(), codes
    assert not re.search("\x1b\\[2J|\x07|\x9b|\u202e|\u2066|\x08|\x7f", text)


def test_what_is_written_out() -> None:
    """Law: C0 but tab and newline, DEL, C1, bidirectional controls, line ends of Unicode, halves of characters."""
    for code in [*range(0x20), *range(0x7F, 0xA0), 0x202E, 0x2066, 0x200F, 0x061C, 0x2028, 0xD800, 0xDFFF]:
        assert visible(chr(code)) == (chr(code) if chr(code) in "\t\n" else f"\\u{code:04x}")
    for plain in ("äöü 漢字 \U0001f600 e\u0301 \u200d", "a\\u001b", "\t|\n"):
        assert visible(plain) == plain
        assert safe(plain) == plain
    assert json.loads(safe(json.dumps({"a": "\x9b\u202e\ud800"}, ensure_ascii=False)))["a"] == "\x9b\u202e\ud800"


def test_an_encoding_that_lacks_a_character_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law: on a terminal of ASCII, and for bytes of a file name that are no text, the character is written out."""
    import io

    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    print_line("ä \udcff 漢")
    show("x")
    assert Escaping(sys.stdout).isatty() is False
    assert raw.getvalue() == b"\\xe4 \\udcff \\u6f22\nx"


DOORS = {
    "print",
    "typer.echo",
    "typer.secho",
    "click.echo",
    "click.secho",
    "rich.print",
    "Console",
    "rich.console.Console",
}


def doors(source: str) -> list[str]:
    """Return each call that writes to standard output or standard error past `ray_unlearn.terminal`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            writes = re.fullmatch(r"sys\.(__)?std(out|err)(__)?(\.buffer)?\.write(lines)?", name)
            to_descriptor = name == "os.write" and ast.unparse(node.args[0]) in ("1", "2")
            if name in DOORS or writes or to_descriptor or name.endswith((".print_exc", ".echo")):
                found.append(f"{node.lineno}: {name}")
            given = [ast.unparse(each) for each in [*node.args, *(keyword.value for keyword in node.keywords)]]
            if any(re.fullmatch(r"sys\.(__)?std(out|err)(__)?", each) for each in given) and name != "Escaping":
                found.append(f"{node.lineno}: {name} of a standard stream")
    return found


@pytest.mark.parametrize(
    ("ends", "code", "line"),
    [(lambda: 3, 3, ""), (lambda: {"figures": 1}, 0, ""), (StudyError("its --size: 0"), 2, "error: its --size: 0\n")],
)
def test_a_script_ends_as_a_command_does(ends: Any, code: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Law: with the code that its main function returns, else 0; an error is one line, and has its own code."""

    def main() -> object:
        if isinstance(ends, StudyError):
            raise ends
        return ends()

    with pytest.raises(SystemExit) as ended:
        run_script(main)
    assert (ended.value.code, capsys.readouterr().err) == (code, line)


def test_there_is_one_door() -> None:
    """Law: no module but `terminal` prints.

    `interrupts` writes a line of its own where nothing else is safe; what `run_log` and a forked process of `serving`
    write goes into a run's log.
    """
    found = {name: calls for name, source in MODULES.items() if (calls := doors(source)) and name != "terminal"}
    assert set(found) == {"interrupts", "run.run_log", "usercode.serving"}, found
    assert [call.split()[1] for call in found["interrupts"]] == ["os.write"]


@pytest.mark.parametrize(
    "line",
    [
        "print(x)",
        "typer.echo(x)",
        "Console().print(x)",
        "sys.stderr.write(x)",
        "sys.stdout.buffer.write(x)",
        "os.write(2, x)",
        "traceback.print_exc()",
        "print_exception(e, file=sys.stderr)",
    ],
)
def test_another_door_is_found(line: str) -> None:
    """The test above can fail."""
    assert doors(line)
