"""Which devices train, how data reaches them, and how several processes come to one mind.

Several processes ("workers") that train together run the same program with the same flags, each on its part of
every batch. The first is the chief: it alone writes. Whatever decides what is computed next must be the same for
all, so what only one of them can know (a file, a signal, a time) goes through a collective operation first.
"""

import contextlib
import functools
import os
import signal
import sys

import tensorflow as tf

from tfbert import checks
from tfbert.loop import cluster, rendezvous

STRATEGIES = ("default", "mirrored", "multi_worker", "tpu")


def make_strategy(name, tpu_name=""):
    """The `tf.distribute` strategy of a run.

    Args:
        name: "default" is one device, the first GPU, or the CPU where there is none; "mirrored" is all
            GPUs of this machine, or all logical CPU devices where there are none; "multi_worker" is all GPUs
            of several processes, or a CPU of each; "tpu" is a TPU. For "multi_worker" nothing may have run in
            TensorFlow before.
        tpu_name: The TPU's name or grpc:// address; "local" on the machine that holds it; empty takes
            what the environment says.

    Raises:
        InputError: another name, no TPU can be reached, or the environment does not say who trains together.
    """
    tf.get_logger().setLevel("WARNING")  # else a line or more for each collective operation of a graph
    checks.require(name in STRATEGIES, f"strategy must be one of {', '.join(STRATEGIES)}", f"strategy={name!r}")
    if name == "tpu":
        return _tpu_strategy(tpu_name)
    if name == "multi_worker":
        return _multi_worker_strategy(cluster.from_environment(os.environ))
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    names = tuple(device.name for device in devices)
    return _mirrored_strategy(names) if name == "mirrored" else tf.distribute.OneDeviceStrategy(names[0])


# Two MirroredStrategies of the same devices in one process give their collective operations the same
# keys; then the second one fails or hangs where its shapes differ. So there is one.
@functools.cache
def _mirrored_strategy(devices):
    return tf.distribute.MirroredStrategy(devices)


@functools.cache  # TensorFlow can join a cluster once
def _multi_worker_strategy(members):
    about = f"{members.name_of(members.index)} of {len(members.workers)}"
    print(f"{about}: waiting for the others", file=sys.stderr, flush=True)
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": members.workers}),
        task_type="worker",
        task_id=members.index,
        num_accelerators={"GPU": len(tf.config.list_physical_devices("GPU"))},
        rpc_layer="grpc",
    )
    # Python's own handler of Ctrl-C would wait for the others too.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        rendezvous.wait_for_all(members)
        strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    except (tf.errors.OpError, OSError) as e:
        error = checks.error(
            "workers must be able to reach one another, each at a free port of its own",
            (getattr(e, "message", None) or str(e)).splitlines()[0],
            about,
            "Look at the addresses and at what else uses these ports, then start all again",
        )
        raise checks.TryAgain(str(error)) from e
    finally:
        signal.signal(signal.SIGINT, before)
        # TensorFlow has taken SIGTERM for a use of its own, which would leave a process deaf to it.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    strategy.members = members
    return strategy


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


def _is_one_cpu(strategy):
    if not isinstance(strategy, tf.distribute.OneDeviceStrategy):
        return False
    return tf.DeviceSpec.from_string(strategy.extended.worker_devices[0]).device_type == "CPU"


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
        dataset = make_dataset(context.num_input_pipelines, context.input_pipeline_id, replicas)
        # The end of an iterator waits for the thread that tunes it, and that one sleeps for up to a minute: 20 s were
        # seen after 40 s of training. Without it AUTOTUNE means as many calls as there are cores, at most 16.
        options = tf.data.Options()
        options.autotune.enabled = False
        return dataset.with_options(options)

    if _is_one_cpu(strategy):
        # There is no other memory to copy to. TensorFlow would do it in a second iterator, which no option reaches.
        return for_pipeline(tf.distribute.InputContext())
    # Every replica gets as many elements, so none must ask the others whether they have one left: TensorFlow would ask
    # in each step where there are several hosts, and forget the size of the batch, which compilers need.
    strategy.extended.experimental_enable_get_next_as_optional = False
    return strategy.distribute_datasets_from_function(for_pipeline)


def members(strategy):
    """The `cluster.Cluster` of a strategy of several processes, or None."""
    return getattr(strategy, "members", None)


def is_chief(strategy):
    """Whether this process is the one that writes; alone it is."""
    others = members(strategy)
    return others is None or others.index == 0


def everyones(strategy, value):
    """What each worker says, in their order: [int]. All of them wait here until each has said it.

    Args:
        strategy: Of `make_strategy`.
        value: int of 63 bits.
    """
    if members(strategy) is None:
        return [value]
    values = _gather(strategy)(tf.constant(value, tf.int64)).numpy().tolist()
    return values[:: len(values) // len(members(strategy).workers)]  # a worker's replicas say the same


def added_up(strategy, values):
    """The sum of an array that each worker has: all of them wait here, and get it.

    Args:
        strategy: Of `make_strategy`.
        values: Numbers, of the same shape and type in each process.
    """
    return values if members(strategy) is None else _adder(strategy)(tf.constant(values)).numpy()


@functools.cache
def _adder(strategy):
    """The function from numbers of this process to their sum over processes."""
    per_worker = strategy.num_replicas_in_sync // len(members(strategy).workers)

    @tf.function(autograph=False, reduce_retracing=True)
    def add(values):
        def replica():
            context = tf.distribute.get_replica_context()
            first = context.replica_id_in_sync_group % per_worker == 0
            return context.all_reduce("SUM", tf.where(first, values, tf.zeros_like(values)))

        return strategy.experimental_local_results(strategy.run(replica))[0]

    return add


@functools.cache
def _gather(strategy):
    """The function from a number of this process to int64 [replicas], those of all."""

    @tf.function(autograph=False)
    def gather(value):
        def replica():
            context = tf.distribute.get_replica_context()
            place = tf.one_hot(context.replica_id_in_sync_group, strategy.num_replicas_in_sync, dtype=tf.int64)
            return context.all_reduce("SUM", place * value)

        return strategy.experimental_local_results(strategy.run(replica))[0]

    return gather


def of_chief(strategy, value):
    """The int that the chief said: all workers call this at the same place."""
    return everyones(strategy, value)[0]


@contextlib.contextmanager
def together(strategy):
    """Every worker comes out of this at the same time, or none: an `InputError` of one ends all.

    For what each does by itself: an error between collective operations ends the process that has it, and so all.

    Raises:
        InputError: this worker's own, or that another one had one.
    """
    failed = None
    try:
        yield
    except checks.InputError as e:
        failed = e
    saying = everyones(strategy, int(failed is not None))
    if failed is not None:
        raise failed
    wrong = [members(strategy).name_of(i) for i, said in enumerate(saying) if said]
    checks.require(not wrong, "every worker must be able to go on", f"an error of {', '.join(wrong)}; it says which")
