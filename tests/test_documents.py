"""What README and BUILD tell a reader to type exists: programs, flags, flag files, make targets, files."""

import ast
import dataclasses
import importlib
import itertools
import pathlib
import re
import shlex

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "BUILD.md")
PACKAGES = ("tfbert", "data_prep", "export")


def code_lines(text):
    """Lines of the fenced blocks, and inline code, with continued lines joined."""
    blocks = re.findall(r"^ *```[a-z]*\n(.*?)^ *```", text, flags=re.S | re.M)
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.S | re.M)
    for line in [*"".join(blocks).replace("\\\n", " ").split("\n"), *re.findall(r"`([^`\n]+)`", prose)]:
        yield line.strip().removeprefix("$ ")


def commands(module=r"[\w.]+"):
    """Yields (document, module, words after it) of every `python -m <ours> ...`."""
    for name in DOCUMENTS:
        for line in code_lines((ROOT / name).read_text(encoding="utf-8")):
            found = re.search(rf"python3?(?:\.\d+)? -m ({module})(.*)", line)
            if found and found[1].split(".")[0] in PACKAGES:
                words = shlex.split(found[2].split("#")[0].split(" | ")[0].replace("...", ""))
                yield name, found[1], words


def flags_of(module):
    """Names of the flags of a program: fields of what it hands to `define_flags`, and what it defines itself."""
    tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8"))
    classes = [
        node.args[0].id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "define_flags"
    ]
    assert classes, f"{module} defines no flags"
    others = {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "").startswith("DEFINE_")
    }
    loaded = importlib.import_module(module)
    return others | {f.name for name in classes for f in dataclasses.fields(getattr(loaded, name))}


def given(words):
    """{flag: value} of words of a command line; what stands behind -- is another program's."""
    out = {}
    for word in itertools.takewhile(lambda word: word != "--", words):
        if word.startswith("--"):
            key, _, value = word.removeprefix("--").partition("=")
            out[key] = value
    return out


def test_quoted_programs_exist():
    found = {(document, module) for document, module, _ in commands()}
    assert {"tfbert.pretrain", "data_prep.learn_vocab", "export.saved_model"} <= {m for _, m in found}
    missing = [(d, m) for d, m in found if not (ROOT / (m.replace(".", "/") + ".py")).is_file()]
    assert missing == []


def test_quoted_flags_exist():
    standard = {"help", "helpshort", "helpfull", "flagfile"}
    wrong = []
    for document, module, words in commands():
        known = flags_of(module) | standard
        for flag, value in given(words).items():
            if flag not in known and flag.removeprefix("no") not in known:
                wrong.append(f"{document}: python -m {module} --{flag}")
            if flag == "flagfile" and value and not value.startswith("my") and not (ROOT / value).is_file():
                wrong.append(f"{document}: --flagfile={value}")
    assert wrong == []


@pytest.mark.parametrize("path", ["base.flags", *(f"tfbert/recipes/{p.name}" for p in ROOT.glob("tfbert/recipes/*"))])
def test_recipes_hold_flags_of_pretrain(path):
    lines = [line.strip() for line in (ROOT / path).read_text(encoding="utf-8").split("\n")]
    flags = given(line for line in lines if line and not line.startswith("#"))
    assert flags
    assert set(flags) <= flags_of("tfbert.pretrain")
    assert any("python -m tfbert.pretrain" in line for line in lines), "a recipe states its command at its head"


def test_quoted_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    for name in DOCUMENTS:
        for line in code_lines((ROOT / name).read_text(encoding="utf-8")):
            if found := re.match(r"make ([a-z]+)", line):
                assert found[1] in targets, f"{name}: {line}"


def test_linked_files_exist():
    for name in DOCUMENTS:
        text = (ROOT / name).read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (ROOT / link).exists(), f"{name}: {link}"
