"""What a training step does between its matrix products, compiled so that each is one pass over memory.

TensorFlow runs an expression operation by operation, and each of them reads and writes the whole tensor: in a
small model activations, masks, norms and softmax take as long as the matrix products. Here such an expression is
compiled on its own by XLA. The products stay outside, since oneDNN computes them in bfloat16 at twice the speed
that XLA reaches on a CPU.

Gradients are compiled too, and computed from the arguments alone: what lies between is computed again, which is
cheaper than to write it down and to read it. So the masks of dropout are never stored.

Inference does not come here: an exported graph has plain operations only. Nor does a step that is compiled as a
whole, as a TPU's is: there these functions are plain operations too.
"""

import functools
import os

import tensorflow as tf
from tensorflow.python.ops import control_flow_util  # what tells that a compiler is at work has no public name

# Unrolled loops take longer to compile, by a tenth to a fifth, and are no faster: a step of BERT-tiny takes 3 to 6 %
# less time without. XLA reads this when it compiles for the first time; what the user's own XLA_FLAGS say comes later
# and counts.
_ROLLED = "--xla_backend_extra_options=xla_cpu_disable_loop_unrolling"
if _ROLLED not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{_ROLLED} {os.environ.get('XLA_FLAGS', '')}".rstrip()


def compiled(function):
    """The function, compiled by XLA into few loops, unless what calls it is compiled already."""
    by_itself = tf.function(function, jit_compile=True, autograph=False)

    @functools.wraps(function)
    def run(*args):
        within = control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())
        return (function if within else by_itself)(*args)

    return run


def named(gradient):
    """A gradient whose operations bear the name of the layer that asks here; else a profile shows them without."""
    scope = tf.get_current_name_scope()

    def named_gradient(*upstream):
        with tf.name_scope(f"gradient/{scope}/" if scope else "gradient/"):  # the slash: as it is, without a number
            return gradient(*upstream)

    return named_gradient


def differentiable(count):
    """Decorates a function of tensors to be compiled, its gradient too.

    Args:
        count: Arguments that have a gradient, the first ones; the function gives one tensor or several.
    """

    def decorate(function):
        forward = compiled(function)

        @compiled
        def backward(upstream, inputs, others):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                outputs = function(*inputs, *others)
            return tape.gradient(outputs, inputs, upstream)

        @tf.custom_gradient
        def run(*args):
            def gradient(*upstream):
                upstream = upstream if len(upstream) > 1 else upstream[0]
                return [*backward(upstream, args[:count], args[count:]), *[None] * (len(args) - count)]

            return forward(*args), named(gradient)

        return functools.wraps(function)(run)

    return decorate
