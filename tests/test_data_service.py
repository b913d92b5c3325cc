"""What BUILD.md says of tf.data service: batches that other processes prepare are those of the local pipeline."""

import os

import numpy as np
import pytest
import tensorflow as tf

from tests import tiny, tiny_records
from tfbert import features, input_pipeline, record_sets

service = tf.data.experimental.service
G, SEED, BLOCK = 12, 7, 30


@pytest.fixture
def addresses():
    """Two services, each a dispatcher with one worker."""
    dispatchers = [service.DispatchServer() for _ in range(2)]
    names = [dispatcher.target.split("://")[1] for dispatcher in dispatchers]
    workers = [service.WorkerServer(service.WorkerConfig(name, heartbeat_interval_ms=100)) for name in names]
    yield names
    del workers, dispatchers


@pytest.fixture
def records(tmp_path):
    """Tiny masked records of 53 sequences: no multiple of G."""
    tiny_records.make(tmp_path)
    return record_sets.open_records([os.path.join(tmp_path, "train-*")], tiny.L, tiny.P)


def served(addresses, records, step):
    n = len(addresses)
    parts = [
        input_pipeline.train_dataset(records, G, 1, SEED, step, BLOCK, num_pipelines=n, pipeline_index=i).apply(
            service.distribute(service.ShardingPolicy.OFF, f"grpc://{address}")
        )
        for i, address in enumerate(addresses)
    ]
    return tf.data.Dataset.choose_from_datasets(parts, tf.data.Dataset.range(n).repeat()).rebatch(G)


@pytest.mark.slow
@pytest.mark.parametrize(("step", "services"), [(0, 1), (0, 2), (11, 2)])
def test_served_batches_are_the_local_ones(addresses, records, step, services):
    local = input_pipeline.train_dataset(records, G, 1, SEED, step, BLOCK).take(20)
    remote = served(addresses[:services], records, step).take(20)
    number = 0
    for number, (a, b) in enumerate(zip(local.as_numpy_iterator(), remote.as_numpy_iterator()), 1):
        assert a.keys() == b.keys() == {f.name for f in features.PRETRAINING}
        for name, value in a.items():
            np.testing.assert_array_equal(value, b[name], err_msg=f"batch {number}, {name}")
    assert number == 20
