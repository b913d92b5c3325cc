"""Rows side by side in packs, for the encoder alone: Krell et al. 2021, "Efficient Sequence Packing without
Cross-contamination".

Rows of a batch differ in length, and a row that is filled up costs as much as a full one. So several rows lie in one
pack [N, P] while the encoder works on them, each looks at its own wordpieces only and counts positions from 0, and
what comes out is laid out in rows again [B, L, D]. Heads, objectives and metrics do not know of it, and compute what
they would have of rows that are filled up.

`input_mask` [N, P] numbers the rows of a pack, 0 is padding, as of `attention_masks.packed`.
"""

import keras
import tensorflow as tf

# Of each token of a row [B, L], 1 + its place among all of the packs' [N P]; 0 is padding, as in a mask of rows.
ROW_PLACES = "row_places"
INPUTS = ("position_ids", ROW_PLACES)


def mask_of_rows(features):
    """int32 [B, L] of a model's inputs, packed or not; 0 is padding."""
    return features[ROW_PLACES] if ROW_PLACES in features else features["input_mask"]


class Rows(keras.layers.Layer):
    """The states of packs as rows.

    Call args:
        hidden: float [N, P, D].
        row_places: int32 [B, L]: see `ROW_PLACES`.

    Returns:
        float [B, L, D]; where a row has no token, the state of some other.

    Raises:
        tf.errors.InvalidArgumentError: a place is beyond the packs.
    """

    def call(self, hidden, row_places):
        """See the class."""
        return tf.gather(tf.reshape(hidden, [-1, hidden.shape[-1]]), tf.maximum(row_places - 1, 0))
