"""Which variables are trained, which decay, and at what share of the learning rate: all by path.

Names are not enough: in Keras 3 a LayerNorm's variables are named `gamma` and `beta`, so BERT's list of
excluded names, `LayerNorm|layer_norm|bias`, would match none of them. Paths carry the whole story.
"""

import fnmatch
import re

from tfbert import checks

# BERT decays weights, and neither biases nor LayerNorm (Devlin et al. 2019, appendix A.2, and its code).
# Its rule excludes by a list, so the word embeddings and `cls/seq_relationship/output_weights` are
# decayed. Here both sides are spelled out: a variable that is on neither is a mistake to be seen.
DECAYED = re.compile(r"(^|/)(kernel|output_weights|(word|token_type|position)_embeddings)$")
NOT_DECAYED = re.compile(r"(^|/)(bias|output_bias|(LayerNorm|layer_norm)/(gamma|beta)|mix/(weights|scale))$")

# How deep a variable lies: below all layers, in one, or above all.
LAYER = re.compile(r"^bert/encoder/layer_(\d+)/")
BELOW = re.compile(r"^bert/(embeddings|encoder/embedding_hidden_mapping_in)/")
ABOVE = re.compile(r"^(bert/pooler|cls|classifier|tokens|chunks|mix)/")


def decay_mask(paths):
    """Tells for each variable whether weight decay applies to it.

    Args:
        paths: `.path` of each trainable variable, such as `bert/encoder/layer_0/output/LayerNorm/gamma`.

    Returns:
        {path: bool}.

    Raises:
        InputError: a path is in neither group, or in both.
    """
    mask = {path: bool(DECAYED.search(path)) for path in paths}
    unclear = sorted(path for path, decays in mask.items() if decays == bool(NOT_DECAYED.search(path)))
    checks.require(
        not unclear,
        "every variable must be in one group, decayed or not",
        f"{len(unclear)} in neither or both: {', '.join(unclear)}",
        do="Add a pattern for them to tfbert/optimizers/param_groups.py",
    )
    return mask


def rate_scales(paths, num_hidden_layers, decay):
    """Layer-wise decay of the learning rate: the lower a variable lies, the less it moves.

    Lower layers hold what is common to all text, so a model that goes on from trained weights keeps more of it
    (Howard and Ruder 2018, section 3.2; Clark et al. 2020, appendix B: 0.8 for small models).

    Args:
        paths: `.path` of each trainable variable.
        num_hidden_layers: N, of the encoder.
        decay: What one layer costs; 1.0 is none.

    Returns:
        {path: share}: 1 for the pooler and the heads, `decay ** (N - i)` for layer i = 0 ... N - 1, and
        `decay ** (N + 1)` for the embeddings.

    Raises:
        InputError: it cannot be told where a variable lies.
    """

    def levels_below_the_heads(path):
        if layer := LAYER.search(path):
            return num_hidden_layers - int(layer[1])
        return num_hidden_layers + 1 if BELOW.search(path) else 0

    unclear = sorted(p for p in paths if not any(where.search(p) for where in (LAYER, BELOW, ABOVE)))
    checks.require(
        not unclear,
        "every variable must lie below the layers, in one, or above them",
        f"{len(unclear)} that do not: {', '.join(unclear)}",
        do="Add a pattern for them to tfbert/optimizers/param_groups.py",
    )
    return {path: decay ** levels_below_the_heads(path) for path in paths}


def freeze(model, patterns):
    """Takes variables out of training: no gradient, no state of the optimizer, no decay.

    Args:
        model: A built Keras model.
        patterns: Globs of paths, such as `bert/embeddings/*`; `*` stands for `/` too.

    Returns:
        The paths that were frozen, in the model's order.

    Raises:
        InputError: a pattern matches no trainable variable, or nothing is left to train.
    """
    trained = model.trainable_variables
    for pattern in patterns:
        checks.require(
            any(fnmatch.fnmatchcase(v.path, pattern) for v in trained),
            "a pattern of --freeze must match a variable that is trained",
            f"freeze={pattern}",
            do=f"Paths are like {trained[0].path} and {trained[-1].path}",
        )
    frozen = [v for v in trained if any(fnmatch.fnmatchcase(v.path, pattern) for pattern in patterns)]
    checks.require(
        len(frozen) < len(trained), "a run must train something", f"freeze={','.join(patterns)}, which is all of it"
    )
    for variable in frozen:
        variable.trainable = False
    return [v.path for v in frozen]
