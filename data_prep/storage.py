"""Files of this machine and of the object stores that TensorFlow knows: gs://BUCKET/NAME is a path like any other."""

import contextlib
import glob
import io
import os

import tensorflow as tf


def is_remote(path):
    """Whether a path is that of a store, and not of this machine's file system."""
    return "://" in path


@contextlib.contextmanager
def _os_errors(path):
    """Turns what TensorFlow raises into what `open` would."""
    try:
        yield
    except tf.errors.OpError as e:
        raise OSError(0, e.message.split("\n")[0] or type(e).__name__, path) from e


class _Stored(io.RawIOBase):
    """A file of a store, to be read."""

    def __init__(self, path):
        self._path, self._file = path, tf.io.gfile.GFile(path, "rb")

    def readable(self):
        return True

    def seekable(self):
        return True

    def readinto(self, buffer):
        with _os_errors(self._path):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset, whence=os.SEEK_SET):
        with _os_errors(self._path):
            self._file.seek(offset, whence)
            return self._file.tell()

    def tell(self):
        with _os_errors(self._path):
            return self._file.tell()


def open_to_read(path):
    """A file in binary mode."""
    return io.BufferedReader(_Stored(path), 1 << 20) if is_remote(path) else open(path, "rb")


def find(pattern):
    """What a glob matches, in order; ** matches any folders of this machine, but none of a store."""
    if is_remote(pattern):
        with _os_errors(pattern):
            return sorted(tf.io.gfile.glob(pattern))
    return [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))


def is_folder(path):
    """Whether there is a folder of this name."""
    return tf.io.gfile.isdir(path) if is_remote(path) else os.path.isdir(path)


def one_name(path):
    """The same name for all paths of one file."""
    return path if is_remote(path) else os.path.realpath(path)


def size_and_time(path):
    """Bytes of a file, and when it was changed, in nanoseconds."""
    if is_remote(path):
        with _os_errors(path):
            status = tf.io.gfile.stat(path)
        return status.length, status.mtime_nsec
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def rename(path, new):
    """Gives a file another name, in place of what has it; in a folder of this machine at once or not at all."""
    if is_remote(path):
        tf.io.gfile.rename(path, new, overwrite=True)
    else:
        os.replace(path, new)
