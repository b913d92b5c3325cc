"""The TensorFlow Model Garden's checkpoints of a BERT encoder: object graphs, read only.

They are what `tf.train.Checkpoint(model=encoder)`, `(encoder=encoder)` and `(**pretrainer.checkpoint_items)` write,
with bert_config.json and vocab.txt beside them as in the published archives.
"""

import os

from tfbert import checks
from tfbert.convert import bundles, google, names, sources, spellings


def read(path):
    """The `sources.Source` of an object checkpoint.

    Args:
        path: Its folder, its prefix or one of its files.

    Raises:
        InputError: there is none, it is damaged, or there is no bert_config.json beside it.
    """
    prefix = bundles.prefix_of(path)
    checks.require(prefix, "a checkpoint of TensorFlow must be given", "none", path)
    folder = os.path.dirname(prefix)
    tensors = bundles.read(prefix)
    encoder, _ = google.read_config(folder)
    spelt = {spellings.plain("garden", name) for name in tensors}
    head = names.head_of("garden", spelt, encoder)
    return sources.Source("garden", prefix, tensors, encoder, head, google.read_vocab(folder), layout="garden")
