"""Tests of data_prep.storage: files of a store are read as files of this machine. TensorFlow's ram:// is the store."""

import gzip
import io
import os

import pytest
import tensorflow as tf

from data_prep import storage

CONTENT = bytes(range(256)) * 9000  # more than one buffer


@pytest.fixture
def stored():
    tf.io.gfile.makedirs("ram://store/folder")
    for name, data in (("a.txt", CONTENT), ("b.txt", b"two\nlines"), ("c.gz", gzip.compress(CONTENT))):
        with tf.io.gfile.GFile(f"ram://store/folder/{name}", "wb") as f:
            f.write(data)
    yield "ram://store/folder"
    tf.io.gfile.rmtree("ram://store")


def test_what_is_remote():
    assert storage.is_remote("gs://bucket/name")
    assert not any(map(storage.is_remote, ("a.txt", "/a/b.txt", "a:b/c")))


def test_reading(stored):
    with storage.open_to_read(f"{stored}/a.txt") as f:
        assert f.read() == CONTENT
        assert f.read(1) == b""
        f.seek(300)
        assert f.read(7) == CONTENT[300:307]
        assert f.tell() == 307
        assert f.seek(-5, os.SEEK_END) == len(CONTENT) - 5
        assert f.read1(100) == CONTENT[-5:]
    with storage.open_to_read(f"{stored}/b.txt") as f:
        assert list(f) == [b"two\n", b"lines"]
    with storage.open_to_read(f"{stored}/c.gz") as f, gzip.GzipFile(fileobj=f) as g:
        assert g.read() == CONTENT


def test_what_is_not_there_is_an_os_error(stored):
    with pytest.raises(OSError, match=r"none\.txt"), storage.open_to_read(f"{stored}/none.txt") as f:
        f.read()
    with pytest.raises(OSError, match=r"none\.txt"):
        storage.size_and_time(f"{stored}/none.txt")


def test_names(stored, tmp_path):
    assert storage.find(f"{stored}/*.txt") == [f"{stored}/a.txt", f"{stored}/b.txt"]
    assert storage.find(f"{stored}/*.csv") == []
    assert storage.is_folder(stored) and not storage.is_folder(f"{stored}/a.txt")
    assert storage.size_and_time(f"{stored}/b.txt")[0] == 9
    assert storage.one_name(f"{stored}/b.txt") == f"{stored}/b.txt"
    (tmp_path / "x").write_text("12345")
    os.utime(tmp_path / "x", ns=(7, 9_000_000_000))
    assert storage.size_and_time(str(tmp_path / "x")) == (5, 9_000_000_000)
    assert storage.one_name(f"{tmp_path}/./x") == os.path.realpath(tmp_path / "x")


def test_renaming_replaces(stored, tmp_path):
    storage.rename(f"{stored}/a.txt", f"{stored}/b.txt")
    assert storage.find(f"{stored}/*.txt") == [f"{stored}/b.txt"]
    assert storage.size_and_time(f"{stored}/b.txt")[0] == len(CONTENT)
    for name in "xy":
        (tmp_path / name).write_text(name)
    storage.rename(str(tmp_path / "x"), str(tmp_path / "y"))
    assert (tmp_path / "y").read_text() == "x" and not (tmp_path / "x").exists()


def test_a_local_file_is_opened_as_it_is(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    with storage.open_to_read(str(tmp_path / "x")) as f:
        assert isinstance(f, io.BufferedReader) and f.read() == b"abc"
