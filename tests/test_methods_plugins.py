"""Methods by other names, and methods of installed distributions: found, run and identified like the package's own."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from conftest import TINY, merged, payload_bytes
from forks import run

from ray_unlearn.cli import main
from ray_unlearn.data.images import RunData
from ray_unlearn.errors import MethodError, StudyError
from ray_unlearn.generation import generate
from ray_unlearn.methods import ALIASES, METHODS
from ray_unlearn.methods.resolve import method_of, resolve
from ray_unlearn.seeds import Seeds
from ray_unlearn.study import parse_study
from ray_unlearn.usercode.sources import package_sha256

MODULE = """
import torch
from pydantic import Field
from ray_unlearn.methods import Method
from ray_unlearn.study.recipe import Float, Recipe
from ray_unlearn.training import fit

class ShrinkOptions(Recipe):
    factor: Float = Field(0.9, gt=0, description="What every weight is multiplied by.")

def shrink(model, data, options, rng):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(options.factor)
    fit(model, data, options, rng)

METHOD = Method(
    name="shrink",
    run=shrink,
    options=ShrinkOptions,
    starts_from="original",
    summary="Shrink and repair.",
    source="a test",
    cost="epochs on retain",
    published={"published": {"factor": 0.5}},
)
"""


def installed(folder: Path, *, version: str = "1.2", name: str = "shrink", module: str = MODULE) -> dict[str, str]:
    """Install a distribution that has a method; return the environment in which it is found."""
    info = folder / f"shrinkers-{version}.dist-info"
    info.mkdir(parents=True)
    (folder / "shrinkers.py").write_text(module)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: shrinkers\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[ray_unlearn.methods]\n{name} = shrinkers:METHOD\n")
    return {**os.environ, "PYTHONPATH": str(folder)}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study of one run by the installed method."""
    population = {"method": "shrink", "preset": "published", "epochs": 1}
    tree = merged(TINY, {"storage": str(tmp_path / "store"), "populations": {"finetune": None, "mine": population}})
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(tree))
    return tmp_path / "study.yaml"


def test_an_installed_method_is_like_ours(tmp_path, study):
    """Law: listed with its distribution, made with its options and presets, identified by name and version."""
    site = installed(tmp_path / "site")
    listed = run(["methods", "shrink"], environment=site)
    assert listed.returncode == 0, listed.stderr
    assert "installed with: shrinkers 1.2" in listed.stdout
    assert "factor = 0.9  # What every weight is multiplied by." in listed.stdout
    made = run(["generate", str(study), "--backend", "inline"], environment=site)
    assert made.returncode == 0, made.stderr
    held = json.loads((tmp_path / "store" / "tiny" / "mine" / "population.json").read_text())
    found = {"name": "shrink", "distribution": {"name": "shrinkers", "version": "1.2"}}
    assert held["identity"]["method"] == found
    assert held["identity"]["options"]["factor"] == 0.5


def test_an_installed_method_leaves_weights_alone(tmp_path, study):
    """Law: a run whose checkpoint does not give its outputs, because of a hook here, fails and names the method."""
    hook = "model.register_forward_hook(lambda net, images, logits: logits * options.factor)"
    module = MODULE.replace("    fit(model, data, options, rng)\n", f"    fit(model, data, options, rng)\n    {hook}\n")
    assert hook in module
    made = run(["generate", str(study), "--backend", "inline"], environment=installed(tmp_path / "site", module=module))
    assert made.returncode == 3
    assert "method shrink: the net as it was left gives other outputs than its" in made.stderr
    assert "Found: module net: a forward hook" in made.stderr


def test_another_version_is_another_population(tmp_path, study):
    """Law: runs of one version are not continued by another; without the distribution the name is unknown."""
    command = ["generate", str(study), "--backend", "inline"]
    assert run(command, environment=installed(tmp_path / "site")).returncode == 0
    other = run(command, environment=installed(tmp_path / "later", version="1.3"))
    assert other.returncode == 1
    assert 'method.distribution.version: "1.2" -> "1.3"' in other.stderr
    missing = run(command, environment={**os.environ, "PYTHONPATH": ""})
    assert "no method 'shrink'" in missing.stderr


def test_a_mix_is_of_the_versions_of_its_parts(monkeypatch):
    """Law: another version of a part's distribution is another mix, which a worker that has that version refuses."""
    tree = merged(TINY, {"populations": {"mine": {"method": "mix", "parts": [{"method": "theirs", "share": 1}]}}})
    uses = {}
    monkeypatch.setattr(METHODS, "_entries", {"theirs": None})
    for version in ("1.2", "1.3"):
        theirs = replace(METHODS["finetune"], name="theirs", distribution={"name": "shrinkers", "version": version})
        monkeypatch.setattr(METHODS, "_loaded", {"theirs": theirs})
        uses[version] = resolve(parse_study(tree, where="x"), "mine")
        assert method_of(uses[version]).name == "mix"
    assert [use.identity["distributions"]["theirs"]["version"] for use in uses.values()] == ["1.2", "1.3"]
    with pytest.raises(MethodError, match=r"method mix: the study was planned with .*'1\.2'.*; here is .*'1\.3'"):
        method_of(uses["1.2"])


@pytest.fixture
def entry(tmp_path, monkeypatch):
    """Give the registry, as it is in this process, a distribution's entry point; the module's text is what is given."""

    def made(module: str) -> None:
        installed(tmp_path, module=module)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "shrinkers", raising=False)
        (found,) = importlib.metadata.distributions(name="shrinkers", path=[str(tmp_path)])
        monkeypatch.setattr(METHODS, "_entries", {one.name: one for one in found.entry_points})
        monkeypatch.setattr(METHODS, "_loaded", {})

    return made


def test_other_names_of_an_installed_method(entry, capsys):
    """Law: its aliases are taken in studies, in parts of a mix and by `methods`, with the options that they imply."""
    entry(MODULE.replace('    source="a test"', '    aliases={"HALF": {"factor": 0.5}},\n    source="a test"'))

    def identity(**population):
        return resolve(parse_study(merged(TINY, {"populations": {"mine": population}}), where="x"), "mine").identity

    assert identity(method="HALF", epochs=2) == identity(method="shrink", factor=0.5, epochs=2)
    parts = [{"method": "HALF"}, {"method": "shrink", "factor": 0.5}, {"method": "shrink"}]
    mixes = [identity(method="mix", parts=[{"share": 1, **part}]) for part in parts]
    assert mixes[0] == mixes[1] != mixes[2]
    assert main(["methods", "HALF"]) == 0
    assert "installed with: shrinkers 1.2" in capsys.readouterr().out
    with pytest.raises(StudyError, match=r"no method 'HALP' \(did you mean 'HALF'\?\)"):
        identity(method="HALP")


def test_the_files_of_an_editable_installation_are_its_identity(entry, tmp_path):
    """Law: a method that its author edits under one version is another one; an installed copy is its version alone."""
    entry(MODULE)
    installed_copy = METHODS["shrink"].distribution
    assert dict(installed_copy) == {"name": "shrinkers", "version": "1.2"}
    (tmp_path / "shrinkers-1.2.dist-info" / "direct_url.json").write_text('{"dir_info": {"editable": true}}')
    found = []
    for helper in ("RATE = 1\n", "RATE = 2\n", "RATE = 1\n"):
        (tmp_path / "helper.py").write_text(helper)
        (tmp_path / "shrinkers.py").write_text("import helper\n" + MODULE)
        METHODS._loaded.clear()
        found.append(dict(METHODS["shrink"].distribution))
    assert found[0] == found[2] != found[1]
    assert found[0].keys() == {*installed_copy, "files_sha256"}


@pytest.mark.parametrize("package", [True, False])
def test_the_files_of_a_package_are_hashed_with_and_without_an_init(package: bool, tmp_path: Path):
    """Law: an edited module that the method imports is another digest; one that nothing imports is not, of a folder."""
    folder = tmp_path / "theirs" / "sub"
    folder.mkdir(parents=True)
    if package:
        (tmp_path / "theirs" / "__init__.py").touch()
    (folder / "method.py").write_text("from . import near\nfrom theirs.far import RATE\n")
    files = (folder / "near.py", tmp_path / "theirs" / "far.py", folder / "other.py")
    found = []
    for edited in (None, *files):
        for file in files:
            file.write_text("RATE = 2\n" if file == edited else "RATE = 1\n")
        found.append(package_sha256("theirs.sub.method", str(folder / "method.py")))
    assert len({*found}) == 4 if package else (len({*found[:3]}), found[3]) == (3, found[0])


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ("return model", None),
        ("return {'loss': 0.5}", None),
        ("return (m := copy.deepcopy(model)).apply(halve)", "it changed the net that it got, and returned another net"),
        ("return [copy.deepcopy(model).apply(halve) for _ in 'ab']", "net that it got, and returned 2 nets or state"),
    ],
)
def test_what_an_installed_method_returns_is_not_dropped(end: str, expected: str | None, entry):
    """Law: a net beside the one that was changed is refused, as a script's is; what holds no weights is left alone."""
    halve = "import copy\n\ndef halve(net):\n    for p in net.parameters(recurse=False):\n        p.data.mul_(0.5)\n"
    entry(halve + MODULE.replace("    fit(model, data, options, rng)\n", f"    {end}\n"))
    method, net = METHODS["shrink"], torch.nn.Linear(2, 2)
    data = RunData(*[None] * 4, num_classes=2, device=torch.device("cpu"))  # type: ignore[arg-type]
    with pytest.raises(MethodError, match=expected) if expected else contextlib.nullcontext():
        method.apply(net, data, method.options(), Seeds(study=0))


@pytest.mark.parametrize("array", ["forget.pixels.labels_N", "retain.indices"])
def test_an_installed_method_cannot_change_other_runs_images(array: str, entry, tiny, tmp_path):
    """Law: one that writes on labels or on the order of images fails, and no other run sees it."""
    entry(MODULE.replace("    fit(model", f"    data.{array}[:] = 0\n    fit(model"))
    alone = generate(tiny(name="alone", populations={"finetune": {"count": 2}}), backend="inline")
    mixed = generate(tiny(populations={"finetune": {"count": 2}, "mine": {"method": "shrink"}}), backend="inline")
    assert (alone.made, mixed.made) == (3, 3)
    (reason,) = mixed.failed.values()
    assert "assignment destination is read-only" in reason
    assert payload_bytes(tmp_path / "store" / "alone") == payload_bytes(tmp_path / "store" / "tiny")


def test_an_installed_method_that_fails_hides_no_mistyped_name(entry):
    """Law: a name that is none is refused as before, where a method that was not asked for cannot be imported."""
    entry("import nothing_of_that_name\n")
    with pytest.raises(StudyError, match=r"no method 'fintune' \(did you mean 'finetune'\?\)"):
        resolve(parse_study(merged(TINY, {"populations": {"mine": {"method": "fintune"}}}), where="x"), "mine")


def test_an_installed_method_that_exits_on_import_is_refused(entry):
    """Law: a distribution that calls sys.exit ends no command in silence."""
    entry("import sys\nsys.exit(0)\n")
    with pytest.raises(MethodError, match=r"shrinkers 1\.2 cannot be imported: SystemExit: it calls sys\.exit\(0\)"):
        METHODS["shrink"]


def test_an_alias_of_the_packages_own_is_refused(entry):
    """Law: a distribution cannot give one of the package's names another meaning, by an alias either."""
    entry(MODULE.replace('    source="a test"', '    aliases={"MSG": {}},\n    source="a test"'))
    with pytest.raises(MethodError, match=r"shrinkers 1\.2 has a method 'MSG', which is a name of ray_unlearn's"):
        METHODS["shrink"]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        (
            {"module": "import nothing_of_that_name\n"},
            "method 'shrink' of the distribution shrinkers 1.2 cannot be imp",
        ),
        ({"module": "METHOD = 3\n"}, "shrinkers:METHOD: expected a Method of that name; found int"),
        ({"name": "shrunk"}, "expected a Method of that name; found a Method named 'shrink'"),
        (
            {"name": "finetune"},
            "the distribution shrinkers 1.2 has a method 'finetune', which is a name of ray_unlearn's",
        ),
        ({"name": "MSG"}, "the distribution shrinkers 1.2 has a method 'MSG', which is a name of ray_unlearn's"),
    ],
)
def test_a_broken_one_is_one_line(tmp_path, how, expected):
    """Law: what cannot be had ends with a line that names the distribution; a traceback is no answer."""
    asked = how.get("name", "shrink") if how.get("name") not in ("finetune", "MSG") else "theirs"
    found = run(["methods", asked], environment=installed(tmp_path / "site", **how))
    assert found.returncode == 1
    assert expected in found.stderr
    assert "Traceback" not in found.stderr


def test_names_of_the_literature():
    """Law: Deep Unlearn's names are the competition's entries, CT its transposing half; digests are the methods'."""
    assert {alias: name for alias, (name, _) in ALIASES.items()} == {
        **{"FCS": "fanchuan", "MSG": "kookmin", "CFW": "seif", "PRMQ": "sebastian", "CT": "toshi_marvel"},
        **{"KDE": "amnesiacs", "RNI": "sun", "NegMerge": "task_vector"},
    }
    assert not set(ALIASES) & set(METHODS)

    def identity(**population):
        return resolve(parse_study(merged(TINY, {"populations": {"mine": population}}), where="x"), "mine").identity

    assert identity(method="MSG", lr=0.5) == identity(method="kookmin", lr=0.5)
    assert identity(method="CT") == identity(method="toshi_marvel", variant="transpose")
    published = {"preset": "competition"}
    assert identity(method="CT", **published) == identity(method="toshi_marvel", **published, variant="transpose")
    assert identity(method="CT", **published, variant="mix") == identity(method="toshi_marvel", **published)
    mixes = [
        identity(method="mix", parts=[{"share": 1, **published, **part}])
        for part in ({"method": "CT"}, {"method": "toshi_marvel", "variant": "transpose"}, {"method": "toshi_marvel"})
    ]
    assert mixes[0] == mixes[1] != mixes[2]


def test_a_mistyped_alias_is_guessed():
    """Law: the error names the nearest name, aliases included."""
    tree = merged(TINY, {"populations": {"mine": {"method": "PRMG"}}})
    with pytest.raises(StudyError, match=r"no method 'PRMG' \(did you mean 'PRMQ'\?\)"):
        resolve(parse_study(tree, where="x"), "mine")
