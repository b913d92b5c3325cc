"""Tests of tfbert.initial_attention, and of --attention_init=neighbours of tfbert.pretrain."""

import dataclasses
import json
import math
import os

import numpy as np
import pytest

from tests import reference, tiny, tiny_records
from tests.test_pretrain import assert_same_to_the_bit, weights_of
from tfbert import checks, config, heads, initial_attention, pretrain

WIDTH, HEADS, SIZE, LONGEST = 24, 3, 8, 29  # heads of even width; tests.tiny has odd ones
SIZES = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "max_position_embeddings": LONGEST}


def looked_at(layer, head):
    """-1, 1, -2 in layer 0 and 2, -3, 3 in layer 1: written out."""
    return [[-1, 1, -2], [2, -3, 3]][layer][head]


def test_waves_are_sines_and_cosines_of_rising_frequencies_in_equal_parts():
    rates = initial_attention.frequencies(7)
    for i, rate in enumerate(rates):
        assert math.pi * i / 7 <= rate < math.pi * (i + 1) / 7
    found = initial_attention.waves(5, 14)
    for position in range(5):
        for i, rate in enumerate(rates):
            assert found[position, i] == pytest.approx(math.sqrt(2) * math.sin(position * rate))
            assert found[position, 7 + i] == pytest.approx(math.sqrt(2) * math.cos(position * rate))
    np.testing.assert_allclose((found**2).mean(1), 1)


def test_positions_of_a_whole_table_differ():
    """Evenly spaced frequencies would repeat after 256 positions, and turn the sign after 128."""
    found = initial_attention.waves(512, 128) / math.sqrt(128)
    products = np.abs(found @ found.T - np.eye(512))
    assert products.max() < 0.75 and np.quantile(products, 0.99) < 0.35


@pytest.mark.parametrize("offset", [-3, 0, 2])
def test_one_rotation_moves_all_positions(offset):
    found = initial_attention.waves(31, 10)
    moved = found[5:20] @ initial_attention.rotation(10, offset)
    np.testing.assert_allclose(moved, found[5 + offset : 20 + offset], atol=1e-12)


@pytest.mark.parametrize("layer", [0, 1])
def test_each_head_scores_its_neighbour_highest_wherever_it_stands(layer):
    """Plain attention over nothing but positions: the softmax is `tests.reference`'s."""
    hidden = initial_attention.waves(LONGEST, WIDTH) * math.sqrt(initial_attention.POSITION_SHARE)
    query, key = initial_attention.kernels(WIDTH, HEADS, layer)
    for head in range(HEADS):
        columns, offset = slice(head * SIZE, (head + 1) * SIZE), looked_at(layer, head)
        for i in range(3, LONGEST - 3):
            scores = (hidden[i] @ query[:, columns]) @ (hidden @ key[:, columns]).T / math.sqrt(SIZE)
            shares = reference.softmax(scores)
            assert shares.argmax() == i + offset
            assert scores[i + offset] == pytest.approx(initial_attention.SCORE)


def numbers(model):
    return {v.path: np.array(v) for v in model.variables}


def test_all_but_positions_queries_and_keys_stays_as_it_was():
    encoder = tiny.config(**SIZES, initializer_range=0.05)
    model = heads.build_pretrainer(encoder)
    fresh = numbers(model)
    initial_attention.look_at_neighbours(model, encoder)
    found = numbers(model)
    changed = {name for name in fresh if (fresh[name] != found[name]).any()}
    kernels = {
        f"bert/encoder/layer_{i}/attention/self/{n}/kernel" for i in range(tiny.LAYERS) for n in ("query", "key")
    }
    assert changed == {"bert/embeddings/position_embeddings", *kernels}
    positions = found["bert/embeddings/position_embeddings"]
    np.testing.assert_allclose(positions, 0.05 * initial_attention.waves(LONGEST, WIDTH), atol=1e-6)
    name = "bert/encoder/layer_1/attention/self/key/kernel"
    added = initial_attention.kernels(WIDTH, HEADS, 1)[1]
    np.testing.assert_allclose(found[name] - fresh[name], added, atol=1e-5)


@pytest.mark.parametrize(
    "sizes, message",
    [
        ({"embedding_size": 7}, "embeddings as wide as the encoder.*embedding_size=7, hidden_size=24"),
        ({"hidden_size": 15}, "heads of even width.*hidden_size=15, num_attention_heads=3"),
    ],
)
def test_models_that_have_no_room_for_it(sizes, message):
    encoder = tiny.config(**{**SIZES, **sizes})
    with pytest.raises(checks.InputError, match=message):
        initial_attention.look_at_neighbours(heads.build_pretrainer(encoder), encoder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("records"))
    tiny_records.make(folder)
    with open(os.path.join(folder, "bert_config.json"), "w") as f:
        json.dump(config.to_dict(tiny.config(**SIZES, initializer_range=0.06)), f)
    return folder


@pytest.mark.slow
def test_a_run_begins_with_it_and_does_not_again_when_it_goes_on(folder, tmp_path):
    run_dir, other = str(tmp_path / "run"), str(tmp_path / "other")
    more = {"attention_init": "neighbours", "num_train_steps": 5, "eval_input_file": ()}
    flags = tiny_records.flags(folder, run_dir, **more)
    assert pretrain.run(flags) == 0
    found = weights_of(run_dir, 0)["bert/embeddings/position_embeddings"]
    np.testing.assert_allclose(found, 0.06 * initial_attention.waves(LONGEST, WIDTH), atol=1e-6)
    tiny_records.cut_back(run_dir, other, 4)
    assert pretrain.run(dataclasses.replace(flags, output_dir=other)) == 0
    assert_same_to_the_bit(run_dir, other, 5)


def test_weights_that_are_given_are_not_fresh(folder, tmp_path):
    flags = tiny_records.flags(folder, tmp_path / "run", attention_init="neighbours")
    with pytest.raises(checks.InputError, match="attention_init is for fresh weights"):
        dataclasses.replace(flags, init_checkpoint="there")
