"""Which format a path is of, and from one format to another."""

import contextlib
import os
import shutil
import tempfile

from tfbert import checks
from tfbert.convert import assign, bundles, garden, google, huggingface, keras_hub, runs

_READERS = {
    "tfbert": runs.read,
    "google": google.read,
    "garden": garden.read,
    "huggingface": huggingface.read,
    "keras_hub": keras_hub.read,
}
_WRITERS = {"tfbert": runs, "google": google, "huggingface": huggingface, "keras_hub": keras_hub}
OUTPUTS = tuple(_WRITERS)


def _kinds(path):
    """Every format that a path could be of."""
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    if runs.is_run_folder(path):
        return ["tfbert"]
    if os.path.isfile(path) and path.endswith((".safetensors", ".bin", ".safetensors.index.json", ".bin.index.json")):
        return ["huggingface"]
    found = []
    if os.path.isdir(path):
        if keras_hub.is_preset(path):
            found.append("keras_hub")
        elif huggingface.weights_path(path):
            found.append("huggingface")
    if found and not google.config_path(folder):
        return found  # whatever else ends in .index there
    prefix = bundles.prefix_of(path)
    if prefix:
        found.append("garden" if bundles.OBJECT_GRAPH in bundles.read(prefix) else "google")
    return found


def recognise(path):
    """The format of a file or folder of weights, one of `names.KINDS`.

    Raises:
        InputError: it is of none, or of several.
    """
    checks.require(
        os.path.exists(path) or os.path.exists(path + ".index"), "weights must be there", "no file or folder", path
    )
    kinds = _kinds(path)
    what = (
        "a run folder, a TensorFlow checkpoint with bert_config.json, a Hugging Face folder with config.json and "
        "weights, or a KerasHub preset"
    )
    checks.require(kinds, f"weights must be {what}", "none of these", path)
    checks.require(
        len(kinds) == 1,
        "a folder must hold the weights of one format",
        " and ".join(kinds),
        path,
        "Say which with --from",
    )
    return kinds[0]


def open_source(path, kind=None):
    """The `sources.Source` of a file or folder of weights; no numbers are read yet.

    Args:
        path: Of weights in any format of `names.KINDS`.
        kind: The format; None recognises it.

    Raises:
        InputError: it is of no format, of several, or not of the one that is given; or it is damaged.
    """
    if kind is None:
        kind = recognise(path)
    else:
        kinds = _kinds(path)
        checks.require(
            kind in kinds, f"weights must be of the format {kind}", " and ".join(kinds) or "none known", path
        )
    return _READERS[kind](path)


def _check_output(path, overwrite):
    """Raises an `InputError` unless a folder may be written at a path."""
    if not os.path.lexists(path) or (os.path.isdir(path) and not os.listdir(path)):
        return
    checks.require(
        overwrite,
        "the output must not be there yet",
        "a file or a folder with files",
        path,
        "Give --overwrite to replace it",
    )
    # What is replaced is deleted whole: only what can be told to be weights is.
    checks.require(
        os.path.isdir(path) and not os.path.islink(path) and _kinds(path),
        "--overwrite replaces a folder of weights and nothing else",
        "something else",
        path,
        "Delete it yourself, or choose another output",
    )


@contextlib.contextmanager
def _new_folder(path):
    """Gives an empty folder beside `path` that takes its place when all went well, and goes away if not."""
    path = os.path.abspath(path)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        unfinished = tempfile.mkdtemp(prefix=f".{os.path.basename(path)}.unfinished-", dir=os.path.dirname(path))
    except OSError as e:
        raise checks.error("the output must be in a folder that can be written", e.strerror, path) from e
    try:
        yield unfinished
        os.chmod(unfinished, 0o777 & ~_umask())
        if os.path.isdir(path):
            old = f"{unfinished}-old"
            os.rename(path, old)
            os.rename(unfinished, path)
            shutil.rmtree(old)
        else:
            os.rename(unfinished, path)
    except OSError as e:
        raise checks.error("the output must be written whole", e.strerror or str(e), path) from e
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def convert(source, path, kind, allow_missing=(), overwrite=False):
    """Writes a source in a format.

    Args:
        source: A `sources.Source`.
        path: The folder to make.
        kind: One of OUTPUTS.
        allow_missing: Globs: see `assign.match`.
        overwrite: Whether a folder of weights that is there is replaced.

    Returns:
        The `account.Account`.

    Raises:
        InputError: something would be lost that `allow_missing` does not name, the source is damaged, or the
            output is there already or cannot be written; nothing is left behind then.
    """
    _check_output(path, overwrite)
    writer = _WRITERS[kind]
    wanted = writer.wanted(source)
    tensors, account = assign.match(source, wanted, allow_missing, writer.unlike(source))
    for name in account.missing:
        tensors[name] = assign.fresh(name, wanted[name], source.encoder.initializer_range)
    ours = source._replace(tensors={name: tensors[name] for name in wanted}, layout="tfbert")
    with _new_folder(path) as folder:
        account.written = writer.write(folder, ours)
    return account
