"""The package's face: what it names is there, it costs nothing to import, and no part leans on it."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import agentic_hpt

PACKAGE = Path(agentic_hpt.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
HEAVY = (
    "torch",
    "mlflow",
    "optuna",
    "langgraph",
    "langchain",
    "langchain_core",
    "matplotlib",
    "sklearn",
    "sqlalchemy",
    "pydantic",
    "numpy",
    "yaml",
)


@pytest.mark.parametrize("name", agentic_hpt.__all__)
def test_a_public_name_can_be_had_and_has_a_docstring(name: str) -> None:
    found = getattr(agentic_hpt, name)
    assert found.__name__ == name
    assert inspect.getdoc(found)


def test_all_is_sorted_and_is_what_dir_lists() -> None:
    assert agentic_hpt.__all__ == sorted(set(agentic_hpt.__all__))
    assert dir(agentic_hpt) == agentic_hpt.__all__


def test_the_names_for_type_checkers_are_those_at_run_time() -> None:
    """`if TYPE_CHECKING` imports, the lazy table and `__all__` say the same."""
    tree = ast.parse(Path(agentic_hpt.__file__).read_text(encoding="utf-8"))
    declared = {
        (str(node.module), alias.name)
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {name for _, name in declared} == set(agentic_hpt.__all__)
    for module, name in declared:
        home = getattr(agentic_hpt, name).__module__
        assert home == module or home.startswith(f"{module}.")


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'agentic_hpt' has no attribute 'Trail'"):
        agentic_hpt.Trail  # noqa: B018
    assert not hasattr(agentic_hpt, "_private")


def in_a_fresh_process(statement: str) -> set[str]:
    """Give the heavy packages that a statement imports."""
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout)) & set(HEAVY)


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert in_a_fresh_process("import agentic_hpt; agentic_hpt.__version__") == set()


def test_telling_the_facts_of_a_built_in_job_imports_nothing_heavy() -> None:
    statement = "from agentic_hpt.objectives.torch_trainer import TorchTrainer; TorchTrainer('digits').facts({})"
    assert not in_a_fresh_process(statement) & {"torch", "sklearn", "numpy"}


def test_declaring_a_space_imports_nothing_heavy() -> None:
    statement = "import agentic_hpt as hpt; hpt.SearchSpace(a=hpt.Float(0, 1)), hpt.Budget(trials=1), hpt.Pruned"
    assert in_a_fresh_process(statement) == set()


@pytest.mark.parametrize(
    ("module", "may"),
    [
        ("errors", set()),
        ("records", set()),
        ("space", set()),
        ("protocols", set()),
        ("config", {"pydantic", "yaml"}),
        ("strategies", {"optuna", "numpy", "sqlalchemy"}),
        ("ledger", {"pydantic", "yaml", "sqlalchemy"}),  # config owns the masking of addresses
        ("cli", {"pydantic", "yaml"}),
        ("study", {"pydantic", "yaml", "sqlalchemy"}),
    ],
)
def test_a_part_imports_no_library_behind_another_door(module: str, may: set[str]) -> None:
    assert in_a_fresh_process(f"import agentic_hpt.{module}") <= may


def imported(path: Path) -> list[str]:
    """List the modules that a file imports, wherever it does so; `from agentic_hpt import wiring` is `wiring`'s."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            submodules = {p.stem for p in PACKAGE.iterdir()} if node.module == "agentic_hpt" else set()
            found += [f"{node.module}.{a.name}" if a.name in submodules else str(node.module) for a in node.names]
    return found


def test_no_module_imports_the_package_root() -> None:
    assert len(SOURCES) > 50
    guilty = [str(path) for path in SOURCES if "agentic_hpt" in imported(path)]
    assert guilty == []
