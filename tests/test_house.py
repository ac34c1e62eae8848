"""The order of the rooms: imports run down, and no two modules import each other."""

import grimp
import networkx
import pytest

# From the top down. Rooms of one line do not know each other.
LAYERS = (
    "benchmarks.__main__",
    "benchmarks.cli",
    {"benchmarks.api", "benchmarks.meters"},
    "benchmarks.sweeps",
    "benchmarks.trials",
    "benchmarks.nodes",
    "benchmarks.spec",
    "reports.pdf",
    {"reports.text", "reports.figures"},
    "reports.measures",
    {"lightning_modules", "datasets"},
    "home",
)


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("paceline", cache_dir=None, exclude_type_checking_imports=True)


def test_imports_run_down_only(graph):
    wrong = graph.find_illegal_dependencies_for_layers(LAYERS, containers={"paceline"})
    assert [(found.importer, found.imported) for found in wrong] == []


def test_no_modules_import_each_other(graph):
    imports = networkx.DiGraph(
        (module, imported)
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
    )
    circles = [sorted(c) for c in networkx.strongly_connected_components(imports) if len(c) > 1]
    assert circles == []


def test_every_room_has_its_place_in_the_order(graph):
    named = {name for layer in LAYERS for name in ([layer] if isinstance(layer, str) else layer)}
    rooms = {module for module in graph.modules if module != "paceline"}
    homeless = [
        room
        for room in rooms
        if not any(f"{room}.".startswith(f"paceline.{name}.") for name in named)
        and not any(f"paceline.{name}.".startswith(f"{room}.") for name in named)
    ]
    assert homeless == []
