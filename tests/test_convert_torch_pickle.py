"""Tests of tfbert.convert.torch_pickle: tensors come out, and nothing that a hostile file asks for is done."""

import builtins
import collections
import contextlib
import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from tests import convert_samples
from tfbert import checks
from tfbert.convert import torch_pickle

RNG = np.random.default_rng(0)
STATE = {
    "a.weight": RNG.normal(size=(3, 5)).astype(np.float32),
    "turned": RNG.normal(size=(5, 2)).astype(np.float32).T,
    "half": RNG.normal(size=4).astype(np.float16),
    "scalar": np.array(1.5, np.float32),
    "position_ids": np.arange(4).reshape(1, 4),
}
LAYOUTS = pytest.mark.parametrize("old", [True, False], ids=["sequence", "zip"])


@LAYOUTS
def test_reads_a_state_dictionary(tmp_path, old):
    path = str(tmp_path / "pytorch_model.bin")
    state = {k: v for k, v in STATE.items() if k != "turned"}
    convert_samples.save_torch(path, state, old)
    found = torch_pickle.read(path)
    assert {n: (t.shape, t.dtype) for n, t in found.items()} == {n: (a.shape, a.dtype.name) for n, a in state.items()}
    convert_samples.check_equal(convert_samples.arrays(found), state)


@LAYOUTS
def test_views_share_a_storage(tmp_path, old):
    path = str(tmp_path / "pytorch_model.bin")
    base = np.arange(12, dtype=np.float32).reshape(3, 4)
    views = {
        "same": ("base", 0, (3, 4), (4, 1)),
        "turned": ("base", 0, (4, 3), (1, 4)),
        "row": ("base", 4, (4,), (1,)),
        "last": ("base", 11, (), ()),
        "none": ("base", 12, (0,), (1,)),
    }
    convert_samples.save_torch(path, {"base": base}, old, views)
    found = convert_samples.arrays(torch_pickle.read(path))
    expected = {"base": base, "same": base, "turned": base.T, "row": base[1], "last": base[2, 3], "none": base[:0, 0]}
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


@LAYOUTS
@pytest.mark.parametrize("view", [(0, (4, 4), (4, 1)), (9, (4,), (1,)), (0, (2,), (12,)), (12, (), ())])
def test_views_stay_inside_their_storage(tmp_path, old, view):
    path = str(tmp_path / "pytorch_model.bin")
    convert_samples.save_torch(path, {"base": np.zeros(12, np.float32)}, old, {"beyond": ("base", *view)})
    with pytest.raises(checks.InputError, match="beyond, which goes beyond its storage of 12 numbers"):
        torch_pickle.read(path)


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.parts = function, arguments

    def __reduce__(self):
        return self.parts


HOSTILE = {
    "system": lambda mark: Call(os.system, f"touch {mark}"),
    "eval": lambda mark: Call(eval, f"open({str(mark)!r}, 'w')"),
    "exec": lambda mark: Call(exec, f"open({str(mark)!r}, 'w')"),
    "open": lambda mark: Call(open, str(mark), "w"),
    "getattr": lambda mark: Call(getattr, Call(__import__, "os"), "system"),
    "import": lambda mark: Call(__import__, "antigravity"),
    "mkdir": lambda mark: {"a": Call(os.mkdir, str(mark))},
    "in an ordered dictionary": lambda mark: collections.OrderedDict(a=Call(os.mkdir, str(mark))),
    "breakpoint": lambda mark: Call(builtins.breakpoint),
    "a class": lambda mark: Call(io.FileIO, str(mark), "w"),
}


def write_pickle(path, data, old):
    if old:
        magic = b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
        path.write_bytes(magic + data)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", data)


@LAYOUTS
@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_pickle_executes_nothing(tmp_path, case, protocol, old):
    mark, path = tmp_path / "mark", tmp_path / "pytorch_model.bin"
    data = pickle.dumps(HOSTILE[case](mark), protocol)
    write_pickle(path, data, old)
    with pytest.raises(checks.InputError, match="must hold a dictionary of tensors and nothing else") as e:
        torch_pickle.read(str(path))
    assert "nothing of it was run" in str(e.value) or protocol == 0
    assert not mark.exists()


def test_the_hostile_samples_would_have_done_harm(tmp_path):
    pickle.loads(pickle.dumps(HOSTILE["mkdir"](tmp_path / "mark"), 2))
    assert (tmp_path / "mark").is_dir()


def test_a_whole_file_that_is_a_plain_hostile_pickle(tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "pytorch_model.bin"
    path.write_bytes(pickle.dumps(HOSTILE["mkdir"](mark)))
    with pytest.raises(checks.InputError, match="imports 'posix mkdir'"):
        torch_pickle.read(str(path))
    assert not mark.exists()


RAW = {
    "a method of an admitted class": b"\x80\x02ccollections\nOrderedDict.fromkeys\nU\x01aq\x00\x85R.",
    "arguments for a dictionary": b"\x80\x02ccollections\nOrderedDict\n]\x85R.",
    "attributes of a name": b"\x80\x02ccollections\nOrderedDict\n}U\x01aK\x01sb.",
    "NEWOBJ": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "INST": b"(S'touch /tmp/x'\nios\nsystem\n.",
    "OBJ": b"(ccollections\nOrderedDict\no.",
    "EXT1": b"\x80\x02\x82\x01.",
    "PERSID": b"Pname\n.",
    "a storage by a word": b"\x80\x02U\x07storageQ.",
    "an unknown memo": b"\x80\x02h\x05.",
    "an empty stack": b"\x80\x02.",
    "no end": b"\x80\x02}",
    "no instruction": b"\x80\x02\xff.",
    "a long word cut short": b"\x80\x02X\xff\xff\xff\x7fabc.",
    "TUPLE without a mark": b"\x80\x02t.",
    "items for a list": b"\x80\x02](U\x01aK\x01u.",
    "items without names": b"\x80\x02}(K\x01K\x01u.",
    "STACK_GLOBAL of numbers": b"\x80\x04K\x01K\x02\x93.",
    "STACK_GLOBAL of nested tuples": b"\x80\x04)" + b"2\x86" * 60 + b"K\x01\x93.",
}


@pytest.mark.parametrize("case", RAW)
@LAYOUTS
def test_odd_pickles_are_refused(tmp_path, case, old):
    path = tmp_path / "pytorch_model.bin"
    write_pickle(path, RAW[case], old)
    with pytest.raises(checks.InputError, match="must hold a dictionary of tensors"):
        torch_pickle.read(str(path))


def test_a_memo_far_away_takes_no_memory(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    write_pickle(path, b"\x80\x02}r\xff\xff\xff\xff.", False)  # Python's own unpickler makes room for 2**32 entries
    assert torch_pickle.read(str(path)) == {}


def test_every_cut_of_a_file_is_noticed(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    for old in (True, False):
        convert_samples.save_torch(str(path), {"a": STATE["a.weight"], "b": STATE["half"]}, old)
        whole = path.read_bytes()
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            with pytest.raises(checks.InputError):
                torch_pickle.read(str(path))


def test_every_changed_byte_gives_numbers_or_an_input_error(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    for old in (True, False):
        convert_samples.save_torch(str(path), {"a": STATE["half"]}, old)
        whole = path.read_bytes()
        for i in range(len(whole)):
            for new in (0, 0x2E, 0xFF):
                path.write_bytes(whole[:i] + bytes([new]) + whole[i + 1 :])
                with contextlib.suppress(checks.InputError):
                    convert_samples.arrays(torch_pickle.read(str(path)))


@LAYOUTS
def test_what_is_no_tensor_is_named(tmp_path, old):
    path = tmp_path / "pytorch_model.bin"
    write_pickle(path, pickle.dumps({"epoch": 3, "lr": 0.1}, 2) + (pickle.dumps([], 2) if old else b""), old)
    with pytest.raises(checks.InputError, match="2 entries that are no tensors: epoch, lr"):
        torch_pickle.read(str(path))


def test_numbers_of_a_big_endian_machine_are_refused(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        archive.writestr("archive/byteorder", "big")
    with pytest.raises(checks.InputError, match="big-endian"):
        torch_pickle.read(str(path))
    path.write_bytes(b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": False})))
    with pytest.raises(checks.InputError, match="big-endian"):
        torch_pickle.read(str(path))


def test_compressed_numbers_are_refused(tmp_path):
    path, other = tmp_path / "pytorch_model.bin", tmp_path / "other.bin"
    convert_samples.save_torch(str(path), {"a": np.zeros(1000, np.float32)})
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(checks.InputError, match="compressed"):
        torch_pickle.read(str(other))


def test_two_files_of_one_name_are_refused(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    with pytest.warns(UserWarning), zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
    with pytest.raises(checks.InputError, match=r"a zip archive with 1 data\.pkl"):
        torch_pickle.read(str(path))
