"""BERT's AdamW: decay inside the update, and no bias correction unless it is asked for."""

import keras
import tensorflow as tf

from tfbert import checks
from tfbert.layers import compiled


@compiled.compiled
def _update(w, m, v, gradient, scale, learning_rate, decay_rate, beta_1, beta_2, epsilon):
    """Updates three float32 variables, whose handles come in, in place.

    As single operations this takes about fifteen passes over memory, and a tensor for each.
    """
    old_w, old_m, old_v = (
        tf.ensure_shape(tf.raw_ops.ReadVariableOp(resource=x, dtype=tf.float32), gradient.shape) for x in (w, m, v)
    )
    gradient = tf.cast(gradient, tf.float32) * scale
    new_m = beta_1 * old_m + (1.0 - beta_1) * gradient
    new_v = beta_2 * old_v + (1.0 - beta_2) * tf.square(gradient)
    new_w = old_w - learning_rate * (new_m / (tf.sqrt(new_v) + epsilon) + decay_rate * old_w)
    for handle, value in ((w, new_w), (m, new_m), (v, new_v)):
        tf.raw_ops.AssignVariableOp(resource=handle, value=value)


class AdamW(keras.optimizers.Optimizer):
    """Adam with decoupled weight decay, as BERT was trained (Devlin et al. 2019, appendix A.2).

    For each variable w with gradient g:

        m <- beta_1 m + (1 - beta_1) g
        v <- beta_2 v + (1 - beta_2) g^2
        w <- w - learning_rate (m / (sqrt(v) + epsilon) + weight_decay w)

    `keras.optimizers.AdamW` differs in three ways that matter when a published recipe is repeated: it
    corrects the bias of m and v, its epsilon is 1e-7, and it decays w before the update.

    It does not clip: under a strategy Keras would clip each replica's gradients before they are summed.
    Clip the summed gradients and pass each replica its share; `apply` sums over the replicas.

    Args:
        learning_rate: A number or a Keras LearningRateSchedule.
        weight_decay: The rate by which variables in the decayed group shrink, before learning_rate.
        beta_1: Decay of m.
        beta_2: Decay of v.
        epsilon: Added to the square root of v.
        decays: path of a variable -> whether weight decay applies to it, such as
            `param_groups.decay_mask(paths).__getitem__`.
        rate_scale: path of a variable -> what its learning rate is multiplied by; None: 1 for all.
        bias_correction: Whether the t-th update divides m by 1 - beta_1^t and v by 1 - beta_2^t, as Adam was published
            (Kingma and Ba 2015) and PyTorch has it. Without, updates of the first thousand steps are up to six times
            as large: Zhang et al. (2021, "Revisiting Few-sample BERT Fine-tuning") trace fine-tuning that fails to it.

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
        bias_correction=False,
        name="adamw",
    ):
        super().__init__(learning_rate=learning_rate, name=name)
        must = "adam_beta1 and adam_beta2 must be below 1 where their bias is corrected"
        checks.require(not bias_correction or max(beta_1, beta_2) < 1.0, must, f"{beta_1} and {beta_2}")
        # Not `weight_decay`: Keras would apply its own decay to an attribute of that name.
        self.decay_rate = weight_decay
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.decays = decays
        self.rate_scale = rate_scale or (lambda path: 1.0)
        self.bias_correction = bias_correction
        self._scale = tf.constant(1.0)
        self._corrections = (1.0, 1.0)  # of the update at work

    def build(self, variables):
        """Makes m and v, zeros, for each variable."""
        if self.built:
            return
        # A frozenset, since Keras would put a list among the objects of the checkpoint.
        self._decayed = frozenset(i for i, v in enumerate(variables) if self.decays(v.path))
        self._scale_of = {i: self.rate_scale(v.path) for i, v in enumerate(variables)}.__getitem__
        super().build(variables)
        self._momentums, self._velocities = self.add_optimizer_variables(variables, ["momentum", "velocity"])
        if self.bias_correction:
            # Not `iterations`, which the learning rate follows: m and v may have come from a run before this one.
            self._updates = self.add_variable((), "zeros", "int64", aggregation="only_first_replica", name="updates")

    def apply(self, grads, trainable_variables=None):
        """Updates the variables once, with gradients that are each replica's share of the sum."""
        before, self._corrections = self._corrections, self._bias_corrections()
        super().apply(grads, trainable_variables)
        self._corrections = before
        if self.bias_correction:
            self._updates.assign_add(1)

    def _bias_corrections(self):
        """(what m is divided by, what sqrt(v) is), of the present update."""
        if not self.bias_correction:
            return 1.0, 1.0
        t = tf.cast(self._updates.value + 1, tf.float32)
        of_m, of_v = (-tf.math.expm1(t * tf.math.log(beta)) for beta in (self.beta_1, self.beta_2))
        return of_m, tf.sqrt(of_v)

    def apply_scaled(self, gradients, scale, variables):
        """`apply` of gradients times a number, without a pass over them to multiply; outside replicas only.

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
        # The gradient of an embedding look-up comes as slices, the same row perhaps several times. Rows
        # without a gradient decay too, m and v as well as w, so the dense sum is what is wanted.
        gradient = tf.convert_to_tensor(gradient)
        # Under a strategy a handle is that of the device which this is called for.
        handles = (x.handle for x in (variable, self._momentums[index].value, self._velocities[index].value))
        decay_rate = self.decay_rate if index in self._decayed else 0.0
        rate = tf.cast(learning_rate, variable.dtype) * self._scale_of(index)
        of_m, of_v = self._corrections
        # (m / of_m) / (sqrt(v) / of_v + epsilon), as the function that is compiled has it.
        rate, decay_rate, epsilon = rate * of_v / of_m, decay_rate * of_m / of_v, self.epsilon * of_v
        _update(*handles, gradient, self._scale, rate, decay_rate, self.beta_1, self.beta_2, epsilon)

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
            "bias_correction": self.bias_correction,
        }
