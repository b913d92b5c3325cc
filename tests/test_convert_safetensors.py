"""Tests of tfbert.convert.safetensors_file: against the format's own library, and against damaged files."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from tests import convert_samples
from tfbert import checks
from tfbert.convert import safetensors_file, sources

RNG = np.random.default_rng(0)
ARRAYS = {
    "a": RNG.normal(size=(3, 5)).astype(np.float32),
    "half": RNG.normal(size=7).astype(np.float16),
    "scalar": np.array(2.5, np.float32),
    "empty": np.zeros((0, 4), np.float32),
    "whole/é": np.arange(4).reshape(1, 4),
    "bytes": np.arange(3, dtype=np.uint8),
}


def raw(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return str(path)


def entry(begin, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_reads_what_the_library_writes(tmp_path):
    path = str(tmp_path / "x.safetensors")
    arrays = {**ARRAYS, "brain": RNG.normal(size=(2, 3)).astype(ml_dtypes.bfloat16)}
    safetensors.numpy.save_file(arrays, path, {"format": "pt"})
    found = safetensors_file.read(path)
    assert {n: (t.shape, t.dtype) for n, t in found.items()} == {n: (a.shape, a.dtype.name) for n, a in arrays.items()}
    convert_samples.check_equal(convert_samples.arrays(found), arrays)


def test_the_library_reads_what_is_written(tmp_path):
    path = str(tmp_path / "x.safetensors")
    arrays = {**ARRAYS, "brain": RNG.normal(size=(2, 3)).astype(ml_dtypes.bfloat16), "turned": ARRAYS["a"].T}
    safetensors_file.write(path, {n: convert_samples.tensor(a) for n, a in arrays.items()}, {"format": "pt"})
    found = safetensors.numpy.load_file(path)
    assert sorted(found) == sorted(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    with safetensors.safe_open(path, "np") as f:
        assert f.metadata() == {"format": "pt"}
    convert_samples.check_equal(convert_samples.arrays(safetensors_file.read(path)), arrays)


def test_numbers_are_read_when_asked_for_and_not_before(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file({"a": ARRAYS["a"]}, path)
    found = safetensors_file.read(str(path))["a"]
    path.write_bytes(path.read_bytes()[:-60] + b"\0" * 60)  # in place of the numbers
    assert (found.read() == 0).all()


CORRUPT = {
    "nothing": (b"", b"", None, "0 bytes, too few"),
    "header beyond the file": ({}, b"", 99, "a header of 99 bytes in a file of 10"),
    "header of 2**63": ({}, b"", 2**63, "a header of 9223372036854775808 bytes"),
    "no JSON": (b"{]", b"", None, "must be a JSON object"),
    "not UTF-8": (b'{"\xff": 1}', b"", None, "must be a JSON object"),
    "a list": ([], b"", None, "got list"),
    "deep": (b"[" * 100_000, b"", None, "must be a JSON object"),
    "a name twice": (b'{"a": {"x": 1}, "a": {"x": 2}}', b"", None, "['a'] twice"),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, b"\0" * 8, None, "must have a dtype, a shape"),
    "truncated": ({"a": entry(0, 8)}, b"\0" * 7, None, "7 bytes of numbers, and 8 in its header"),
    "bytes after the end": ({"a": entry(0, 8)}, b"\0" * 9, None, "9 bytes of numbers, and 8"),
    "overlap": ({"a": entry(0, 8), "b": entry(4, 12)}, b"\0" * 12, None, "b, which overlaps the one before"),
    "same place": ({"a": entry(0, 8), "b": entry(0, 8)}, b"\0" * 8, None, "overlaps"),
    "gap": ({"a": entry(0, 8), "b": entry(12, 20)}, b"\0" * 20, None, "b, which leaves a gap before it"),
    "gap at the start": ({"a": entry(4, 12)}, b"\0" * 12, None, "leaves a gap"),
    "backwards": ({"a": entry(8, 0)}, b"\0" * 8, None, "must be [begin, end]"),
    "negative offset": ({"a": entry(-8, 0)}, b"\0" * 8, None, "must be [begin, end]"),
    "negative shape": ({"a": entry(0, 8, (-2,))}, b"\0" * 8, None, "list of natural numbers"),
    "shape of true": ({"a": entry(0, 4, (True,))}, b"\0" * 4, None, "list of natural numbers"),
    "size": ({"a": entry(0, 8, (3,))}, b"\0" * 8, None, "8 bytes for F32 [3], which takes 12"),
    "size beyond 64 bits": ({"a": entry(0, 8, (2**40, 2**40))}, b"\0" * 8, None, "must fit its shape"),
    "dtype": ({"a": entry(0, 8, dtype="F8_E4M3")}, b"\0" * 8, None, "'F8_E4M3' of a"),
    "dtype of another kind": ({"a": entry(0, 8, dtype=["F32"])}, b"\0" * 8, None, "dtype must be one of"),
}


@pytest.mark.parametrize("case", CORRUPT)
def test_corrupt_files_are_refused_with_the_reason(tmp_path, case):
    header, data, length, message = CORRUPT[case]
    path = tmp_path / "x.safetensors"
    if case == "nothing":
        path.write_bytes(b"")
    else:
        raw(path, header, data, length)
    with pytest.raises(checks.InputError) as e:
        safetensors_file.read(str(path))
    assert message in str(e.value) and str(path) in str(e.value)


def test_every_cut_of_a_file_is_noticed(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file({"a": ARRAYS["a"], "b": ARRAYS["half"]}, path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(checks.InputError):
            safetensors_file.read(str(path))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", sources.FLOATS)
def test_numbers_that_are_not_finite_are_refused(bad, dtype):
    array = np.zeros((3, 4), sources.FLOATS[dtype])
    assert sources.values("good", convert_samples.tensor(array), "here").dtype == np.float32
    array[1, 2] = bad
    with pytest.raises(checks.InputError, match=r"1 in a.b that are not, the first at \[1, 2\] \(at here\)"):
        sources.values("a.b", convert_samples.tensor(array), "here")


@pytest.mark.parametrize("dtype", ["float64", "int64", "int8", "bool"])
def test_weights_of_other_types_are_refused(dtype):
    with pytest.raises(checks.InputError, match=f"{dtype} in a"):
        sources.values("a", convert_samples.tensor(np.zeros(3, dtype)), "here")


def shards(folder, weight_map=None, name="model.safetensors.index.json"):
    safetensors.numpy.save_file({"a": ARRAYS["a"]}, folder / "one.safetensors")
    safetensors.numpy.save_file({"b": ARRAYS["half"]}, folder / "two.safetensors")
    weight_map = {"a": "one.safetensors", "b": "two.safetensors"} if weight_map is None else weight_map
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return str(folder / name)


def test_shards_are_read_together(tmp_path):
    found = convert_samples.arrays(safetensors_file.read_sharded(shards(tmp_path)))
    convert_samples.check_equal(found, {"a": ARRAYS["a"], "b": ARRAYS["half"]})


@pytest.mark.parametrize(
    "weight_map, message",
    [
        ({"a": "../one.safetensors"}, "'../one.safetensors'"),
        ({"a": "/etc/passwd"}, "'/etc/passwd'"),
        ({"a": "..\\one.safetensors"}, "without a path"),
        ({"a": ".."}, "without a path"),
        ({"a": "three.safetensors"}, "no three.safetensors"),
        ({"a": 3}, "names of files"),
        ({}, "must have a weight_map"),
        ([], "must have a weight_map"),
        ({"a": "one.safetensors", "b": "one.safetensors"}, "['b'] otherwise in one.safetensors"),
        ({"a": "two.safetensors"}, "['a', 'b'] otherwise in two.safetensors"),
    ],
)
def test_an_index_names_files_of_its_folder_and_what_they_hold(tmp_path, weight_map, message):
    (tmp_path / "in").mkdir()
    safetensors.numpy.save_file({"a": ARRAYS["a"]}, tmp_path / "one.safetensors")  # outside, and whole
    with pytest.raises(checks.InputError) as e:
        safetensors_file.read_sharded(shards(tmp_path / "in", weight_map))
    assert message in str(e.value)


def test_a_header_that_is_no_file_is_refused(tmp_path):
    with pytest.raises(checks.InputError, match="must be readable"):
        safetensors_file.read(str(tmp_path / "none.safetensors"))
