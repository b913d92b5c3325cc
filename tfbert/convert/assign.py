"""Finds the tensor of each variable in a source, and gives them to a model one at a time."""

import fnmatch
import re
import zlib

import numpy as np

from tfbert import checks
from tfbert.convert import names, sources, spellings
from tfbert.convert.account import Account
from tfbert.loop import checkpoints

MOST_LINES = 20  # of an error that lists shapes


class _Matching:
    """One source against the variables that are wanted: {our name: shape}."""

    def __init__(self, source, wanted, begins_anew=()):
        self.source, self.wanted, self.begins_anew = source, wanted, begins_anew
        self.places = names.places(source.layout, source.encoder, source.groups)
        self.account = Account(f"from {source.layout} {source.where}: {len(source.tensors)} tensors")
        pattern, why = spellings.UNUSED.get(spellings.column(source.layout), (r"^$", ""))
        unused = [name for name in source.tensors if re.search(pattern, name)]
        self.account.unused += [(name, why) for name in unused]
        self.spelt = spellings.of(source.layout, source.tensors.keys() - set(unused), source.where)
        self.tensors = {}

    def _take(self, spelt):
        return self.spelt.pop(spelt)

    def copies(self):
        """Checks the tensors that repeat others, and takes them out."""
        source, spelt = self.source, self.spelt
        tied = source.encoder.tie_word_embeddings
        for copy, original in spellings.COPIES.get(spellings.column(source.layout), {}).items():
            if copy not in spelt:
                continue
            if not tied and copy == spellings.DECODER:
                continue  # a variable of its own
            if not tied and copy == spellings.DECODER_BIAS and original in spelt:
                # An untied decoder has a bias of its own, and the other one takes no part in any output.
                self.account.unused.append((self._take(original), "an untied decoder has its own bias"))
            if original not in spelt and original not in spellings.BUFFERS:
                spelt[original] = self._take(copy)
                continue
            self._check_copy(copy, original)
            self.account.derived.append((self._take(copy), f"equal to {original}, as it must be"))

    def _check_copy(self, copy, original):
        source, name = self.source, self.spelt[copy]
        found = np.asarray(source.tensors[name].read())
        if original in spellings.BUFFERS:
            same = np.array_equal(found.reshape(-1), spellings.BUFFERS[original](found.size))
        else:
            same = np.array_equal(found, source.tensors[self.spelt[original]].read())
        checks.require(
            same,
            f"{name} must equal {original}, which it repeats",
            "other numbers",
            source.where,
            'If the decoder is a matrix of its own, its config.json must say "tie_word_embeddings": false',
        )

    def garden_pooler(self):
        """Takes the pooler that was trained, and leaves the one that was not."""
        if spellings.column(self.source.layout) != "garden":
            return
        for name in ("kernel", "bias"):
            fresh, trained = spellings.FRESH_POOLER + name, spellings.TRAINED_POOLER + name
            if trained in self.spelt:
                if fresh in self.spelt:
                    self.account.unused.append((self._take(fresh), "the next sentence head has the trained pooler"))
                self.spelt[fresh] = self._take(trained)

    def table(self):
        """Finds what is wanted by the table of names."""
        wrong = []
        heads = self.source.encoder.num_attention_heads
        for ours, shape in self.wanted.items():
            place = None if any(fnmatch.fnmatchcase(ours, g) for g in self.begins_anew) else self.places.get(ours)
            theirs = place and self.spelt.get(place.theirs)
            if theirs is None:
                self._without(ours, shape)
                continue
            tensor = self.source.tensors[theirs]
            stored = tuple(place.transform.their_shape(shape, heads))
            if tuple(tensor.shape) != stored:
                wrong.append(f"{theirs} {list(tensor.shape)}, and {list(stored)} for {ours} {list(shape)}")
            self.account.used.append((ours, theirs, place.transform.name))
            self.tensors[ours] = self._tensor(theirs, tensor, place.transform, shape)
        more = [f"and {len(wrong) - MOST_LINES} more"] if len(wrong) > MOST_LINES else []
        checks.require(
            not wrong,
            "tensors must have the shapes of the model's variables",
            "\n  ".join(["", *wrong[:MOST_LINES], *more]) + "\n ",
            self.source.where,
            "The configuration beside the weights is another model's",
        )
        used = {theirs for _, theirs, _ in self.account.used}
        ours_of = {place.theirs: ours for ours, place in self.places.items()}
        for spelt, name in sorted(self.spelt.items()):
            if name not in used:
                self.account.left_over.append(name)
                if spelt in ours_of:
                    self.account.ours[name] = ours_of[spelt]
        self.account.left_over += [f"config/{name}={value}" for name, value in self.source.unlike.items()]

    def _without(self, ours, shape):
        if ours in spellings.ZEROS.get(self.source.layout, ()):
            self.account.derived.append((ours, f"zeros: {self.source.layout} has none"))
            self.tensors[ours] = sources.Tensor(shape, "float32", lambda: np.zeros(shape, np.float32))
        else:
            self.account.missing.append(ours)

    def _tensor(self, name, tensor, transform, shape):
        where = self.source.where
        read = lambda: transform.to_ours(sources.values(name, tensor, where), shape)  # noqa: E731
        return sources.Tensor(tuple(shape), "float32", read)


def match(source, wanted, allow_missing=(), unlike=(), begins_anew=()):
    """Finds the tensors of a source for variables; reads only the tensors that repeat others, to compare them.

    Args:
        source: A `sources.Source`.
        wanted: {our name: shape}.
        allow_missing: Globs of our names that the source may lack and of the source's names that may be left.
        unlike: What else the source has and there is no place for: "config/hidden_act=gelu_erf".
        begins_anew: Globs of our names that nothing is taken for: missing, and left over if the source has them.

    Returns:
        ({our name: `sources.Tensor` in our shape}, `Account`). Names that are missing are in the account only.

    Raises:
        InputError: something is left over or missing that `allow_missing` does not name, a shape differs, or a
            tensor that must repeat another does not.
    """
    matching = _Matching(source, wanted, begins_anew)
    matching.garden_pooler()
    matching.copies()
    matching.table()
    matching.account.left_over += unlike
    matching.account.check(allow_missing, source.where)
    return matching.tensors, matching.account


def load(source, model, allow_missing=(), begins_anew=()):
    """Assigns a model's variables from a source, one tensor at a time.

    Args:
        source: A `sources.Source`.
        model: A built Keras model of `tfbert.heads`.
        allow_missing: As in `match`; a variable that is missing keeps the value that it has.
        begins_anew: As in `match`; such a variable too.

    Returns:
        The `Account`.

    Raises:
        InputError: as in `match`; nothing was assigned then. Or numbers are not finite; some may have been.
    """
    variables = checkpoints.model_variables(model)
    wanted = {name: tuple(v.shape) for name, v in variables.items()}
    tensors, account = match(source, wanted, allow_missing, begins_anew=begins_anew)
    for name, tensor in tensors.items():
        variables[name].assign(tensor.read())
    return account


def fresh(name, shape, stddev):
    """What a variable is initialised with, as a `Tensor`: a function of its name."""

    def read():
        if name.endswith("/gamma"):
            return np.ones(shape, np.float32)
        if len(shape) < 2:
            return np.zeros(shape, np.float32)
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        return truncated_normal(rng, shape, stddev)

    return sources.Tensor(tuple(shape), "float32", read)


def truncated_normal(rng, shape, stddev):
    """float32 numbers of a normal distribution that is cut at two deviations."""
    numbers = rng.standard_normal(shape, np.float32)
    while (far := np.abs(numbers) > 2).any():
        numbers[far] = rng.standard_normal(int(far.sum()), np.float32)
    return numbers * np.float32(stddev)
