"""The public names, and what they must not cost: no torch for an import or for `--help`."""

from __future__ import annotations

import inspect
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import finetune

HEAVY = ["torch", "torchvision", "timm", "numpy", "pandas", "sklearn", "scipy", "matplotlib", "PIL", "jinja2"]
REPORT = f"""
import json, sys
print(json.dumps([name for name in {HEAVY} if name in sys.modules]), file=sys.stderr)
"""
HELP = """
import sys
sys.argv = ["finetune", "--help"]
from finetune.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code
"""


def heavy_after(code: str) -> list[str]:
    """Which of the slow libraries a fresh interpreter has loaded after `code`."""
    done = subprocess.run([sys.executable, "-c", code + REPORT], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stderr.splitlines()[-1])


@pytest.mark.parametrize(
    "code",
    [
        "import finetune",
        "import finetune; finetune.FinetuneError, finetune.__version__, dir(finetune)",
        "import finetune.errors, finetune.files, finetune.recipe.load, finetune.runs.names",
        HELP,
    ],
    ids=["import", "names", "recipe", "help"],
)
def test_nothing_slow_is_loaded(code: str) -> None:
    assert heavy_after(code) == []


def test_the_look_at_loaded_modules_sees_one() -> None:
    assert heavy_after("import numpy") == ["numpy"]


def test_help_answers_in_well_under_half_a_second(cli) -> None:
    def processor_time() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    seconds = []
    for _ in range(3):
        before = processor_time()
        done = cli("--help")
        seconds.append(processor_time() - before)
        assert (done.rc, done.err) == (0, "")
        assert "Usage: finetune" in done.out
    # Processor time, and the best of three, because other processes share the machine.
    assert min(seconds) < 0.5


def test_all_is_sorted_and_whole() -> None:
    assert finetune.__all__ == sorted(finetune.__all__)
    assert set(finetune.__all__) == set(finetune._HOMES)
    assert set(finetune.__all__) <= set(dir(finetune))


@pytest.mark.parametrize("name", finetune.__all__)
def test_a_public_name_is_there_and_says_what_it_is(name: str) -> None:
    public = getattr(finetune, name)
    assert inspect.isclass(public) or inspect.isfunction(public)
    assert (inspect.getdoc(public) or "?").splitlines()[0].endswith("."), "the docstring's first line is a sentence"
    methods = inspect.getmembers(public, inspect.isfunction) if inspect.isclass(public) else []
    mute = [method for method, function in methods if not method.startswith("_") and not inspect.getdoc(function)]
    assert mute == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Clasifier'"):
        finetune.Clasifier  # noqa: B018  # the access is the test


def test_public_functions_share_no_name_with_a_module() -> None:
    """Importing a submodule binds it in its package, where it would hide a function of the same name."""
    package = Path(finetune.__file__).parent
    modules = {path.stem for path in package.iterdir()}
    assert len(modules) > 5
    assert modules.isdisjoint(finetune.__all__)


def test_dir_shows_the_public_names_only() -> None:
    assert dir(finetune) == sorted([*finetune.__all__, "__version__"])


def test_the_version_is_the_distributions() -> None:
    declared = Path(__file__).parents[1].joinpath("pyproject.toml").read_text("utf-8")
    assert f'\nversion = "{finetune.__version__}"\n' in declared
