"""What a stranger's file, a neighbour on the machine, or a reader of a record must not get.

`test_floors.py` holds the package to loading nothing that executes what it reads; here the same holds for jobs/, and
dependencies, ports and file modes are looked at. Credentials in URIs: `test_secrets`; Arrow's types: `test_arrow`.
"""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import stat
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import payload_bytes
from packaging.requirements import Requirement
from packaging.version import Version
from test_floors import MODULES, imports, unsafe

from ray_unlearn.cli.options import typed
from ray_unlearn.errors import RayUnlearnError
from ray_unlearn.generation import generate

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {
    f"{folder}.{path.stem}": path.read_text()
    for folder in ("jobs", "tests/bench", "tests/stress")
    for path in sorted((ROOT / folder).rglob("*.py"))
}

SHELLS = {"os.system", "os.popen", "os.execv", "os.execvp", "os.spawnv", "subprocess.getoutput", "pty.spawn"}


def shells(source: str) -> list[str]:
    """Return each call that hands a text to a shell."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            shell = any(k.arg == "shell" and ast.unparse(k.value) != "False" for k in node.keywords)
            if name in SHELLS or shell:
                found.append(f"{node.lineno}: {name}")
    return found


def test_scripts_execute_nothing_that_they_read():
    """Law: pickle, torch.load, np.load, yaml.load, eval and exec: what holds for the package holds for the scripts.

    Some may write .pth files: fuzz_sources, to damage them, and the benchmark, because the challenge's notebook does.
    """
    assert SCRIPTS
    writers = ("tests/stress.fuzz_sources", "tests/bench.benchmark:", "tests/bench.notebook_loop")
    found = [line for line in unsafe(SCRIPTS) if not line.startswith(writers) or "torch.save" not in line]
    assert found == []


@pytest.mark.parametrize("line", ["import dill", "pickle.loads(x)", "torch.load(x)", "pd.read_pickle(x)", "eval(x)"])
def test_the_search_finds_what_executes(line: str):
    """The test above can fail."""
    assert unsafe({"jobs.x": line})


def test_nothing_is_handed_to_a_shell():
    """Law: no command is put together as text."""
    assert {name: found for name, source in {**MODULES, **SCRIPTS}.items() if (found := shells(source))} == {}
    assert shells("subprocess.run(x, shell=True)")
    assert shells("os.system(x)")


def test_nothing_listens_but_ray():
    """Law: the package opens no port of its own; what imports sockets asks for the host's name alone."""
    asking = {
        "cluster.liveness": {"socket.socket", "socket.create_connection"},
        "models.libraries": {"socket.create_connection"},  # to the Hub, to learn at once that there is no network
        "usercode.fork_server": {"socket.socketpair", "socket.socket"},  # between a process and its child, as the next
        "run.worker_process": {"socket.socketpair"},
        "usercode.serving": {"socket.socket"},
        "usercode.wire": {"socket.send_fds", "socket.recv_fds"},
    }
    servers = {"http", "socketserver", "asyncio", "xmlrpc", "flask", "fastapi", "uvicorn"}
    for name, source in {**MODULES, **SCRIPTS}.items():
        client = {"asyncio", "http"} if name == "cluster.job_server" else set()  # a client of the job server: see below
        assert not {imported.split(".")[0] for imported in imports(source)} & (servers - client), name
        assert not {"http.server", "http"} & imports(source), name
        calls = [ast.unparse(n.func) for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call)]
        asks = asking.get(name, set())
        assert {call for call in calls if call.startswith("socket.")} <= {"socket.gethostname"} | asks, name
        assert {call for call in calls if call.startswith("asyncio.")} <= {"asyncio.run", "asyncio.wait_for"}, name


def shipped() -> Iterator[Path]:
    """Yield every file of the project that a user gets, tests apart."""
    for pattern in ("*", ".ci/*", ".github/**/*", "jobs/**/*", "ray_unlearn/**/*"):
        for path in ROOT.glob(pattern):
            if path.is_file() and path.suffix in {".py", ".yaml", ".yml", ".md", ".toml", ".json", ""}:
                yield path


def test_every_dashboard_is_on_loopback():
    """Law: no shipped file listens everywhere; anyone who starts a dashboard states 127.0.0.1 (CVE-2023-48022)."""
    files = {path: path.read_text() for path in shipped() if path.name != ".git"}
    assert len(files) > 100
    everywhere = re.compile(r"0\.0\.0\.0|\[::\]|host[= ]'?\*")
    assert [str(path) for path, text in files.items() if everywhere.search(text)] == []
    hosts = {host for text in files.values() for host in re.findall(r"--dashboard-host[= ](\S+)", text)}
    assert hosts == {"127.0.0.1"}
    addresses = {url for text in files.values() for url in re.findall(r"--address (http://[^:\s]+)", text)}
    assert addresses == {"http://127.0.0.1"}


def test_token_authentication_is_documented_and_tested():
    """Law: the page about clusters states how ports are guarded, cluster.yaml and the job test turn the token on."""
    assert "RAY_AUTH_MODE=token" in (ROOT / "jobs" / "README.md").read_text()
    starts = re.findall(r"ray start", (ROOT / "cluster.yaml").read_text())
    assert (ROOT / "cluster.yaml").read_text().count("RAY_AUTH_MODE=token") >= len(starts) > 0
    assert '"RAY_AUTH_MODE": "token"' in (ROOT / "tests/test_job.py").read_text()


WORDS = ("AKIASECRETKEY", "verysecretword")
URI = "s3://AKIASECRETKEY:verysecretword@bucket/prefix?region=eu-central-1&secret_key=verysecretword"


def clean(text: str) -> bool:
    return not any(word in text for word in WORDS)


def test_a_hint_has_no_credentials():
    """Law: a command that is printed repeats what was typed, but no value that may hold keys."""
    study = Path("study.yaml")
    assert typed("report", study, ["seed=1", "storage=s3://bucket/x"]) == (
        "ray-unlearn report study.yaml --set seed=1 --set storage=s3://bucket/x"
    )
    for override in (f"storage={URI}", f"data={{train: '{URI}'}}", "storage=s3://bucket/x?key=SECRET"):
        said = typed("report", study, [override])
        assert clean(said)
        assert said.endswith("=...")


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_published_files_have_the_modes_that_the_umask_leaves(tiny, tmp_path: Path, umask: int):
    """Law: 0666 and 0777 less the umask: readable to whom the user lets, also on NFS, and never more."""
    before = os.umask(umask)
    try:
        generate(tiny(), backend="inline")
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "store").rglob("*")}
    assert len(modes) > 20
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o666 & ~umask}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o777 & ~umask}
    assert payload_bytes(tmp_path / "store/tiny")


def test_weights_that_cannot_be_read_are_named_without_credentials():
    """Law: weights are named without keys: what is no file, what is no weights, and what does not fit."""
    from ray_unlearn.models import load_weights, parse_weights, read_file, small_cnn

    for act in (
        lambda: read_file(URI.replace("s3://", "nosuch://")),
        lambda: parse_weights(b"x", URI),
        lambda: load_weights(small_cnn(3), {}, URI),
    ):
        with pytest.raises(RayUnlearnError) as caught:
            act()
        assert clean(str(caught.value)), str(caught.value)


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
REQUIRED = {r.name: r for r in map(Requirement, PROJECT["project"]["dependencies"])}
sys.path.insert(0, str(ROOT / ".ci"))
import audit  # noqa: E402 - CI's scripts are no package

ADVISORIES = audit.advisories(audit.TABLE.read_text())


def test_no_version_with_a_known_hole_is_allowed():
    """Law: a direct dependency's lower bound is beyond every range of the table; eight packages have one."""
    ours = [row for row in ADVISORIES if row["package"] in {name.lower() for name in REQUIRED}]
    assert len({row["package"] for row in ours}) >= 8
    for row in ours:
        lowest = [s.version for s in REQUIRED[row["package"]].specifier if s.operator in (">=", "==", "~=")]
        assert lowest, f"{row['package']} has no lower bound"
        assert not audit.is_affected(max(lowest, key=Version), row["affected"]), row


def test_nothing_installed_has_a_known_hole(capsys):
    """Law: what `.ci/run` asks, without a network, of every installed package, not only of ours."""
    assert audit.main() == 0
    assert capsys.readouterr().out.endswith(" 0 affected\n")


def test_the_audit_finds_a_hole():
    """Law: inside a range and not at its end, the second of two ranges, a name written otherwise."""
    rows = audit.advisories(audit.TABLE.read_text())
    assert [line.split(":")[0] for line in audit.found({"PyYAML": "5.3.1", "urllib3": "2.2.1"}, rows)][:2] == [
        "pyyaml 5.3.1",
        "urllib3 2.2.1",
    ]
    assert audit.found({"PyYAML": "5.4", "urllib3": "2.8.0", "none": "1"}, rows) == []
    assert audit.is_affected("2.3.9", "<1.10.13 or >=2,<2.4")
    assert not audit.is_affected("1.11", "<1.10.13 or >=2,<2.4")


@pytest.mark.parametrize(
    ("installed", "row", "said"),
    [
        ({"numpy": "what-a-version"}, {}, "numpy: not a version: 'what-a-version'"),
        ({None: "1.0"}, {}, "an installed package without a name or a version: None 1.0"),
        ({"numpy": None}, {}, "an installed package without a name or a version: numpy None"),
        ({}, {"affected": "below 2"}, "advisory 1: X: not a range of versions: 'below 2'"),
        ({}, {"affected": "<1 or "}, "advisory 1: X: an empty range of versions"),
        ({}, {"affected": ""}, "advisory 1: expected affected, id, package, source, what; found "),
        ({}, {"source": None}, "advisory 1: expected affected, id, package, source, what; found "),
        ({}, {None: ["a comma too many"]}, "advisory 1: expected affected, id, package, source, what; found "),
    ],
)
def test_the_audit_fails_on_what_it_cannot_read(monkeypatch, capsys, installed, row, said):
    """Law: an advisory or a version that is not understood ends the audit with 1; so does an empty table."""
    whole = {"id": "X", "package": "y", "affected": "<1", "what": "z", "source": "s"}
    assert audit.unread({"numpy": "2.0"}, [whole]) == []
    assert audit.unread({}, []) == ["the table of advisories is empty"]
    (line,) = audit.unread(installed, [whole | row])
    assert line.startswith(said)
    monkeypatch.setattr(audit, "advisories", lambda _: [whole | {"affected": "below 2"}])
    assert audit.main() == 1
    assert "cannot be read" in capsys.readouterr().out


def test_actions_are_pinned_and_may_only_read():
    """Law: each action is named by a commit, with its release next to it; jobs read the checkout, and audit."""
    text = (ROOT / ".github/workflows/ci.yml").read_text()
    uses = re.findall(r"uses: (\S+)(.*)", text)
    assert len(uses) >= 2
    assert all(
        re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", name) and re.search(r"# v\d+\.\d+\.\d+", rest) for name, rest in uses
    )
    assert re.findall(r"permissions: (.*)", text) == ["{contents: read}"]
    assert text.count("persist-credentials: false") == text.count("actions/checkout@")
    assert ".ci/audit.py" in text


def test_keys_stay_off_the_cluster():
    """Law: what `ray up` copies of a checkout leaves out the usual files of keys, and its token is private."""
    import fnmatch

    import yaml

    text = (ROOT / "cluster.yaml").read_text()
    config = yaml.safe_load(text)
    left_out = [*config["rsync_exclude"], *(ROOT / ".gitignore").read_text().splitlines()]
    assert config["rsync_filter"] == [".gitignore"]
    for name in (
        ".env",
        ".env.local",
        "id_rsa",
        "id_ed25519",
        "x.pem",
        "x.key",
        ".aws",
        ".ssh",
        ".netrc",
        "credentials",
    ):
        assert any(fnmatch.fnmatch(name, pattern) for pattern in left_out), name
    assert "(umask 077; ray get-auth-token --generate)" in text


def test_there_is_a_security_policy():
    """Law: how to report, what is promised, and what is not: a study is code, and which ports ask for no token."""
    text = " ".join((ROOT / "SECURITY.md").read_text().split())
    for words in ("Report a vulnerability", "A study file is code", "metrics ports ask for no token", "--send"):
        assert words in text


def test_the_environment_is_consistent():
    """Law: what `pip check` looks at: each dependency is installed, in a version that its dependents take."""
    wrong, pending, seen = [], [Requirement("ray-unlearn")], set()
    while pending:
        needed = pending.pop()
        if needed.name in seen:
            continue
        seen.add(needed.name)
        for text in importlib.metadata.requires(needed.name) or ():
            inner = Requirement(text)
            extras = needed.extras or {""}
            if inner.marker and not any(inner.marker.evaluate({"extra": extra}) for extra in extras):
                continue
            try:
                found = importlib.metadata.version(inner.name)
            except importlib.metadata.PackageNotFoundError:
                wrong.append(f"{needed.name} needs {text}, which is not installed")
                continue
            if not inner.specifier.contains(found, prereleases=True):
                wrong.append(f"{needed.name} needs {text}; found {found}")
            pending.append(inner)
    assert len(seen) > 30
    assert wrong == []


def test_the_studys_environment_stays_out_of_records(tiny, tmp_path: Path, monkeypatch):
    """Law: no environment variable's value reaches a record, a message or study.json."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", WORDS[1])
    monkeypatch.setenv("RAY_AUTH_TOKEN", WORDS[0])
    failing = {"method": f"{tmp_path}/bad.py:f", "count": 1}
    (tmp_path / "bad.py").write_text("def f(net, retain, forget, val):\n    raise ValueError('no')\n")
    generate(tiny(populations={"bad": failing}), backend="inline")
    texts = [path.read_text() for path in (tmp_path / "store").rglob("*.json")]
    assert len(texts) > 5
    assert all(map(clean, texts))
