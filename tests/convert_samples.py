"""Tiny models as sources, and foreign files of them that the code under test had no hand in."""

import importlib
import pickle
import re
import struct
import sys
import types
import zipfile

import numpy as np
import tensorflow as tf

from tests import tiny, tiny_run
from tfbert import config, heads
from tfbert.convert import names, sources
from tfbert.text import tokenizer as tokenizer_lib
from tfbert.text import vocab as vocab_lib


def encoder(**overrides):
    return tiny.config(hidden_act="gelu_erf", **overrides)


def numbers(encoder_config, head="pretraining", classes=0, seed=0):
    """{our name: random float32 array} of a model."""
    rng = np.random.default_rng(seed)
    shapes = names.shapes(encoder_config, head, classes)
    return {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def tensor(array):
    return sources.Tensor(array.shape, array.dtype.name, lambda: array)


def source(head="pretraining", classes=0, encoder_config=None, vocab=True, seed=0, labels=None):
    """A `Source` with our names and random numbers."""
    encoder_config = encoder_config or encoder()
    arrays = numbers(encoder_config, head, classes, seed)
    labels = tuple(labels or (f"class {i}" for i in range(classes)))
    tensors = {name: tensor(array) for name, array in arrays.items()}
    v = tiny_run.vocab() if vocab else None
    return sources.Source("tfbert", "memory", tensors, encoder_config, head, v, labels, layout="tfbert")


def arrays(found):
    """{name: array} of a `Source` or of {name: Tensor}."""
    found = getattr(found, "tensors", found)
    return {name: np.array(t.read()) for name, t in found.items()}


def sentences(count):
    """The first sentences of docstrings of the standard library, lower-case ASCII: `count` of them, all different."""
    modules = "argparse json logging os pathlib random shutil socket string subprocess tarfile threading zipfile"
    found = {}
    for module in map(importlib.import_module, modules.split()):
        for thing in vars(module).values():
            things = [thing, *vars(thing).values()] if isinstance(thing, type) else [thing]
            for one in things:
                about = getattr(one, "__doc__", None)
                text = " ".join(about.split(". ")[0].split()).lower() if isinstance(about, str) else ""
                if text.isascii() and 4 <= len(text.split()) <= 25:
                    found[text] = None
    assert len(found) >= count
    return list(found)[:count]


def vocab_of(texts):
    """A WordPiece vocabulary of the words of every second text and of all characters, so that words are split too."""
    words = {word for text in texts[::2] for word in re.findall(r"[a-z]+", text)}
    characters = {c for text in texts for c in text if c != " "}
    pieces = sorted(words | characters) + [f"##{c}" for c in sorted(characters)]
    return vocab_lib.Vocab((*vocab_lib.SPECIAL_TOKENS, *pieces))


def classifier_of_texts(hidden_act):
    """(200 texts, a `Source` of a classifier of four classes, our probabilities of the classes of the texts)."""
    texts = sentences(200)
    vocab = vocab_of(texts)
    encoder_config = tiny.config(vocab_size=len(vocab), max_position_embeddings=200, hidden_act=hidden_act)
    model = tiny.randomize(heads.build_classifier(encoder_config, 4), 7)
    tensors = {v.path: tensor(np.array(v)) for v in model.variables}
    found = source("classify", 4, encoder_config)._replace(vocab=vocab, tensors=tensors)
    ids = tokenizer_lib.Tokenizer(vocab).tokenize(texts)
    rows = len(texts)
    ids = tf.concat([tf.fill([rows, 1], vocab.cls_id), ids, tf.fill([rows, 1], vocab.sep_id)], 1)
    mask = tf.cast(tf.sequence_mask(ids.row_lengths()), tf.int32)
    logits = model({"input_ids": ids.to_tensor(), "input_mask": mask, "segment_ids": tf.zeros_like(mask)})["logits"]
    assert np.std(logits, 0).min() > 0.05  # else all texts are alike
    return texts, found, tf.nn.softmax(logits).numpy()


def pretrainer(encoder_config=None, seed=0):
    return tiny.randomize(heads.build_pretrainer(encoder_config or encoder()), seed)


def check_equal(found, expected):
    """Asserts that two {name: array} are equal to the bit."""
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


def huggingface_names(ours, head="pretraining"):
    """{Hugging Face's name: array} of a BERT, spelt out here a second time, from {our name: array}."""
    theirs = {}
    for name, array in ours.items():
        is_kernel = name.endswith("/kernel")
        name = name.replace("bert/encoder/layer_", "bert/encoder/layer.").replace("/", ".")
        for suffix, theirs_suffix in (("kernel", "weight"), ("gamma", "weight"), ("beta", "bias")):
            name = name.removesuffix(suffix) + theirs_suffix if name.endswith("." + suffix) else name
        if name.endswith("_embeddings"):
            name += ".weight"
        name = name.replace("predictions.output_bias", "predictions.bias")
        name = (
            name.replace("output_weights", "weight").replace("output_bias", "bias").replace("cls.squad", "qa_outputs")
        )
        name = name.replace("tokens.", "classifier.")
        if head == "none":
            name = name.removeprefix("bert.")
        theirs[name] = np.ascontiguousarray(array.T) if is_kernel else array
    return theirs


def bert_config(encoder_config, **more):
    """A config.json of Hugging Face's BERT; its "gelu" is our gelu_erf."""
    content = config.to_dict(encoder_config)
    content.pop("embedding_size")
    content["hidden_act"] = {"gelu_erf": "gelu", "gelu": "gelu_new"}.get(encoder_config.hidden_act)
    return {"model_type": "bert", **content, **more}


# What torch.save writes, without PyTorch: pickles that name its functions, and raw numbers.

STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "int64": "LongStorage", "float64": "DoubleStorage"}


class _Storage:
    def __init__(self, key, kind, array):
        self.key, self.kind, self.array = key, kind, array


class _Pickled:
    """A tensor, pickled as a call of torch._utils._rebuild_tensor_v2."""

    def __init__(self, rebuild, storage, offset, shape, stride):
        self.parts = rebuild, (storage, offset, shape, stride, False, {})

    def __reduce__(self):
        return self.parts


def _torch_modules():
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in STORAGES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2():
        raise AssertionError("only its name is pickled")

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2, torch._utils = _rebuild_tensor_v2, utils
    return {"torch": torch, "torch._utils": utils}


class _Pickler(pickle._Pickler):
    def __init__(self, file, old):
        super().__init__(file, 2)
        self.old = old

    def persistent_id(self, thing):
        if isinstance(thing, _Storage):
            about = ("storage", thing.kind, thing.key, "cpu", thing.array.size)
            return (*about, None) if self.old else about
        return None


def _strides(array):
    return tuple(s // array.itemsize for s in array.strides)


def save_torch(path, state, old=False, views=None):
    """Writes {name: array} as torch.save does, in the older layout or as a zip archive.

    `views` {name: (name of another, offset, shape, stride)} are tensors that share a storage.
    """
    modules = _torch_modules()
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        torch = modules["torch"]
        rebuild = modules["torch._utils"]._rebuild_tensor_v2
        storages = {
            name: _Storage(str(i), getattr(torch, STORAGES[a.dtype.name]), a)
            for i, (name, a) in enumerate(state.items())
        }
        pickled = {n: _Pickled(rebuild, storages[n], 0, a.shape, _strides(a)) for n, a in state.items()}
        for name, (of, offset, shape, stride) in (views or {}).items():
            pickled[name] = _Pickled(rebuild, storages[of], offset, shape, stride)
        data = {s.key: np.ascontiguousarray(s.array).tobytes() for s in storages.values()}
        if old:
            with open(path, "wb") as f:
                for thing in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}):
                    pickle.dump(thing, f, 2)
                _Pickler(f, old).dump(pickled)
                pickle.dump(sorted(data), f, 2)
                for key in sorted(data):
                    count = next(s.array.size for s in storages.values() if s.key == key)
                    f.write(struct.pack("<q", count) + data[key])
        else:
            with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
                with archive.open("archive/data.pkl", "w") as f:
                    _Pickler(f, old).dump(pickled)
                for key, content in data.items():
                    archive.writestr(f"archive/data/{key}", content)
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
