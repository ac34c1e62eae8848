"""Which code the identity of a trial covers."""

from pathlib import Path

import pytest

from paceline.benchmarks.spec.code import all_files, files_of, hashes
from paceline.benchmarks.spec.plugin import Plugin
from paceline.benchmarks.spec.reading import load_benchmark
from tests.workload import trial


def test_a_trial_covers_its_own_algorithm_data_and_model_and_what_they_import() -> None:
    trials = load_benchmark("criteo", []).trials()
    files = {each.label: set(each.files) for each in trials}
    for label, found in files.items():
        assert f"lightning_modules/{label}.py" in found
        assert {"lightning_modules/backend/strategy.py", "benchmarks/trials/rank.py"} <= found
        assert {"datasets/criteo.py", "datasets/reading/cache.py"} <= found
        assert "lightning_modules/models/click_through.py" in found
        assert not {"datasets/text.py", "lightning_modules/models/language_model.py"} & found
        assert found <= set(all_files())
    assert "lightning_modules/sync_sgd.py" in files["baseline"]  # its base class
    assert "lightning_modules/downpour.py" not in files["admm"]


def test_another_algorithm_changes_no_identity() -> None:
    own = trial(2, algorithm="admm")
    code = hashes(own.files | all_files())
    before = own.identity(code=code)
    assert own.identity(code=code | {"lightning_modules/downpour.py": "changed"}) == before
    assert own.identity(code=code | {"lightning_modules/new.py": "added"}) == before
    for name in ("lightning_modules/admm.py", "tests/workload.py", "datasets/partition.py"):
        assert own.identity(code=code | {name: "changed"}) != before


@pytest.mark.parametrize("with_package", [False, True])
def test_what_a_users_file_imports_from_beside_it_counts(tmp_path: Path, with_package: bool):
    place = tmp_path / "layers.py"
    if with_package:
        place = tmp_path / "layers" / "__init__.py"
        place.parent.mkdir()
    place.write_text("from constants import WIDTH\n")
    (tmp_path / "constants.py").write_text("WIDTH = 3\n")
    (tmp_path / "unused.py").write_text("import constants\n")
    source = "import torch\nimport layers\n"
    found = files_of([Plugin(f"{tmp_path / 'model.py'}:Model", {}, source)])
    own = {name for name in found if not name.startswith(("lightning_", "datasets", "benchmarks"))}
    assert own == {str(place.relative_to(tmp_path)), "constants.py"}


def test_the_target_changes_no_identity() -> None:
    def identity(*overrides: str) -> str:
        return load_benchmark("criteo", list(overrides)).trials()[0].identity()

    assert identity("--workload.target.loss=0.5") == identity()
    assert identity("--workload.budget.examples=1000") != identity()
