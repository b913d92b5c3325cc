"""LAMB: Adam's direction with a step length that follows the norm of each variable, for very large batches."""

import keras
import tensorflow as tf

from tfbert import checks


class Lamb(keras.optimizers.Optimizer):
    """Algorithm 2 of You et al. 2020 (arXiv 1904.00962), with the identity for its function phi.

    For each variable w with gradient g, at update t = 1, 2, ...:

        m <- beta_1 m + (1 - beta_1) g
        v <- beta_2 v + (1 - beta_2) g^2
        u  = (m / (1 - beta_1^t)) / (sqrt(v / (1 - beta_2^t)) + epsilon) + weight_decay w
        w <- w - learning_rate (|w| / |u|) u

    A ratio |w| / |u| in which either norm is 0 counts as 1. Every variable has a ratio of its own; those that do
    not decay (biases and LayerNorm) have one too. `keras.optimizers.Lamb` decays w beside the ratio, where the
    algorithm has the decay inside u, and so inside both norms.

    Like `adamw.AdamW` it does not clip.

    Args:
        learning_rate: A number or a Keras LearningRateSchedule.
        weight_decay: The share of w in u, for variables in the decayed group.
        beta_1: Decay of m.
        beta_2: Decay of v.
        epsilon: Added to the square root of v.
        decays: path of a variable -> whether weight decay applies to it.
        rate_scale: path of a variable -> what its learning rate is multiplied by; None: 1 for all.

    Raises:
        InputError: there is nothing to correct the bias of: a beta is 1.
    """

    def __init__(
        self,
        learning_rate,
        weight_decay,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-6,
        *,
        decays,
        rate_scale=None,
        name="lamb",
    ):
        super().__init__(learning_rate=learning_rate, name=name)
        must = "adam_beta1 and adam_beta2 must be below 1 with LAMB, which corrects their bias"
        checks.require(max(beta_1, beta_2) < 1.0, must, f"adam_beta1={beta_1}, adam_beta2={beta_2}")
        # Not `weight_decay`: Keras would apply its own decay to an attribute of that name.
        self.decay_rate = weight_decay
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.decays = decays
        self.rate_scale = rate_scale or (lambda path: 1.0)
        self._scale = tf.constant(1.0)

    def build(self, variables):
        """Makes m and v, zeros, for each variable, and the number of updates that they have seen."""
        if self.built:
            return
        # A frozenset, since Keras would put a list among the objects of the checkpoint.
        self._decayed = frozenset(i for i, v in enumerate(variables) if self.decays(v.path))
        self._scale_of = {i: self.rate_scale(v.path) for i, v in enumerate(variables)}.__getitem__
        super().build(variables)
        self._momentums, self._velocities = self.add_optimizer_variables(variables, ["momentum", "velocity"])
        # Not `iterations`, which the learning rate follows: m and v may have come from a run before this one.
        self._updates = self.add_variable((), "zeros", "int64", aggregation="only_first_replica", name="updates")

    def apply(self, grads, trainable_variables=None):
        """Updates the variables once, with gradients that are each replica's share of the sum."""
        super().apply(grads, trainable_variables)
        self._updates.assign_add(1)

    def apply_scaled(self, gradients, scale, variables):
        """`apply` of gradients times a number; outside replicas only.

        Args:
            gradients: float32 or, where they are no more exact than that, bfloat16.
            scale: float32 [].
            variables: As of `apply`.
        """
        before, self._scale = self._scale, scale
        self.apply(gradients, variables)
        self._scale = before

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable on one device; Keras calls it with gradients that are summed over replicas."""
        index = self._get_variable_index(variable)
        gradient = tf.cast(tf.convert_to_tensor(gradient), variable.dtype)  # dense: all rows of an embedding decay
        gradient *= self._scale
        m = self.beta_1 * self._momentums[index].value + (1.0 - self.beta_1) * gradient
        v = self.beta_2 * self._velocities[index].value + (1.0 - self.beta_2) * tf.square(gradient)
        t = tf.cast(self._updates.value + 1, variable.dtype)
        debiased_m = m / (1.0 - tf.pow(tf.cast(self.beta_1, t.dtype), t))
        debiased_v = v / (1.0 - tf.pow(tf.cast(self.beta_2, t.dtype), t))
        update = debiased_m / (tf.sqrt(debiased_v) + self.epsilon)
        weights = tf.convert_to_tensor(variable)
        if index in self._decayed:
            update += self.decay_rate * weights
        weight_norm, update_norm = tf.norm(weights), tf.norm(update)
        # An update of zeros stays one, whatever its ratio.
        ratio = tf.where(weight_norm > 0.0, tf.math.divide_no_nan(weight_norm, update_norm), 1.0)
        self.assign(self._momentums[index], m)
        self.assign(self._velocities[index], v)
        rate = tf.cast(learning_rate, variable.dtype) * self._scale_of(index)
        self.assign_sub(variable, rate * ratio * update)

    def get_config(self):
        """The arguments, without `decays` and `rate_scale`, which are functions."""
        config = super().get_config()
        config.pop("weight_decay")
        return {
            **config,
            "weight_decay": self.decay_rate,
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
        }
