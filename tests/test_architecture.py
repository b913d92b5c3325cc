"""Holds the module tree to BUILD.md's drawing: imports point down, flags stay at the edge."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ("tfbert", "data_prep", "export")

# A module may import its own rank and every rank above it in this list, never one below it.
RANKS = (
    ("tfbert.config", "tfbert.features", "tfbert.checks", "tfbert.quiet"),
    ("tfbert.text",),
    ("tfbert.layers",),
    ("tfbert.encoder", "tfbert.heads", "tfbert.largest"),
    (
        "tfbert.objectives",
        "tfbert.tfrecords",
        "tfbert.record_sets",
        "tfbert.input_pipeline",
        "tfbert.optimizers",
        "tfbert.loop",
        "tfbert.watching",
        "tfbert.run_folder",
        "tfbert.initial_weights",
        "tfbert.initial_attention",
        "tfbert.machine",
        "tfbert.fill_mask",
        "tfbert.held_out",
        "tfbert.convert",
    ),
    ("tfbert.tasks",),
    (
        "tfbert.pretrain",
        "tfbert.finetune",
        "tfbert.evaluate",
        "tfbert.predict",
        "tfbert.report",
        "tfbert.demo",
        "tfbert.convert_weights",
        "tfbert.extract_features",
        "tfbert.benchmark",
        "tfbert.launch",
        "data_prep",
        "export",
    ),
)


def rank_of(module):
    """The index in RANKS of a module or of a name inside one; None outside the project."""
    for rank, names in enumerate(RANKS):
        if any(module == name or module.startswith(name + ".") for name in names):
            return rank
    return None


def modules():
    """Yields (dotted name, path, syntax tree) of every module with code."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            tree = ast.parse(path.read_text(encoding="utf-8"))
            if len(tree.body) > 1 or path.name != "__init__.py":
                yield ".".join(p for p in parts if p != "__init__"), path.relative_to(ROOT), tree


def imports(tree):
    """Yields (dotted name, line) of every import of a tree; relative ones begin with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{'.' * node.level}{node.module or ''}.{a.name}", node.lineno) for a in node.names)


def test_every_module_has_a_rank():
    assert [str(path) for name, path, _ in modules() if name not in PACKAGES and rank_of(name) is None] == []


def test_imports_point_down():
    wrong = []
    for name, path, tree in modules():
        mine = rank_of(name)
        for target, line in imports(tree):
            theirs = rank_of(target)
            if target.startswith(".") or (theirs is not None and mine is not None and theirs > mine):
                wrong.append(f"{path}:{line}: {name} imports {target}")
    assert wrong == []


def test_programs_do_not_import_one_another():
    wrong = []
    programs = len(RANKS) - 1
    for name, path, tree in modules():
        for target, line in imports(tree):
            if rank_of(name) != programs or rank_of(target) != programs:
                continue
            same_folder = name.split(".")[0] == target.split(".")[0] != "tfbert"
            if not same_folder:
                wrong.append(f"{path}:{line}: program {name} imports program {target}")
    assert wrong == []


def test_flags_are_read_in_programs_only():
    programs = len(RANKS) - 1
    wrong = [
        f"{path}:{node.lineno}"
        for name, path, tree in modules()
        if rank_of(name) != programs and name != "tfbert.config"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "FLAGS"
    ]
    assert wrong == []


def test_layers_never_see_a_config():
    wrong = [
        f"{path}:{line}: {target}"
        for name, path, tree in modules()
        if name.startswith("tfbert.layers")
        for target, line in imports(tree)
        if target.startswith("tfbert.config")
    ]
    assert wrong == []
