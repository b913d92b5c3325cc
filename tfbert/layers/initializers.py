"""The one initialiser of BERT's matrices."""

import keras


def truncated_normal(stddev):
    """Normal with deviation `stddev`, cut at two deviations: Devlin et al. 2019, published code.

    A new object each time, on purpose: a Keras initialiser without a seed draws one when it is made
    and then gives the same numbers to every variable of the same shape.
    """
    return keras.initializers.TruncatedNormal(stddev=stddev)
