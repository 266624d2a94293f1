"""evaluate, report and quickstart, as a person types them."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import TINY, merged
from evaluated import evaluated_store, evaluated_study

from ray_unlearn import quickstart
from ray_unlearn.cli import main
from ray_unlearn.evaluation.scores import Scores

COUNTS = {"retrained": 8, "again": 4, "shifted": 4}


@pytest.fixture
def study(tmp_path: Path) -> str:
    """A study file whose store holds outputs of three populations."""
    return str(evaluated_study(tmp_path, COUNTS))


def test_evaluate_prints_a_table_and_report_makes_the_page(study: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    """Law: N, interval and null of every method on the terminal; the page and the Markdown are of the same numbers."""
    assert main(["evaluate", study, "--jobs", "1"]) == 0
    said = capsys.readouterr()
    assert "parity" in said.out
    assert "shifted" in said.out
    assert "null" in said.out
    assert "scored shifted (N=4) against retrained" in said.err
    assert main(["evaluate", study, "--set", "execution.workers=2"]) == 0
    said = capsys.readouterr()
    assert "5 of 5 parts are unchanged" in said.err
    assert f"`ray-unlearn report {study} --set execution.workers=2` makes a page of them" in said.out
    assert main(["report", study]) == 0
    page = (tmp_path / "store" / "tiny" / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "shifted" in page
    assert main(["report", study, "--format", "markdown", "--output", str(tmp_path / "table.md")]) == 0
    assert "| shifted" in (tmp_path / "table.md").read_text()


def test_evaluate_as_json_in_another_mode(study: str, capsys: pytest.CaptureFixture):
    """Law: --json prints the scores and nothing else, and on standard error what the files hold now; --mode and
    --populations are obeyed.
    """
    assert main(["evaluate", study, "--json", "--mode", "exact", "--populations", "again"]) == 0
    printed = capsys.readouterr()
    assert printed.err.endswith("scores.json and scores.parquet, which now hold again alone\n")
    scores = Scores.model_validate_json(printed.out)
    assert scores.mode == "exact"
    assert list(scores.populations) == ["original", "retrained", "again"]


def test_scores_of_some_populations_are_reported_to_be_all_that_is_kept(study: str, capsys: pytest.CaptureFixture):
    """Law: --only leaves the others out of scores.json, and of the page that follows, with a word."""
    assert main(["evaluate", study, "--only", "again", "--jobs", "1"]) == 0
    assert "scores.parquet, which now hold again alone; " in capsys.readouterr().out
    assert main(["evaluate", study, "--jobs", "1"]) == 0
    assert "alone" not in capsys.readouterr().out.splitlines()[-1]


def test_a_report_without_an_evaluation_states_what_to_do(study: str, capsys: pytest.CaptureFixture):
    """Law: one line, no traceback."""
    assert main(["report", study]) == 1
    assert capsys.readouterr().err.endswith(f"no evaluation yet; `ray-unlearn evaluate {study}` makes one\n")
    assert main(["evaluate", study, "--set", "name=other"]) == 1
    expected = f"`ray-unlearn generate {study} --set name=other` first\n"
    assert capsys.readouterr().err.endswith(expected)


@pytest.mark.ray
def test_parts_on_ray_are_those_of_this_process(study: str, tmp_path: Path, ray_cluster: None):
    """Law: where a part is computed changes nothing; an error of a part is one line."""
    assert main(["evaluate", study, "--jobs", "2"]) == 0
    scores = Scores.model_validate_json((tmp_path / "store" / "tiny" / "scores.json").read_text())
    other, store = evaluated_store(tmp_path / "other", COUNTS)
    from ray_unlearn.evaluation.evaluate import evaluate

    assert evaluate(other, store).populations == scores.populations


def test_neither_torch_nor_ray_is_needed(study: str, tmp_path: Path):
    """Law: with torch and Ray not to be found, a store is evaluated and shown, in a fresh interpreter."""
    code = """if True:
        import importlib.abc, sys

        class Nowhere(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in ("torch", "torchvision", "ray"):
                    raise ModuleNotFoundError(name)

        sys.meta_path.insert(0, Nowhere())
        from ray_unlearn.cli import main
        assert main(["evaluate", sys.argv[1]]) == 0
        assert main(["report", sys.argv[1]]) == 0
        import ray_unlearn.report.markdown
        assert not {"torch", "torchvision", "ray"} & set(sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code, study], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "store" / "tiny" / "report.html").exists()


def test_the_job_is_the_command(study: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """Law: jobs/study.py --stage evaluate takes the command's arguments, and ends as the command does."""
    job = Path(__file__).resolve().parents[1] / "jobs" / "study.py"

    def run(population: str) -> tuple[int | str | None, str]:
        monkeypatch.setattr(sys, "argv", [str(job), "--stage", "evaluate", study, "--populations", population])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(job), run_name="__main__")
        return ended.value.code, capsys.readouterr().out

    code, printed = run("again")
    assert code == 0
    assert "again" in printed
    assert (tmp_path / "store" / "tiny" / "scores.parquet").exists()
    assert run("agian") == (2, "")


def test_quickstart_ends_with_scores_and_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """Law: one command from nothing to a page, which the last lines name."""
    populations = {
        "retrained": {"method": "train", "on": "retain", "count": 6},
        "unlearned": {"method": "finetune", "count": 6, "noise_std": 0.01},
        "finetune": None,
    }
    small = merged(TINY | {"storage": "."}, {"populations": populations, "evaluation": {"resamples": 10}})
    monkeypatch.setattr(quickstart, "STUDY", yaml.safe_dump(small))
    assert main(["quickstart", str(tmp_path / "q"), "--backend", "inline"]) == 0
    said = capsys.readouterr().out
    assert "retrained against itself" in said
    report = next(line.split()[-1] for line in said.splitlines() if line.startswith("report "))
    assert Path(report).read_text().startswith("<!doctype html>")
    assert quickstart.READING in said
    assert quickstart.WHY in said
    (tmp_path / "q/study.yaml").write_text(yaml.safe_dump(small) + "# mine\n")
    assert main(["quickstart", str(tmp_path / "q"), "--backend", "inline"]) == 0
    assert quickstart.WHY not in capsys.readouterr().out


def test_a_report_s_ending_shows_its_format_and_is_refused_where_it_does_not_fit(
    study: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    """Law: no HTML under a name that ends in .pdf; .tex, .csv and .md choose the format; a refusal writes nothing."""
    assert main(["evaluate", study, "--jobs", "1"]) == 0
    for name, more, complaint in [
        ("a.pdf", [], "a.pdf: the report's format is html; expected a name that ends in .html or .htm; found .pdf"),
        (
            "a.html",
            ["--format", "latex"],
            "the report's format is latex; expected a name that ends in .tex; found .html",
        ),
        (
            "a.html",
            ["--columns", "N"],
            "columns are of a table; expected the format latex, markdown or csv; found html",
        ),
    ]:
        assert main(["report", study, "--output", str(tmp_path / name), *more]) == 2
        assert complaint in capsys.readouterr().err
        assert not (tmp_path / name).exists()
    assert (
        main(["report", study, "--output", str(tmp_path / "a.tex"), "--columns", "population,N", "--columns", "p"]) == 0
    )
    assert r"shifted & 4 & " in (tmp_path / "a.tex").read_text()
    assert main(["report", study, "--format", "csv", "--figures", str(tmp_path / "figures")]) == 0
    assert (tmp_path / "store/tiny/report.csv").read_text().startswith("population,N,score,score_low,")
    assert (tmp_path / "figures/closeness.pdf").exists()
