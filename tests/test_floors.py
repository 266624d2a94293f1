"""The house: imports point down, heavy libraries stay in their rooms, every module states what it is for.

Each law is a function from module sources to offences, so that a second test can show it an offender. A source is
parsed once, whichever laws look at it.
"""

from __future__ import annotations

import ast
import functools
import graphlib
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from conftest import TINY
from forks import forked

import ray_unlearn

PACKAGE = Path(ray_unlearn.__file__).parent
NAME = PACKAGE.name

# From the cellar up: a room imports itself and what is above it in this list, never what comes after. Rooms on one
# line share a floor and do not know each other.
FLOORS = [
    ["errors", "wording"],
    ["study", "interrupts"],
    ["seeds", "terminal", "usercode"],
    ["store"],
    ["evaluation", "data"],
    ["training"],
    ["models"],
    ["methods"],
    ["run"],
    ["schedule"],
    ["monitor", "report"],
    ["submit"],
    ["cluster"],
    ["generation"],
    ["export", "quickstart", "notebook"],
    ["interchange"],
    ["deletion"],
    ["cli"],
    ["__main__"],
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

RAY_ROOM = "cluster"
TORCH_FREE = {
    "errors",
    "wording",
    "study",
    "store",
    "interrupts",
    "evaluation",
    "schedule",
    "monitor",
    "submit",
    "report",
    "cli",
}

Sources = Mapping[str, str]
"""Module name below the package (`""` is the package itself) -> source text."""


def read_package() -> dict[str, str]:
    """Return every module of the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path.read_text()
    return found


MODULES = read_package()


def room(module: str) -> str:
    """Return the top-level room of a module: `data` for `data.images`."""
    return module.partition(".")[0]


class Call(NamedTuple):
    """A call in a source."""

    function: str
    """As it is written: `np.load`."""
    line: int
    arguments: tuple[ast.expr, ...]
    keywords: Mapping[str | None, str]


@functools.cache
def parsed(source: str) -> ast.Module:
    """Return a source's tree."""
    return ast.parse(source)


@functools.cache
def calls(source: str) -> tuple[Call, ...]:
    """Return every call in a source, and every base of a class, as if it were called."""
    found = []
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Call):
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            found.append(Call(ast.unparse(node.func), node.lineno, tuple(node.args), keywords))
        if isinstance(node, ast.ClassDef):
            found += [Call(ast.unparse(base), node.lineno, (), {}) for base in node.bases]
    return tuple(found)


IMPORTERS = ("importlib.import_module", "import_module", "__import__")


@functools.cache
def constants(source: str) -> frozenset[str]:
    """Return every string in a source that could be a module's name."""
    nodes = (node for node in ast.walk(parsed(source)) if isinstance(node, ast.Constant))
    return frozenset(node.value for node in nodes if isinstance(node.value, str) and node.value.isidentifier())


@functools.cache
def imports(source: str, *, typing: bool = True) -> frozenset[str]:
    """Return every absolute name that a source imports, wherever the statement is; relative ones as `.name`.

    `from a import b` counts as `a.b`, because b may be a module, and so does `import_module("a.b")`. Without `typing`,
    what is below `if TYPE_CHECKING:` is left out.
    """
    found: set[str] = set()
    pending: list[ast.AST] = [parsed(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not typing:
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found |= {f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names}
        pending += ast.iter_child_nodes(node)
    named = (call.arguments[0] for call in calls(source) if call.function in IMPORTERS and call.arguments)
    found |= {name.value for name in named if isinstance(name, ast.Constant) and isinstance(name.value, str)}
    return frozenset(found)


def computed_imports(modules: Sources, module: str) -> set[str]:
    """Return the submodules that a package may import by a computed name: those that one of its strings names."""
    computed = (call for call in calls(modules[module]) if call.function in IMPORTERS and call.arguments)
    if all(isinstance(call.arguments[0], ast.Constant) for call in computed):
        return set()
    return {f"{module}.{name}".strip(".") for name in constants(modules[module])} & modules.keys()


def inner_imports(modules: Sources, module: str) -> set[str]:
    """Return the package's modules that a module imports."""
    names = {name.removeprefix(f"{NAME}.") for name in imports(modules[module]) if name.split(".")[0] == NAME}
    found = {name if name in modules else name.rpartition(".")[0] for name in names}
    return (found | computed_imports(modules, module)) - {module, NAME, ""}


def upward(modules: Sources) -> list[str]:
    """Return each import that does not point down."""
    found = []
    for module in modules:
        for name in sorted(inner_imports(modules, module)):
            here, there = room(module), room(name)
            if module and here != there and FLOOR_OF[there] >= FLOOR_OF[here]:
                found.append(f"{module} imports {name}")
    return found


def cycle(modules: Sources) -> list[str]:
    """Return the modules of one import cycle, or nothing; imports inside functions count."""
    try:
        list(graphlib.TopologicalSorter({module: inner_imports(modules, module) for module in modules}).static_order())
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def ray_outside(modules: Sources) -> list[str]:
    """Return the modules that import Ray and are not where Ray is driven."""
    outside = [m for m in modules if room(m) != RAY_ROOM]
    return [m for m in outside if any(n.split(".")[0] == "ray" for n in imports(modules[m]))]


def numba_outside(modules: Sources) -> list[str]:
    """Return the modules that import Numba, which not everybody has, and are not compiled loops."""
    outside = [m for m in modules if not m.startswith("evaluation.compiled")]
    return [m for m in outside if any(name.split(".")[0] == "numba" for name in imports(modules[m]))]


def torch_outside(modules: Sources) -> list[str]:
    """Return the modules that import torch, for more than types, in rooms that work without it."""
    return [
        module
        for module, source in modules.items()
        if room(module) in TORCH_FREE
        and any(name.split(".")[0] in ("torch", "torchvision") for name in imports(source, typing=False))
    ]


def impure(modules: Sources) -> list[str]:
    """Return the imports with which deciding what is next would depend on a clock, a storage or a thread."""
    return [
        f"{module} imports {name}"
        for module in modules
        if room(module) == "schedule"
        for name in sorted(imports(modules[module], typing=False))
        if name.split(".")[0] in ("time", "datetime", "threading", "os", "pathlib", "random")
        or name.startswith((f"{NAME}.store", f"{NAME}.run.worker"))
    ]


def tangled(modules: Sources) -> list[str]:
    """Return what the command that makes runs imports of the package, where that is more than a dozen modules."""
    found = sorted(inner_imports(modules, "generation.driver"))
    return found if len(found) > 12 else []


def undocumented(modules: Sources) -> list[str]:
    """Return the modules without a docstring that states what they do not cover; an empty file needs none."""
    docstrings = {module: ast.get_docstring(parsed(source)) or "" for module, source in modules.items()}
    return [module for module, text in docstrings.items() if modules[module].strip() and "Does not cover: " not in text]


def unsafe(modules: Sources) -> list[str]:
    """Return each call that may execute what it reads, and each import of a library that exists to do so."""
    found = []
    readers = frozenset[str]().union(*map(unpicklers, modules.values()))
    for module, source in modules.items():
        made = (call for call in calls(source) if call.function.split(".")[-1] in readers and module != COPIES)
        found += [f"{module}:{call.line}: {call.function} reads a pickle" for call in made]
        found += [f"{module}:{call.line}: {why}" for call in calls(source) if (why := _unsafe_call(module, call))]
        for name in imports(source):
            if name.split(".")[0] in ("cloudpickle", "dill", "joblib", "marshal", "shelve"):
                found.append(f"{module}: imports {name}")
            if name in ("pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load", "numpy.load", "yaml.load"):
                found.append(f"{module}: imports {name} by its bare name")
    return found


ARROW_READERS = re.compile(
    r"\b(ipc\.(open_\w+|read_\w+|RecordBatch\w*Reader)|(pq|parquet)\.(read_\w+|ParquetFile|ParquetDataset)|ParquetFile"
    r"|memory_map|feather|orc|dataset|deserialize\w*|read_parquet|read_feather|read_orc)$"
)


def arrow_readers(modules: Sources) -> list[str]:
    """Return each call that opens an Arrow or Parquet file elsewhere than where extension types are kept asleep."""
    found = []
    for module, source in modules.items():
        if module == "store.arrow":
            continue
        found += [
            f"{module}:{call.line}: {call.function}" for call in calls(source) if ARROW_READERS.search(call.function)
        ]
        names = {"ipc", "feather", "orc", "dataset", "memory_map", "ParquetFile", "read_table", "open_file"}
        found += [
            f"{module}: imports {name}" for name in imports(source, typing=False) & {f"pyarrow.{n}" for n in names}
        ]
        found += [f"{module}: imports {n}" for n in imports(source, typing=False) if n.startswith("pyarrow.parquet")]
    return found


COPIES = "models.template"
"""Where a model is copied by way of a pickle that never leaves the process's memory."""
COPY = "_Copy(io.BytesIO(self._structure), self._tensors).load"
"""The one way in which a pickle is read there: from the bytes that the same object wrote."""


@functools.cache
def unpicklers(source: str) -> frozenset[str]:
    """Return the names of a source's classes that read pickles."""
    classes = (node for node in ast.walk(parsed(source)) if isinstance(node, ast.ClassDef))
    return frozenset(one.name for one in classes if any(ast.unparse(b).endswith("Unpickler") for b in one.bases))


def _unsafe_call(module: str, call: Call) -> str:
    name, given = call.function, call.keywords
    if name.endswith("Unpickler") and module != COPIES:
        return f"{name} outside {COPIES}"
    if module == COPIES and name.endswith(".load") and name != COPY:
        return f"{name} where only {COPY} is read"
    if re.fullmatch(r"_?pickle\.loads?", name) or name.endswith((".read_pickle", ".to_pickle")):
        return name
    if name == "torch.load" and given.get("weights_only") != "True":
        return "torch.load without weights_only=True"
    if name in ("torch.save", "pickle.dump", "pickle.dumps") and module != "export":
        return f"{name} outside the competition's export"
    if given.get("allow_pickle", "False") != "False":
        return f"{name} with allow_pickle"
    if name in ("yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "yaml.unsafe_load_all"):
        return name
    if name == "yaml.load" and module != "study.yaml12":
        return "yaml.load outside yaml12"
    if name in ("eval", "exec") and module != "usercode.imports":
        return f"{name} outside usercode.imports"
    return ""


LAWS: dict[str, tuple[Callable[[Sources], list[str]], dict[str, str]]] = {
    "imports point down": (
        upward,
        {"study.schema": "def f():\n    from ray_unlearn.schedule.scheduler import schedule"},
    ),
    "rooms of one floor do not know each other": (upward, {"interrupts": "from ray_unlearn import study"}),
    "nothing imports in circles": (
        cycle,
        {
            "data.images": "def f():\n    from ray_unlearn.data import shards",
            "data.shards": "from ray_unlearn.data.images import Pixels",
        },
    ),
    "nothing imports in circles by computed names": (
        cycle,
        {"methods.mix": "def f():\n    from ray_unlearn.methods import METHODS"},
    ),
    "one room imports Ray": (ray_outside, {"run.worker": "def f():\n    import ray.exceptions"}),
    "only compiled loops import Numba": (numba_outside, {"evaluation.parity": "def f():\n    from numba import njit"}),
    "torch stays out of the rooms that need none": (torch_outside, {"report.text": "from torch import nn"}),
    "the scheduler has no clock and no storage": (impure, {"schedule.scheduler": "import time\n"}),
    "the straight path is short": (
        tangled,
        {"generation.driver": "\n".join(f"import {NAME}.{name}" for name in list(MODULES)[1:15])},
    ),
    "every module says what it does not cover": (undocumented, {"data.rows": '"""Rows."""\n'}),
    "nothing executes what it reads": (unsafe, {"models": "state = torch.load(path, weights_only=False)"}),
    "no one else loads YAML": (unsafe, {"report.text": "yaml.load(text, Loader=yaml.Loader)"}),
    "no pickle is read": (unsafe, {"run.worker": "import pickle\npickle.loads(data)"}),
    "no class reads pickles": (unsafe, {"store.records": "class Mine(pickle.Unpickler): ..."}),
    "no class that reads pickles is borrowed": (
        unsafe,
        {"store.records": "from ray_unlearn.models.template import _Copy\n_Copy(file, []).load()"},
    ),
    "a model's copy reads its own bytes": (
        unsafe,
        {"models.template": "class _Copy(pickle.Unpickler): ...\n_Copy(open(path), []).load()"},
    ),
    "no pickle hides in an array": (unsafe, {"data.splits": "np.load(path, allow_pickle=True)"}),
    "no extension type of a file comes alive": (
        arrow_readers,
        {"data.images": "import pyarrow as pa\ntable = pa.ipc.open_file(source).read_all()"},
    ),
    "no Parquet is opened elsewhere": (arrow_readers, {"report.text": "import pandas as pd\npd.read_parquet(file)"}),
    "no reader hides behind a bare name": (arrow_readers, {"store.disk": "from pyarrow.parquet import ParquetFile"}),
    "no pickle is written": (unsafe, {"run.artefacts": "torch.save(state, path)"}),
}


@pytest.mark.parametrize("law", LAWS)
def test_the_package_keeps_the_law(law: str) -> None:
    """No module offends."""
    offences, _ = LAWS[law]
    assert offences(MODULES) == []


@pytest.mark.parametrize("law", LAWS)
def test_the_law_can_be_broken(law: str) -> None:
    """A module written to offend is found: the test above can fail."""
    offences, offender = LAWS[law]
    assert set(offender) <= set(MODULES)
    assert offences({**MODULES, **offender})


def test_the_floors_name_every_room_and_no_other() -> None:
    """A new room needs a floor; a room that is gone leaves the table."""
    rooms = {room(module) for module in MODULES if module}
    assert rooms == set(FLOOR_OF), "tests/test_floors.py: FLOORS says where each room stands"


def test_the_room_of_ray_imports_it() -> None:
    """The law about Ray's room is about a room that is there."""
    drivers = {
        room(module) for module, source in MODULES.items() if any(n.split(".")[0] == "ray" for n in imports(source))
    }
    assert drivers == {RAY_ROOM}


def test_a_computed_import_is_an_import() -> None:
    """By a constant name, what it states; by another, what the module's strings name below it."""
    assert imports("import_module('ray.data')") >= {"ray.data"}
    modules = {"methods": 'FILES = ("mix", "else")\nimport_module(f"{__name__}.{one}")', "methods.mix": "", "mix": ""}
    assert inner_imports(modules, "methods") == {"methods.mix"}
    assert inner_imports({**modules, "methods": 'FILES = ("mix",)'}, "methods") == set()


def test_a_type_is_not_an_import() -> None:
    """Names imported for annotations alone do not bring torch in; everything else does."""
    source = "if TYPE_CHECKING:\n  import torch\nelse:\n  import numpy\ntry:\n  import ray\nexcept ImportError:\n  pass"
    assert imports(source) == {"torch", "numpy", "ray"}
    assert imports(source, typing=False) == {"numpy", "ray"}
    assert imports("from . import x\nfrom .a import b") == {"..x", ".a.b"}


def test_imports_are_absolute() -> None:
    """A relative import would slip past the floors."""
    assert {m: n for m, source in MODULES.items() if (n := [i for i in imports(source) if i.startswith(".")])} == {}


def test_seeds_import_torch_only_where_torch_is_asked_for() -> None:
    """At module level it is a type."""
    top = [node for node in ast.parse(MODULES["seeds"]).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert "torch" not in {name for node in top for name in imports(ast.unparse(node))}


def test_no_module_has_a_name_that_reports_nothing() -> None:
    """What is in `utils` belongs somewhere."""
    names = {part for module in MODULES for part in module.split(".")}
    assert not names & {"utils", "util", "common", "helpers", "core", "misc", "base", "tools"}


def test_modules_are_short() -> None:
    """The whole package is readable in one sitting: no module beyond 400 lines, half of them within 150.

    The limit is a smoke alarm: it asks for a look at the module. A module that exists only to keep another below the
    limit is a fault.
    """
    lines = sorted(len(source.splitlines()) for source in MODULES.values())
    assert max(lines) <= 400
    assert lines[len(lines) // 2] <= 150


def python(code: str, *arguments: str, cwd: Path) -> str:
    """Run code in a fresh interpreter and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_light_rooms_import_lightly(tmp_path: Path) -> None:
    """`--help` reads no study, and `status` makes no table: modules that cost tenths of a second are not imported."""
    code = """if True:
        import contextlib, importlib, io, sys

        def show(name):
            heavy = {"torch", "ray", "pandas", "pyarrow", "numpy", "scipy", "sklearn", "matplotlib", "pydantic", "yaml"}
            print(name, *sorted(heavy & set(sys.modules)))

        from ray_unlearn.cli import main
        for words in ("--help", "status study.yaml"):
            with contextlib.redirect_stdout(io.StringIO()):
                assert main(words.split()) == 0
            show(words)
        for name in sys.argv[1:]:
            importlib.import_module(name)
            show(name)
    """
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(TINY))
    printed = python(code, "ray_unlearn.store.metrics", "ray_unlearn.report.text", cwd=tmp_path).splitlines()
    assert printed == [
        "--help",
        "status study.yaml numpy pyarrow pydantic yaml",
        "ray_unlearn.store.metrics numpy pyarrow pydantic yaml",
        "ray_unlearn.report.text numpy pyarrow pydantic yaml",
    ]


def test_the_inline_backend_needs_no_ray(tmp_path: Path) -> None:
    """With Ray not importable, a study is made end to end; the ray backend states what to install."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY | {"storage": "out"}))
    process = forked(_without_ray, str(tmp_path / "tiny.yaml"))
    process.join(100)
    assert process.exitcode == 0
    assert len(list(tmp_path.glob("out/tiny/*/*/record.json"))) == 4


def _without_ray(file: str) -> None:
    """Make a study in a process that has imported the package, and cannot import Ray."""
    from ray_unlearn.errors import ClusterError
    from ray_unlearn.generation import generate
    from ray_unlearn.study import load_study

    assert "ray" not in sys.modules
    sys.modules["ray"] = None  # type: ignore[assignment]
    summary = generate(load_study(file), backend="inline")
    assert (summary.planned, summary.made, summary.exit_code) == (4, 4, 0)
    with pytest.raises(
        ClusterError, match=r"^the ray backend needs Ray: pip install 'ray\[default\]', or use --backend"
    ):
        generate(load_study(file), backend="ray")
