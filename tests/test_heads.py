"""Tests of tfbert.heads: the pre-training model as a whole."""

import numpy as np
import pytest
import tensorflow as tf

from tests import reference, tiny, tiny_packed
from tests.tiny import LAYERS, B, L, N, P, V
from tfbert import checks, config, heads, objectives
from tfbert.convert import names
from tfbert.layers import dropout, dtype_policy, initializers
from tfbert.optimizers import param_groups

FEATURES = tiny.features()
INPUTS = tiny.inputs(FEATURES)


def model(**overrides):
    return tiny.randomize(heads.build_pretrainer(tiny.config(**overrides)))


@pytest.fixture(scope="module")
def plain():
    return model()


def total_loss(outputs, features):
    losses = objectives.pretraining_losses(outputs, features)
    return sum(value / weight for value, weight in losses.values())


def google_names(num_layers):
    """The tensors of a released checkpoint of google-research/bert."""
    names = [f"bert/embeddings/{n}_embeddings" for n in ("word", "token_type", "position")]
    norms = ["bert/embeddings/LayerNorm", "cls/predictions/transform/LayerNorm"]
    denses = ["bert/pooler/dense", "cls/predictions/transform/dense"]
    for i in range(num_layers):
        layer = f"bert/encoder/layer_{i}"
        denses += [f"{layer}/attention/self/{n}" for n in ("query", "key", "value")]
        denses += [f"{layer}/{n}/dense" for n in ("attention/output", "intermediate", "output")]
        norms += [f"{layer}/{n}/LayerNorm" for n in ("attention/output", "output")]
    names += [f"{d}/{n}" for d in denses for n in ("kernel", "bias")]
    names += [f"{n}/{v}" for n in norms for v in ("gamma", "beta")]
    return sorted(
        [*names, "cls/predictions/output_bias", *(f"cls/seq_relationship/output_{n}" for n in ("weights", "bias"))]
    )


@pytest.mark.slow
def test_names_and_shapes_are_those_of_googles_checkpoints(monkeypatch):
    monkeypatch.setattr(initializers, "truncated_normal", lambda stddev: "zeros")  # no minutes of random numbers
    variables = heads.build_pretrainer(config.preset("base")).variables
    assert sorted(v.path for v in variables) == google_names(12)  # each once: the table is tied
    assert len(variables) == 206
    encoder_variables = [v for v in variables if v.path.startswith("bert/")]
    assert sum(int(np.prod(v.shape)) for v in encoder_variables) == 109_482_240
    shapes = {v.path: tuple(v.shape) for v in variables}
    assert shapes["bert/embeddings/word_embeddings"] == (30522, 768)
    assert shapes["bert/embeddings/position_embeddings"] == (512, 768)
    assert shapes["bert/encoder/layer_11/intermediate/dense/kernel"] == (768, 3072)
    assert shapes["bert/encoder/layer_11/output/dense/kernel"] == (3072, 768)
    assert shapes["cls/predictions/output_bias"] == (30522,)
    assert shapes["cls/seq_relationship/output_weights"] == (2, 768)


def test_names_do_not_depend_on_what_was_built_before():
    first, second = (sorted(v.path for v in model().variables) for _ in range(2))
    assert first == second == google_names(LAYERS)


@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
def test_equals_reference(activation):
    built = model(hidden_act=activation)
    expected = reference.pretrainer(FEATURES, tiny.weights(built), LAYERS, N, activation)
    found = built(INPUTS)
    assert set(found) == set(expected)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=2e-5, err_msg=name)


@pytest.mark.parametrize(
    "more",
    [
        {"tie_word_embeddings": False},
        {"embedding_size": 7},
        {"embedding_size": 7, "tie_word_embeddings": False, "layer_norm_eps": 0.3, "hidden_act": "gelu_erf"},
    ],
    ids=str,
)
def test_other_kinds_equal_reference(more):
    built = model(**more)
    activation, epsilon = more.get("hidden_act", "gelu"), more.get("layer_norm_eps", 1e-12)
    expected = reference.pretrainer(FEATURES, tiny.weights(built), LAYERS, N, activation, epsilon)
    found = built(INPUTS)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], atol=2e-5, err_msg=name)


@pytest.mark.slow
def test_decoder_that_is_not_tied_is_one_more_variable():
    tied, untied = ({v.path: tuple(v.shape) for v in m.variables} for m in (model(), model(tie_word_embeddings=False)))
    assert untied == tied | {"cls/predictions/output_weights": (V, tiny.D)}
    narrow = {v.path: tuple(v.shape) for v in model(embedding_size=7, tie_word_embeddings=False).variables}
    assert narrow["cls/predictions/output_weights"] == (V, 7)
    assert narrow["cls/predictions/transform/dense/kernel"] == (tiny.D, 7)
    assert narrow["cls/predictions/transform/LayerNorm/gamma"] == (7,)
    # Every variable is decayed or not, and matrices are.
    mask = param_groups.decay_mask(narrow)
    assert mask["cls/predictions/output_weights"] and mask["bert/encoder/embedding_hidden_mapping_in/kernel"]


class TestClassifier:
    CLASSES = 5

    @pytest.fixture(scope="class")
    def built(self):
        return tiny.randomize(heads.build_classifier(tiny.config(), self.CLASSES))

    def test_equals_reference(self, built):
        inputs = {x.name: FEATURES[x.name] for x in built.inputs}
        params = tiny.weights(built)
        expected = reference.classifier(FEATURES, params, LAYERS, N)
        found = built(inputs)
        assert found.keys() == expected.keys() == {"logits", "pooled_output", "sequence_output"}
        assert found["logits"].shape == (B, self.CLASSES) and found["logits"].dtype == tf.float32
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], atol=2e-5, err_msg=name)

    @pytest.mark.parametrize("pooling", ["cls", "mean"])
    def test_other_outputs_are_classified(self, built, pooling):
        other = heads.build_classifier(tiny.config(), self.CLASSES, pooling=pooling)
        # By name: where the pooler has no part in the logits, the order of layers is another one.
        values = {v.path: v for v in built.variables}
        assert values.keys() == {v.path for v in other.variables}
        for v in other.variables:
            v.assign(values[v.path])
        params = tiny.weights(built)
        found = other({x.name: FEATURES[x.name] for x in other.inputs})
        for b, states in enumerate(reference.classifier(FEATURES, params, LAYERS, N)["sequence_output"]):
            vector = states[0] if pooling == "cls" else states[FEATURES["input_mask"][b] > 0].mean(0)
            expected = params["classifier/output_weights"] @ vector + params["classifier/output_bias"]
            np.testing.assert_allclose(found["logits"][b], expected, atol=2e-5)
        # A row without any wordpiece, such as fills up a batch, must not spoil the sums of the others.
        padding = {x.name: FEATURES[x.name] * 0 for x in other.inputs}
        assert np.isfinite(other(padding)["logits"]).all()
        trained = {v.path for v in other.trainable_variables}
        assert {v.path for v in other.variables} - trained == {"bert/pooler/dense/kernel", "bert/pooler/dense/bias"}

    def test_its_variables(self, built):
        """The encoder's, under the names that a pre-trained model has, and two."""
        shapes = {v.path: tuple(v.shape) for v in built.variables}
        encoder = {v.path: tuple(v.shape) for v in model().variables if v.path.startswith("bert/")}
        head = {"classifier/output_weights": (self.CLASSES, tiny.D), "classifier/output_bias": (self.CLASSES,)}
        assert shapes == encoder | head
        assert param_groups.decay_mask(shapes)["classifier/output_weights"]

    def test_drops_the_pooled_output(self):
        built = tiny.randomize(heads.build_classifier(tiny.config(hidden_dropout_prob=1.0), self.CLASSES))
        inputs = {x.name: FEATURES[x.name] for x in built.inputs}
        bias = next(v for v in built.variables if v.path == "classifier/output_bias")
        np.testing.assert_array_equal(built(inputs, training=True)["logits"], np.tile(bias, (B, 1)))
        assert np.ptp(built(inputs)["logits"], axis=0).min() > 1e-3

    def test_no_label(self):
        with pytest.raises(checks.InputError, match="num_labels must be at least 1; got num_labels=0"):
            heads.build_classifier(tiny.config(), 0)
        with pytest.raises(checks.InputError, match="pooling must be one of pooled, cls, mean; got pooling='max'"):
            heads.build_classifier(tiny.config(), 2, pooling="max")


class TestOfEachPiece:
    """The tagger and the span finder: heads on the states of all pieces."""

    CLASSES = 5

    def build(self, kind, **overrides):
        encoder = tiny.config(**overrides)
        built = {
            "tokens": lambda: heads.build_tagger(encoder, self.CLASSES),
            "span": lambda: heads.build_span_finder(encoder),
        }
        return tiny.randomize(built[kind]())

    @pytest.mark.parametrize("kind, scope, classes", [("tokens", "tokens", 5), ("span", "cls/squad", 2)])
    def test_equals_reference(self, kind, scope, classes):
        built = self.build(kind)
        found = built({x.name: FEATURES[x.name] for x in built.inputs})
        expected = reference.of_each_piece(FEATURES, tiny.weights(built), LAYERS, N, scope)
        assert found.keys() == expected.keys()
        assert found["logits"].shape == (B, L, classes) and found["logits"].dtype == tf.float32
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], atol=2e-5, err_msg=name)

    @pytest.mark.parametrize("kind", ["tokens", "span"])
    def test_its_variables_are_those_that_converters_know(self, kind):
        shapes = {v.path: tuple(v.shape) for v in self.build(kind).variables}
        assert shapes == names.shapes(tiny.config(), kind, self.CLASSES)
        assert sum(param_groups.decay_mask(shapes)[name] for name in shapes if "output_weights" in name) == 1

    def test_the_tagger_drops_the_states(self):
        built = self.build("tokens", hidden_dropout_prob=1.0)
        inputs = {x.name: FEATURES[x.name] for x in built.inputs}
        bias = next(v for v in built.variables if v.path == "tokens/output_bias")
        np.testing.assert_array_equal(built(inputs, training=True)["logits"], np.tile(bias, (B, L, 1)))
        assert np.ptp(built(inputs)["logits"], axis=1).min() > 1e-3

    def test_no_label(self):
        with pytest.raises(checks.InputError, match="num_labels must be at least 1; got num_labels=0"):
            heads.build_tagger(tiny.config(), 0)


def test_shapes_and_types(plain):
    outputs = plain(INPUTS)
    assert outputs["masked_lm_logits"].shape == (B, P, V)
    assert outputs["next_sentence_logits"].shape == (B, 2)
    assert {v.dtype for v in outputs.values()} == {tf.float32}


def test_table_is_tied(plain):
    """One more in a row of the table moves the logits of that word at every position."""
    built = model()
    before = built(INPUTS)["masked_lm_logits"].numpy()
    unused = next(i for i in range(1, V) if i not in FEATURES["input_ids"])
    table = built.get_layer("embeddings").word_embeddings
    table.assign(np.asarray(table) + (np.arange(V) == unused)[:, None])
    after = built(INPUTS)["masked_lm_logits"].numpy()
    assert (after[..., unused] != before[..., unused]).all()
    others = np.arange(V) != unused
    np.testing.assert_array_equal(after[..., others], before[..., others])


@pytest.mark.slow
def test_gradients_equal_differences_of_the_reference():
    """Along a random direction of each variable; the tied table gets both of its parts."""
    built = model()
    with tf.GradientTape() as tape:
        loss = total_loss(built(INPUTS), FEATURES)
    gradients = tape.gradient(loss, [v.value for v in built.trainable_variables])
    params, rng, step = tiny.weights(built), np.random.default_rng(5), 1e-5

    def reference_loss(changed):
        outputs = reference.pretrainer(FEATURES, params | changed, LAYERS, N)
        losses = reference.pretraining_losses(outputs, FEATURES)
        return sum(losses[name][0] / losses[name][1] for name in ("masked_lm_loss", "next_sentence_loss"))

    for v, gradient in zip(built.trainable_variables, gradients):
        gradient = np.asarray(tf.convert_to_tensor(gradient))
        assert np.isfinite(gradient).all(), v.path
        direction = rng.normal(size=gradient.shape)
        up, down = (reference_loss({v.path: params[v.path] + sign * step * direction}) for sign in (1, -1))
        # The bias of the keys adds the same to all scores of a query: its gradient is 0.
        np.testing.assert_allclose(
            (gradient * direction).sum(), (up - down) / (2 * step), rtol=1e-3, atol=2e-5, err_msg=v.path
        )


def test_order_of_positions_is_the_order_of_logits(plain):
    order = np.random.default_rng(3).permutation(P)
    shuffled = INPUTS | {"masked_lm_positions": FEATURES["masked_lm_positions"][:, order]}
    found, expected = (plain(x)["masked_lm_logits"].numpy() for x in (shuffled, INPUTS))
    np.testing.assert_allclose(found, expected[:, order], atol=1e-5)


def test_more_padding_changes_nothing(plain):
    longer = {k: np.pad(v, [(0, 0), (0, 5)]) for k, v in INPUTS.items()}
    short, long = plain(INPUTS), plain(longer)
    np.testing.assert_allclose(long["masked_lm_logits"][:, :P], short["masked_lm_logits"], atol=1e-5)
    np.testing.assert_allclose(long["next_sentence_logits"], short["next_sentence_logits"], atol=1e-5)


def test_no_positions(plain):
    outputs = plain(INPUTS | {"masked_lm_positions": np.zeros((B, 0), np.int32)})
    assert outputs["masked_lm_logits"].shape == (B, 0, V)


def test_mixed_bfloat16_is_close_to_float32(plain):
    with dtype_policy.building_in("mixed_bfloat16"):
        mixed = model()
    assert {v.dtype for v in mixed.variables} == {"float32"}
    found, expected = mixed(INPUTS), plain(INPUTS)
    for name in ("masked_lm_logits", "next_sentence_logits"):
        assert found[name].dtype == tf.float32
        error = found[name] - expected[name]
        assert np.sqrt(np.mean(error**2)) < 0.03 * np.asarray(expected[name]).std(), name
    with tf.GradientTape() as tape:
        loss = total_loss(mixed(INPUTS), FEATURES)
    gradients = tape.gradient(loss, [v.value for v in mixed.trainable_variables])
    assert all(g.dtype == tf.float32 and np.isfinite(tf.convert_to_tensor(g)).all() for g in gradients)
    np.testing.assert_allclose(loss, total_loss(expected, FEATURES), rtol=0.02)


def test_heads_do_not_drop():
    built = model(hidden_dropout_prob=1.0)
    outputs = {k: v.numpy() for k, v in built(INPUTS, training=True).items()}
    params = tiny.weights(built)
    x = reference.gelu(reference.dense(outputs["sequence_output"][0, 0], params, "cls/predictions/transform/dense"))
    x = reference.layer_norm(x, params, "cls/predictions/transform/LayerNorm")
    expected = params["bert/embeddings/word_embeddings"] @ x + params["cls/predictions/output_bias"]
    np.testing.assert_allclose(outputs["masked_lm_logits"][0, -1], expected, atol=1e-4)
    expected = params["cls/seq_relationship/output_weights"] @ outputs["pooled_output"][0]
    expected += params["cls/seq_relationship/output_bias"]
    np.testing.assert_allclose(outputs["next_sentence_logits"][0], expected, atol=1e-5)


@pytest.mark.slow
def test_each_replica_draws_the_masks_of_its_seed(mirrored):
    with mirrored.scope():
        built = model(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3)

    def forward(seed, replica):
        with dropout.seeded(tf.stack([seed, replica])):
            return built(INPUTS, training=True)["masked_lm_logits"]

    @tf.function
    def step(seed):
        return mirrored.run(lambda: forward(seed, tf.distribute.get_replica_context().replica_id_in_sync_group))

    found = [x.numpy() for x in mirrored.experimental_local_results(step(tf.constant(7)))]
    assert (found[0] != found[1]).all()
    for replica in (0, 1):
        np.testing.assert_allclose(found[replica], forward(tf.constant(7), tf.constant(replica)), atol=1e-5)


@pytest.mark.parametrize(
    "more, shape",
    [
        ({}, (B, L)),
        pytest.param({}, (None, None), marks=pytest.mark.slow),
        pytest.param(
            {"hidden_act": "gelu_erf", "embedding_size": 7, "tie_word_embeddings": False},
            (None, None),
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
def test_converts_to_tflite_with_builtins_only(more, shape):
    plain = model(**more)
    spec = {k: tf.TensorSpec([shape[0], P if k == "masked_lm_positions" else shape[1]], tf.int32, k) for k in INPUTS}
    run = tf.function(lambda **x: plain(x, training=False)).get_concrete_function(**spec)
    holder = tf.Module()
    holder.variables_of_model = [v.value for v in plain.variables]  # without them the converter gives garbage
    converter = tf.lite.TFLiteConverter.from_concrete_functions([run], holder)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    interpreter = tf.lite.Interpreter(model_content=converter.convert())
    runner = interpreter.get_signature_runner()
    for length in (L,) if shape[1] else (L, 9):
        cut = {k: v if k == "masked_lm_positions" else v[:, :length] for k, v in INPUTS.items()}
        cut["masked_lm_positions"] = np.minimum(cut["masked_lm_positions"], length - 1)
        found, expected = runner(**cut), plain(cut)
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], atol=1e-4, err_msg=name)


ROWS = [[2, 0], [3], [1, 3, 2]]  # examples 2 and 3 twice, as with any batch that is trained on more than once


class TestPacked:
    """Rows of several examples give what the examples give alone."""

    @pytest.fixture(scope="class")
    def both(self):
        return model(), tiny.randomize(heads.build_pretrainer(tiny.config(), packed=True))

    @pytest.fixture(scope="class")
    def batches(self):
        examples = [e for row in ROWS for e in row]
        return {k: v[examples] for k, v in FEATURES.items()}, tiny_packed.pack(FEATURES, ROWS)

    @staticmethod
    def run(built, features):
        return built({x.name: features[x.name] for x in built.inputs})

    def test_has_the_same_variables_and_two_more_inputs(self, plain):
        packed = heads.build_pretrainer(tiny.config(), packed=True)
        assert [(v.path, v.shape) for v in packed.variables] == [(v.path, v.shape) for v in plain.variables]
        assert packed.input.keys() - plain.input.keys() == {"position_ids", "next_sentence_positions"}
        assert packed.output["next_sentence_logits"].shape == (None, None, 2)

    def test_logits(self, both, batches):
        alone, together = ({k: v.numpy() for k, v in self.run(m, b).items()} for m, b in zip(both, batches))
        used = batches[0]["masked_lm_weights"] != 0, batches[1]["masked_lm_weights"] != 0
        masked = alone["masked_lm_logits"][used[0]], together["masked_lm_logits"][used[1]]
        np.testing.assert_allclose(masked[1], masked[0], atol=1e-5)
        slots = batches[1]["next_sentence_weights"] != 0
        for name in ("next_sentence_logits", "pooled_output"):
            np.testing.assert_allclose(together[name][slots], alone[name], atol=1e-5, err_msg=name)
        real = (b["input_mask"] != 0 for b in batches)
        states = (x["sequence_output"][r] for x, r in zip((alone, together), real))
        np.testing.assert_allclose(*states, atol=1e-5)

    @pytest.mark.slow
    def test_losses_metrics_and_gradients(self, both, batches):
        results = []
        for built, features in zip(both, batches):
            with tf.GradientTape() as tape:
                outputs = self.run(built, features)
                losses = objectives.pretraining_losses(outputs, features)
                loss = sum(value / weight for value, weight in losses.values())
            gradients = tape.gradient(loss, [v.value for v in built.trainable_variables])
            gradients = {v.path: tf.convert_to_tensor(g).numpy() for v, g in zip(built.trainable_variables, gradients)}
            pairs = losses | objectives.pretraining_metrics(outputs, features)
            assert {n: float(w) for n, w in objectives.pretraining_weights(features).items()} == {
                n: float(losses[n][1]) for n in losses
            }
            results.append(({n: tuple(map(float, pair)) for n, pair in pairs.items()}, gradients))
        (expected, expected_gradients), (found, gradients) = results
        assert found.keys() == expected.keys() and len(found) == 4
        for name in expected:
            assert found[name] == pytest.approx(expected[name], rel=1e-5), name
        assert gradients.keys() == expected_gradients.keys()
        for name, want in expected_gradients.items():
            np.testing.assert_allclose(gradients[name], want, atol=1e-5, err_msg=name)

    def test_the_place_in_a_row_and_the_neighbours_do_not_matter(self, both):
        packed = both[1]
        found = [
            self.run(packed, tiny_packed.pack(FEATURES, rows, length=40))["pooled_output"].numpy()
            for rows in ([[0, 1, 2]], [[2, 1]], [[3, 2]])
        ]
        for other, place in ((found[1], 0), (found[2], 1)):
            np.testing.assert_allclose(other[0, place], found[0][0, 2], atol=1e-5)

    def test_rows_of_one_example_are_the_unpacked_ones(self, both):
        features = {
            **FEATURES,
            "position_ids": np.tile(np.arange(L, dtype=np.int32), (B, 1)),
            "next_sentence_positions": np.zeros((B, 1), np.int32),
        }
        expected, found = (self.run(m, features) for m in both)
        np.testing.assert_allclose(found["masked_lm_logits"], expected["masked_lm_logits"], atol=1e-5)
        np.testing.assert_allclose(found["next_sentence_logits"][:, 0], expected["next_sentence_logits"], atol=1e-5)
        pairs = [objectives.pretraining_losses(x, features) for x in (expected, found)]
        assert {n: float(w) for n, (_, w) in pairs[0].items()} == {n: float(w) for n, (_, w) in pairs[1].items()}
        np.testing.assert_allclose(pairs[1]["next_sentence_loss"][0], pairs[0]["next_sentence_loss"][0], rtol=1e-5)

    def test_equals_reference(self, both, batches):
        """Each example alone through the model in NumPy."""
        expected = reference.pretrainer(FEATURES, tiny.weights(both[1]), LAYERS, N)
        found = self.run(both[1], batches[1])
        for r, row in enumerate(ROWS):
            for place, example in enumerate(row):
                np.testing.assert_allclose(
                    found["next_sentence_logits"][r, place], expected["next_sentence_logits"][example], atol=2e-5
                )

    def test_without_sentences_pooler_and_head_stay_as_they_are(self):
        built = model()
        heads.freeze_next_sentence(built)
        trained = {v.path for v in built.trainable_variables}
        assert {v.path for v in built.variables} - trained == {
            "bert/pooler/dense/kernel",
            "bert/pooler/dense/bias",
            "cls/seq_relationship/output_weights",
            "cls/seq_relationship/output_bias",
        }
        features = {k: v for k, v in FEATURES.items() if k != "next_sentence_labels"}
        with tf.GradientTape() as tape:
            loss = total_loss(built(INPUTS), features)
        assert None not in tape.gradient(loss, [v.value for v in built.trainable_variables])
