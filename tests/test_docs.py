"""docs/strategies.md says what the strategies say of themselves, and what they do."""

import importlib.util
import re
from pathlib import Path

import pytest

import hintbench
from hintbench.core import BUILD
from hintbench.plugins.finding import load_plugin
from hintbench.plugins.registry import OWN_STRATEGIES
from hintbench.testing.exploration import explore, explore_handfuls
from hintbench.testing.subjects import Subject

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate_docs", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(BUILD == "interpreted", reason="its runs take minutes interpreted")
def test_the_strategies_document_is_up_to_date(generate):
    written = (DOCS / "strategies.md").read_text(encoding="utf-8")
    assert written == generate.document(), "run python docs/generate.py"


@pytest.mark.parametrize("name", OWN_STRATEGIES)
def test_every_strategy_says_what_it_is(generate, name):
    import inspect

    from hintbench.plugins.finding import find_strategy

    text = inspect.getmodule(find_strategy(name)).__doc__
    heads = " ".join(generate.HEADS.findall(text))
    assert text.startswith(f"{name}: ")
    if name != "none":  # all in one line
        for head in ("What it tracks", "When it reports", "What it holds"):
            assert head in heads
    assert "Whose idea" in heads
    assert "Known defects" in heads


def test_documents_name_files_that_exist():
    for document in DOCS.glob("*.md"):
        text = document.read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (DOCS / link).exists(), f"{document.name}: {link}"


def test_a_file_stands_for_a_name_wherever_a_command_is_shown():
    shown = [*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    shown += ROOT.glob("hintbench/templates/*.txt")
    files = 0
    for document in shown:
        text = document.read_text(encoding="utf-8")
        for command in re.findall(r"hintbench (?:run|check) [^`\n]*", text):
            assert " -p " not in command, f"{document.name}: {command}"
            files += ".py" in command or "$file" in command
    assert files > 5


@pytest.fixture
def example(tmp_path):
    """The whole strategy of docs/writing-a-strategy.md, in a file."""
    text = (DOCS / "writing-a-strategy.md").read_text(encoding="utf-8")
    (whole,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "mine.py").write_text(whole, encoding="utf-8")
    return tmp_path / "mine.py"


def test_the_strategy_of_the_page_on_writing_one_runs(example):
    load_plugin(str(example))
    guest = {"memory": "256MiB", "vcpus": 2}
    result = hintbench.run("mine", "churn,operations=5000,final_idle_ns=300000000", guest)
    assert result.violations == {}
    assert result.metrics["reported_blocks"] > 50


def test_the_strategy_of_the_page_on_writing_one_is_not_refuted(example):
    make = Subject(str(example)).maker()
    for explored in (
        explore(make, range(1, 101), stop=False),
        explore_handfuls(make, range(1, 101)),
    ):
        assert (explored.counts, explored.error) == ({}, None)
        assert explored.with_reports > explored.schedules / 2
