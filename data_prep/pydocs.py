"""The embedded default corpus: the documentation of the Python packages that are installed anyway.

A document is one docstring of a module, class or function, or one help topic of the language. The
source files are parsed, never imported. Only the standard library and the packages of `PACKAGES`
count, so the corpus does not depend on what else is in the environment; it changes with the versions
of those and of Python.
"""

import ast
import gc
import importlib.metadata
import os
import pathlib
import re
import sys
import sysconfig
import warnings

from data_prep import prose, seen, sentences

# What requirements.txt installs, itself or as a requirement of a requirement, and holds prose.
PACKAGES = (
    "tensorflow",
    "tensorflow-text",
    "tensorflow-datasets",
    "keras",
    "keras-hub",
    "numpy",
    "tensorboard",
    "absl-py",
    "array_record",
    "click",
    "dm-tree",
    "einops",
    "etils",
    "filelock",
    "flatbuffers",
    "fsspec",
    "grpcio",
    "h5py",
    "huggingface_hub",
    "kagglehub",
    "Markdown",
    "opt_einsum",
    "optree",
    "packaging",
    "pillow",
    "protobuf",
    "psutil",
    "pyarrow",
    "Pygments",
    "requests",
    "rich",
    "simple-parsing",
    "tokenizers",
    "tqdm",
    "typing_extensions",
    "urllib3",
    "Werkzeug",
    "wrapt",
)

# Folders whose docstrings are no documentation, copies of other packages, or not on every machine.
_SKIPPED = {"test", "tests", "_vendor", "vendored", "third_party", "idlelib", "lib2to3", "site-packages",
            "dist-packages", "__pycache__", "pydoc_data"}  # fmt: skip
_TEST_FILE = re.compile(r"(?:test_.*|.*_test|conftest)\.py")
_TOPICS = "pydoc_data/topics.py"
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

MIN_SENTENCES, MIN_WORDS = 2, 20
_WHOLE = re.compile(r"[\"'(\[]?[A-Z\d].*[A-Za-z\d)\]\"'][.!?][\"')\]]?")
_WORD = re.compile(r"[A-Za-z][a-z'’-]*(?=[\s.,;:!?)\"]|$)")
_CODE = re.compile(r"[{}\\<>=|~^$@#]|\w\(\w|\w\[|::|https?:|www\.|_\w+_\w+|\.\.\. *[,)]|[*/+-]{2}")


def is_prose(sentence):
    """Whether a sentence reads as one: ends as one, is of words mostly, holds no code."""
    if not _WHOLE.fullmatch(sentence) or _CODE.search(sentence):
        return False
    tokens = sentence.split()
    words = len(_WORD.findall(sentence))
    return 4 <= len(tokens) <= 100 and words >= 0.75 * len(tokens)


def _files(package):
    """The Python files of an installed distribution that may hold documentation, in a fixed order."""
    distribution = importlib.metadata.distribution(package)
    files = [f for f in distribution.files or () if f.suffix == ".py" and ".." not in f.parts]
    files = [f for f in files if not _SKIPPED.intersection(f.parts) and not _TEST_FILE.fullmatch(f.name)]
    return sorted((f"{package}/{f.as_posix()}", distribution.locate_file(f)) for f in files)


def _standard_library():
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if f not in _SKIPPED and not f.startswith("config-"))
        for name in sorted(names):
            if name.endswith(".py") and not name.startswith("_sysconfigdata"):
                path = pathlib.Path(folder, name)
                yield f"python/{path.relative_to(root).as_posix()}", path


def _parse(path, counts):
    """The syntax tree of a file, or None."""
    try:
        source = path.read_bytes()
    except OSError:
        counts["files_unreadable"] += 1
        return None
    if b'"""' not in source and b"'''" not in source:
        return None  # what has one line only would be dropped as too little text
    was_on = gc.isenabled()
    gc.disable()  # trees hold no cycles, and looking for some takes as long as parsing
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (SyntaxError, ValueError):  # a template, or Python 2
        counts["files_unreadable"] += 1
        return None
    finally:
        if was_on:
            gc.enable()


def _docstrings(statements):
    """The docstrings of statements and of what they hold, in the order of the source."""
    for statement in statements:
        if isinstance(statement, _DOCUMENTED):
            yield ast.get_docstring(statement, clean=False)
            yield from _docstrings(statement.body)
        elif isinstance(statement, (ast.If, ast.Try, ast.With)):
            for part in ("body", "handlers", "orelse", "finalbody"):
                yield from _docstrings(getattr(statement, part, ()))
        elif isinstance(statement, ast.ExceptHandler):
            yield from _docstrings(statement.body)
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            # NumPy documents what is written in C by add_newdoc(place, name, docstring).
            call = statement.value
            if isinstance(call.func, ast.Name) and call.func.id == "add_newdoc" and len(call.args) == 3:
                yield from (n.value for n in ast.walk(call.args[2]) if isinstance(n, ast.Constant))


def _topics(counts):
    """The help topics of the language: (where, text)."""
    tree = _parse(pathlib.Path(sysconfig.get_path("stdlib"), _TOPICS), counts)
    for statement in tree.body if tree else ():
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            for name, text in sorted(ast.literal_eval(statement.value).items()):
                yield f"python/{_TOPICS}:{name}", text


def _docstrings_of_all(counts):
    """(where, docstring or topic) of everything, in a fixed order."""
    yield from _topics(counts)
    files = [_standard_library()]
    for package in PACKAGES:
        try:
            files.append(_files(package))
        except importlib.metadata.PackageNotFoundError:
            counts["packages_missing"] += 1
            print(f"pydocs: {package} is not installed; its documentation is not in the corpus.", file=sys.stderr)
    for where, path in (f for part in files for f in part):
        tree = _parse(path, counts)
        for docstring in _docstrings([tree]) if tree else ():
            if isinstance(docstring, str) and docstring:
                yield where, docstring.encode("utf-8", "replace").decode()  # "\ud800" can be written, not encoded


def _is_enough(found):
    """Whether sentences are worth being a document."""
    return len(found) >= MIN_SENTENCES and sum(len(s.split()) for s in found) >= MIN_WORDS


def versions():
    """[name, version] of Python and of each of `PACKAGES`, None for one that is not installed."""
    out = [["python", sys.version.split()[0]]]
    for package in PACKAGES:
        try:
            out.append([package, importlib.metadata.version(package)])
        except importlib.metadata.PackageNotFoundError:
            out.append([package, None])
    return out


def documents(counts):
    """The documents of the embedded corpus.

    No docstring, paragraph or sentence comes twice: packages repeat each other's and their own
    documentation (TensorFlow's v1 and v2, the types that an op takes), and what is held out must not
    stand in the training text.

    Args:
        counts: A Counter; gets docstrings_repeated, paragraphs_repeated, sentences_repeated,
            sentences_not_prose, files_unreadable and packages_missing.

    Yields:
        (where, list of sentences as UTF-8 bytes); the list is empty if there is too little that is new.
    """
    known_docstrings, known_paragraphs, known_sentences = seen.Seen(), seen.Seen(), seen.Seen()

    def new_paragraphs():
        for where, docstring in _docstrings_of_all(counts):
            if len(docstring.split()) < MIN_WORDS:
                yield where, []
            elif not known_docstrings.add(docstring.encode()):
                counts["docstrings_repeated"] += 1
                yield where, []
            else:
                paragraphs = prose.paragraphs(docstring)
                new = [p for p in map(str.encode, paragraphs) if known_paragraphs.add(p)]
                counts["paragraphs_repeated"] += len(paragraphs) - len(new)
                yield where, new

    for where, split in sentences.split_documents(new_paragraphs()):
        readable = [s for s in split if is_prose(s.decode())]
        counts["sentences_not_prose"] += len(split) - len(readable)
        kept = [s for s in readable if known_sentences.add(s)] if _is_enough(readable) else []
        counts["sentences_repeated"] += len(readable) - len(kept) if kept else 0
        yield where, kept if _is_enough(kept) else []
