"""Which variables weight decay applies to, by path.

Names are not enough: in Keras 3 a LayerNorm's variables are named `gamma` and `beta`, so BERT's list of
excluded names, `LayerNorm|layer_norm|bias`, would match none of them. Paths carry the whole story.
"""

import re

from tfbert import checks

# BERT decays weights, and neither biases nor LayerNorm (Devlin et al. 2019, appendix A.2, and its code).
# Its rule excludes by a list, so the word embeddings and `cls/seq_relationship/output_weights` are
# decayed. Here both sides are spelled out: a variable that is on neither is a mistake to be seen.
DECAYED = re.compile(r"(^|/)(kernel|output_weights|(word|token_type|position)_embeddings)$")
NOT_DECAYED = re.compile(r"(^|/)(bias|output_bias|(LayerNorm|layer_norm)/(gamma|beta))$")


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
