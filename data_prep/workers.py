"""Tasks carried out by processes: what they give does not depend on how many there are."""

import concurrent.futures
import gc
import multiprocessing
import os
import pickle
import tempfile
import threading
from concurrent.futures import process
from multiprocessing import connection

from tfbert import checks

_set_up = None  # in a worker: what the set-up function gave
_done = multiprocessing.get_context("spawn").Value("d", 0.0)  # of the present work, in the tasks' own measure


def advance(amount):
    """A task says how much of the work it has done since it said so last."""
    with _done.get_lock():
        _done.value += amount


def done():
    """What the tasks of the present `Workers.map` have said so far."""
    return _done.value


def _begin(counter, set_up_file):
    global _set_up, _done
    _done = counter
    threading.Thread(target=_die_with_parent, daemon=True).start()
    import tensorflow as tf

    # A process a core: threads would only wait for one another.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    with open(set_up_file, "rb") as f:
        set_up, arguments = pickle.load(f)
    _set_up = set_up(*arguments)
    # What is there by now stays: looking for garbage among it again and again costs a quarter of the time.
    gc.collect()
    gc.freeze()


def _die_with_parent():
    # A killed program tells its workers nothing, and they would wait for tasks for ever.
    connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _carry_out(task, argument):
    return task(_set_up, argument)


class Workers:
    """Carries out tasks in processes, or in this one if a single worker is asked for.

    Args:
        num_workers: Processes.
        set_up: A function of a module; each process calls it once.
        arguments: Its arguments.
    """

    def __init__(self, num_workers, set_up, arguments):
        self._num_workers, self._set_up, self._arguments = num_workers, set_up, arguments
        self._pool = self._own = self._file = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._file.close()

    def map(self, task, arguments, large=True, report=lambda: None):
        """Carries out `task(what set_up gave, argument)` for every argument.

        Args:
            task: A function of a module.
            arguments: What can be pickled.
            large: Whether the work is worth starting processes for, which takes seconds; those that are there are used.
            report: Called every second or so where there are processes, and after each task.

        Yields:
            (place of the argument, result), as they are finished.

        Raises:
            InputError: a worker was killed. And whatever a task raises.
        """
        arguments = list(arguments)
        _done.value = 0.0
        if self._pool is None and (self._num_workers == 1 or len(arguments) < 2 or not large):
            if arguments and self._own is None:
                self._own = self._set_up(*self._arguments)
            for place, argument in enumerate(arguments):
                yield place, task(self._own, argument)
                report()
            return
        if self._pool is None:
            # Through a file: what is more than a pipe holds would be read by a process only when it has imported
            # the program, and until then the next one would not be started.
            self._file = tempfile.NamedTemporaryFile()  # noqa: SIM115
            pickle.dump((self._set_up, self._arguments), self._file)
            self._file.flush()
            self._pool = concurrent.futures.ProcessPoolExecutor(
                self._num_workers, multiprocessing.get_context("spawn"), _begin, (_done, self._file.name)
            )
        jobs = {self._pool.submit(_carry_out, task, argument): place for place, argument in enumerate(arguments)}
        waiting = set(jobs)
        try:
            while waiting:
                finished, waiting = concurrent.futures.wait(waiting, 1.0, concurrent.futures.FIRST_COMPLETED)
                for job in finished:
                    yield jobs[job], job.result()
                report()
        except process.BrokenProcessPool as e:
            raise checks.error(
                "worker processes must stay alive",
                "one that was ended from outside, by the system for want of memory as a rule",
                do="Pass a smaller --num_workers. What was finished stays: the same command goes on",
            ) from e
        finally:
            for job in waiting:
                job.cancel()
