"""Which devices train, and how data reaches them."""

import functools

import tensorflow as tf

from tfbert import checks

STRATEGIES = ("default", "mirrored", "tpu")


def make_strategy(name, tpu_name=""):
    """The `tf.distribute` strategy of a run.

    Args:
        name: "default" is one device, the first GPU, or the CPU where there is none; "mirrored" is all
            GPUs of this machine, or all logical CPU devices where there are none; "tpu" is a TPU.
        tpu_name: The TPU's name or grpc:// address; "local" on the machine that holds it; empty takes
            what the environment says.

    Raises:
        InputError: another name, or no TPU can be reached.
    """
    checks.require(name in STRATEGIES, f"strategy must be one of {', '.join(STRATEGIES)}", f"strategy={name!r}")
    if name == "tpu":
        return _tpu_strategy(tpu_name)
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    names = tuple(device.name for device in devices)
    return _mirrored_strategy(names) if name == "mirrored" else tf.distribute.OneDeviceStrategy(names[0])


# Two MirroredStrategies of the same devices in one process give their collective operations the same
# keys; then the second one fails or hangs where its shapes differ. So there is one.
@functools.cache
def _mirrored_strategy(devices):
    return tf.distribute.MirroredStrategy(devices)


def _tpu_strategy(tpu_name):
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu_name or None)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    # OSError: the resolver asks Google Cloud's metadata server; ValueError: it found no name to ask for.
    except (ValueError, OSError, RuntimeError, tf.errors.OpError) as e:
        raise checks.error(
            "strategy=tpu needs a TPU that can be reached",
            f"tpu_name={tpu_name!r}: {str(e).splitlines()[0]}",
            do="On the machine that holds the TPU pass --tpu_name=local, elsewhere its name or grpc:// address; "
            "without one pass --strategy=default",
        ) from e
    return tf.distribute.TPUStrategy(resolver)


def distribute(strategy, make_dataset):
    """The dataset whose elements go to the replicas.

    Every replica takes one element a turn, so an element is one replica's batch: replica r of a
    pipeline with R replicas takes elements r, R + r, 2 R + r, ...

    Args:
        strategy: Of `make_strategy`.
        make_dataset: `(num_pipelines, pipeline_index, replicas_per_pipeline) -> tf.data.Dataset` of
            per-replica batches. A pipeline is the input of one host.

    Returns:
        An iterable of per-replica values for `strategy.run`.
    """

    def for_pipeline(context):
        replicas = context.num_replicas_in_sync // context.num_input_pipelines
        return make_dataset(context.num_input_pipelines, context.input_pipeline_id, replicas)

    return strategy.distribute_datasets_from_function(for_pipeline)
