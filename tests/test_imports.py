"""Imports point down one ladder only, and data loading never imports jax."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "vitpose_jax"

# A module may import from its own rung and from those above its own in this list.
LADDER = (
    ("types", "keypoints", "geometry", "trees", "paths", "interrupt", "progress", "draw", "compile_cache"),
    ("codec", "models", "data"),
    ("training", "convert"),
    ("evaluation",),
    ("inference",),
    ("benchmark", "plan", "sweep"),
)


def imported(path: pathlib.Path) -> set[str]:
    """Full names of the modules that a file imports, at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rung(module: str) -> int:
    top = module.split(".")[0]
    return next(i for i, names in enumerate(LADDER) if top in names)


def inside(names: set[str]) -> set[str]:
    """Of imported names those within the package, without its own name."""
    return {name.removeprefix("vitpose_jax.") for name in names if name.startswith("vitpose_jax.")}


def modules() -> list[tuple[str, pathlib.Path]]:
    paths = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]
    return [(".".join(path.relative_to(PACKAGE).with_suffix("").parts), path) for path in paths]


def test_every_module_stands_on_the_ladder():
    assert len(modules()) > 20
    for name, _ in modules():
        rung(name)


def test_imports_point_down():
    for name, path in modules():
        for other in inside(imported(path)):
            assert rung(other) <= rung(name), f"{name} imports {other}, which stands above it"


def test_data_and_geometry_never_import_jax():
    for name, path in modules():
        if name.split(".")[0] in ("data", "draw", "geometry", "types", "keypoints"):
            heavy = {module for module in imported(path) if module.split(".")[0] in ("jax", "flax", "optax", "orbax")}
            assert not heavy, f"{name} imports {heavy}"


def test_only_scripts_and_commands_see_a_config():
    for name, path in modules():
        if not name.endswith("__main__"):
            assert not any(module.startswith("ml_collections") for module in imported(path)), name
