"""Rooms: imports run one way, nothing runs in a circle, and no room becomes a junk drawer."""

from __future__ import annotations

import ast
import functools
import graphlib

from command import ROOT

PACKAGE = ROOT / "detr"

# From what everybody shares to what nobody imports. A room may import from those before it, and from itself.
ORDER = [
    "shared",
    "config",
    "data",
    "models",
    "losses",
    "evaluation",
    "weights",
    "drawing",
    "tracking",
    "training",
    "checking",
    "analysing",
    "assembly",
    "inference",
    "run",
    "exporting",
    "benchmarking",
    "comparison",
    "sweeping",
    "monitoring",
    "entry",
    "commands",
    "__main__",
]
SHARED = {"", "structures", "boxes", "errors", "files", "distributed", "environment", "texts"}

LOOSE = 12  # files in detr/ itself
FILE, FUNCTION = 400, 60  # lines


@functools.cache
def trees() -> dict[str, ast.Module]:
    """Module, without `detr.` → what is written in it."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix("__init__").rstrip(".")] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imports(module: str) -> set[str]:
    """The modules of ours that a module imports, anywhere in it: also late, and for types only."""
    found = set()
    for node in ast.walk(trees()[module]):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "detr":
            base = (node.module or "").removeprefix("detr").lstrip(".")
            for alias in node.names:
                inside = f"{base}.{alias.name}".lstrip(".")
                found.add(inside if inside in trees() else base)
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("detr.") for alias in node.names if alias.name.startswith("detr.")}
    return found - {module}


def room(module: str) -> str:
    top = module.partition(".")[0]
    return "shared" if top in SHARED else top


def test_every_room_has_its_place() -> None:
    assert {room(module) for module in trees()} == set(ORDER)


def test_imports_run_one_way() -> None:
    back = [
        f"{module} imports {other}"
        for module in trees()
        for other in imports(module)
        if ORDER.index(room(other)) > ORDER.index(room(module))
    ]
    assert back == []


def test_nothing_runs_in_a_circle() -> None:
    """Not even for types. A package imports its modules; that they import it back would be a circle, too."""
    list(graphlib.TopologicalSorter({module: imports(module) for module in trees()}).static_order())


def test_hydra_stays_at_the_door() -> None:
    behind = (
        "data",
        "models",
        "losses",
        "evaluation",
        "weights",
        "drawing",
        "tracking",
        "training",
        "checking",
        "assembly",
        "inference",
    )
    strangers = [
        module
        for module, tree in trees().items()
        if room(module) in (*behind, "shared")
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        and (getattr(node, "module", None) or node.names[0].name).partition(".")[0] in ("hydra", "omegaconf")
    ]
    assert strangers == []


def test_parts_do_not_know_how_they_are_configured() -> None:
    """Whoever imports a model need not have Hydra, which all of `detr.config` brings."""
    rooms = ("shared", "data", "models", "losses", "evaluation", "weights", "drawing")
    modules = [module for module in trees() if room(module) in rooms]
    assert len(modules) > 60
    assert [module for module in modules if any(room(each) == "config" for each in imports(module))] == []


def test_few_files_lie_loose() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= LOOSE


def test_files_and_functions_are_short() -> None:
    long = [str(path) for path in PACKAGE.rglob("*.py") if len(path.read_text().splitlines()) > FILE]
    for module, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= FUNCTION:  # type: ignore[operator]
                long.append(f"{module}.{node.name}")
    assert long == []
