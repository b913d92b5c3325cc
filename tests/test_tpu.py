"""What can be checked of a TPU without one.

A TPU runs what XLA compiled from one replica's step, with shapes that never change and nothing of the host inside.
So the step of pre-training is compiled here as a whole, its HLO is looked at, and the program runs on a strategy that
does on a CPU what TPUStrategy does: the host's loop around, each replica's function compiled.
"""

import re
import types

import pytest
import tensorflow as tf

from tests import test_pretrain, tiny, tiny_records
from tfbert import heads, held_out, pretrain, record_sets
from tfbert.layers import compiled, dtype_policy
from tfbert.loop import distribution
from tfbert.loop import trainer as trainer_lib
from tfbert.optimizers import adamw, lamb, param_groups

# What a TPU's core cannot do, or what would stop it to ask the host.
OF_THE_HOST = re.compile(r"PyFunc|Print|Assert|Iterator|Timestamp|String|Lookup|Where|Unique|Host|Send|Recv")


def trainer_of(optimizer, micro_batches):
    """A `Trainer` of the tiny pre-training model with dropout."""
    strategy = distribution.make_strategy("default")
    with strategy.scope():
        model = heads.build_pretrainer(tiny.config(hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1))
        paths = [v.path for v in model.trainable_variables]
        optimizer = optimizer(1e-3, 0.01, decays=param_groups.decay_mask(paths).__getitem__)
        optimizer.build(model.trainable_variables)
    records = types.SimpleNamespace(sentence_objective=record_sets.NEXT_SENTENCE)
    return trainer_lib.Trainer(strategy, model, optimizer, held_out.objective(records), micro_batches), strategy


def compiled_step(optimizer, micro_batches):
    """(the function of a replica's whole step, its arguments)."""
    trainer, strategy = trainer_of(optimizer, micro_batches)
    batches = [tiny.features(i) for i in range(micro_batches)]
    names = list(batches[0])

    @tf.function(jit_compile=True, autograph=False)
    def step(number, *flat):
        parts = [flat[i : i + len(names)] for i in range(0, len(flat), len(names))]
        batches = tuple(dict(zip(names, part)) for part in parts)
        return strategy.run(trainer._replica_step, args=(batches, number, None))

    return step, [tf.constant(3, tf.int64), *(tf.constant(batch[name]) for batch in batches for name in names)]


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "micro_batches"), [(adamw.AdamW, 1), (lamb.Lamb, 2)])
def test_the_whole_step_compiles_with_static_shapes(optimizer, micro_batches):
    """Forward, backward, clipping, update, dropout and accumulation, in bfloat16."""
    with dtype_policy.building_in("mixed_bfloat16"):
        step, arguments = compiled_step(optimizer, micro_batches)
        hlo = step.experimental_get_compiler_ir(*arguments)(stage="hlo")
    assert "bf16[" in hlo and "dot(" in hlo
    # A size that is only known by its bound is written <=5, as tf.boolean_mask would give.
    assert "<=" not in hlo
    # No call of something outside, no input or output while it runs.
    assert not re.search(r" (custom-call|infeed|outfeed|send|recv|after-all)\(", hlo)
    graph = step.get_concrete_function(*arguments).graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    assert sorted({node.op for node in nodes if OF_THE_HOST.search(node.op)}) == []
    of_strings = [node.name for node in nodes if node.attr["dtype"].type == tf.string.as_datatype_enum]
    assert of_strings == []


def test_the_check_of_static_shapes_sees_a_dynamic_one():
    @tf.function(jit_compile=True)
    def chosen(x):
        return tf.boolean_mask(x, x > 0.0)

    assert "<=" in chosen.experimental_get_compiler_ir(tf.constant([1.0, -1.0]))(stage="hlo")


def test_compiled_functions_are_plain_within_a_compiled_one():
    twice = compiled.compiled(lambda x: 2.0 * x)

    def calls(function):
        graph = tf.function(lambda x: function(x), autograph=False).get_concrete_function(tf.constant(3.0)).graph
        return [op.type for op in graph.get_operations() if "Call" in op.type]

    assert calls(twice) == ["PartitionedCall"]
    assert float(twice(tf.constant(3.0))) == 6.0
    seen = []

    @tf.function(jit_compile=True, autograph=False)
    def whole(x):
        y = twice(x)
        seen.append(y.op.type)
        return y

    assert float(whole(tf.constant(3.0))) == 6.0
    assert seen == ["Mul"]


class CompilingStrategy(tf.distribute.OneDeviceStrategy):
    """Compiles what a replica runs, as TPUStrategy does."""

    def __init__(self, resolver):
        assert resolver == "the resolver of local"
        super().__init__("CPU:0")

    def run(self, fn, args=(), kwargs=None, options=None):
        return super().run(tf.function(fn, jit_compile=True, autograph=False), args, kwargs, options)


@pytest.fixture
def tpu(monkeypatch):
    """Lets `make_strategy` find a TPU: what is not there is replaced by name, all else is ours as it is."""
    initialized = []
    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", lambda name: f"the resolver of {name}")
    monkeypatch.setattr(tf.config, "experimental_connect_to_cluster", initialized.append)
    monkeypatch.setattr(tf.tpu.experimental, "initialize_tpu_system", initialized.append)
    monkeypatch.setattr(tf.distribute, "TPUStrategy", CompilingStrategy)
    yield
    assert initialized == ["the resolver of local"] * 2


@pytest.mark.slow
def test_the_program_runs_on_a_strategy_that_compiles(tpu, tmp_path):
    tiny_records.make(tmp_path, num_hidden_layers=1)
    sizes = {"num_train_steps": 4, "eval_steps": 0, "log_steps": 2, "save_checkpoints_steps": 2}
    ours = tiny_records.flags(tmp_path, tmp_path / "tpu", strategy="tpu", tpu_name="local", **sizes)
    plain = tiny_records.flags(tmp_path, tmp_path / "plain", **sizes)
    assert pretrain.run(ours) == pretrain.run(plain) == 0
    test_pretrain.assert_close(ours.output_dir, plain.output_dir, 4)
