"""Pickles are read without running them: each of these would leave a file behind if anything in it ran."""

import builtins
import collections
import copyreg
import io
import os
import pickle
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch

from sae_eraser.sae_ops.formats import recognise
from sae_eraser.sae_ops.formats.restricted_pickle import read_pickle, read_torch_file
from sae_eraser.sae_ops.sae_file import SAEFileError


class Call:
    """Is pickled as the call of a function."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def bytes_of_zip(data: bytes) -> bytes:
    """A file of torch.save whose pickle is this."""
    plain = io.BytesIO()
    torch.save({"a": torch.ones(2)}, plain)
    changed = io.BytesIO()
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            new.writestr(name, data if name.endswith("data.pkl") else old.read(name))
    return changed.getvalue()


class Program(torch.nn.Module):
    def forward(self, x):
        return x + 1


def bytes_of_program() -> bytes:
    """A file of torch.jit.save, stored as torch.save stores its own."""
    saved, stored = io.BytesIO(), io.BytesIO()
    torch.jit.save(torch.jit.script(Program()), saved)
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(stored, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return stored.getvalue()


def test_a_file_that_does_not_fit_into_memory_is_not_called_damaged(tmp_path, monkeypatch):
    def no_memory(*anything, **more):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "load", no_memory)
    for path, value in ((tmp_path / "a.pkl", torch.ones(3)), (tmp_path / "a.pt", None)):
        path.write_bytes(pickle.dumps(value)) if value is not None else torch.save({"a": torch.ones(2)}, path)
        with pytest.raises(SAEFileError, match="does not fit into memory: it needs about twice its size"):
            read_pickle(path)


def payloads(marker: Path) -> dict[str, bytes]:
    """What each would do is to make the file `marker`."""
    touch = f"open({str(marker)!r}, 'w')"
    shell = f"touch {marker}"
    system = pickle.dumps(Call(os.system, shell))
    by_hand = b"cposix\nsystem\n(S'" + shell.encode() + b"'\ntR."
    legacy = io.BytesIO()
    torch.save(Call(os.system, shell), legacy, _use_new_zipfile_serialization=False)
    stacked = b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c" + bytes([len(touch)]) + touch.encode() + b"\x85R."
    dotted = b"\x80\x04\x8c\x0bcollections\x8c\x19OrderedDict.fromkeys.__self__\x93."
    chain = b"\x80\x04\x8c\x0bcollections\x8c\x2aabc.sys.modules.__getitem__.__class__.mro\x93."
    nested = Call(torch.storage._load_from_bytes, bytes_of_zip(system))
    deep = Call(torch._utils._rebuild_tensor_v2, nested, 0, (1,), (1,), False, collections.OrderedDict())
    # A state for one of the functions that are allowed, in place of an object of its own.
    state = (
        b"\x80\x04\x8c\x0ctorch._utils\x8c\x12_rebuild_tensor_v2\x93"
        b"N}\x8c\x0c__setstate__\x8c\x08builtins\x8c\x04exec\x93s\x86b."
    )
    allowed_class = b"\x0bcollections\x8c\x0bOrderedDict"
    return {
        "os.system": system,
        "protocol 0": by_hand,
        "builtins.eval": pickle.dumps(Call(builtins.eval, touch)),
        "builtins.exec": pickle.dumps(Call(builtins.exec, touch)),
        "subprocess": pickle.dumps(Call(subprocess.check_output, ("touch", str(marker)))),
        "in a dict of good tensors": pickle.dumps({"a": torch.ones(2), "b": Call(os.system, shell)}),
        "as a dict's key": pickle.dumps({("x", 1): [Call(os.system, shell)]}),
        "stack global": stacked,
        "dotted name": dotted,
        "attribute chain": chain,
        "getattr": pickle.dumps(Call(getattr, Call(__import__, "os"), "system")),
        "copyreg": pickle.dumps(Call(copyreg._reconstructor, str, str, Call(eval, touch))),
        "torch.load in a storage": pickle.dumps(nested),
        "torch.load in a tensor": pickle.dumps({"star": deep}),
        "a storage that is a legacy file": pickle.dumps(Call(torch.storage._load_from_bytes, legacy.getvalue())),
        "a state for an allowed function": state,
        "a state for an allowed class": state.replace(b"\x0ctorch._utils\x8c\x12_rebuild_tensor_v2", allowed_class),
        "a zip of torch": bytes_of_zip(system),
        "a zip of torch with a nested pickle": bytes_of_zip(pickle.dumps(Call(pickle.loads, system))),
        "a legacy file of torch": legacy.getvalue(),
        "a hook": pickle.dumps(Call(torch._utils._rebuild_tensor_v2, Call(os.system, shell), 0, (1,), (1,), False, {})),
        "persistent id": b"\x80\x04\x8c\x08whatever Q.".replace(b" ", b""),
        "a code object": pickle.dumps(Call(exec, Call(compile, touch, "x", "exec"))),
    }


NAMES = sorted(payloads(Path("/x")))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("read", [read_pickle, read_torch_file])
def test_a_malicious_pickle_is_refused_and_nothing_of_it_runs(tmp_path, read, name):
    marker, path = tmp_path / "it ran".replace(" ", "_"), tmp_path / "cls_latents_dict.pkl"
    path.write_bytes(payloads(marker)[name])
    with pytest.raises(SAEFileError) as error:
        read(path)
    assert str(path) in str(error.value) and "Nothing of it was run" in str(error.value)
    assert "\n" not in str(error.value)
    assert not marker.exists()
    path = path.rename(path.with_suffix(".pt"))
    assert recognise(path) is None
    assert not marker.exists()


def test_the_payloads_are_real(tmp_path):
    """Python's own unpickler runs them."""
    ran = 0
    for name in ("os.system", "builtins.eval", "stack global", "in a dict of good tensors", "torch.load in a storage"):
        marker = tmp_path / str(len(name))
        data = payloads(marker)[name]
        try:
            pickle.loads(data)
        except Exception:
            pass
        ran += marker.exists()
    assert ran == 5


@pytest.mark.parametrize("read, within", [(read_pickle, False), (read_pickle, True), (read_torch_file, False)])
def test_a_program_of_torchscript_is_refused_before_torch_sees_it(tmp_path, monkeypatch, read, within):
    """Before 2.6 torch runs it."""
    program = bytes_of_program()
    (tmp_path / "program.pt").write_bytes(
        pickle.dumps(Call(torch.storage._load_from_bytes, program)) if within else program
    )
    monkeypatch.setattr(torch, "load", lambda *anything, **more: pytest.fail("torch has read it"))
    with pytest.raises(SAEFileError, match="program.pt .*Nothing of it was run"):
        read(tmp_path / "program.pt")


@pytest.mark.parametrize("old", [False, True])
def test_plain_data_is_read(tmp_path, old):
    data = {
        "star": torch.randn(3, 4, 5).half(),
        "deep": [1, 2.5, ("a", None, True)],
        "view": torch.arange(6).view(2, 3).T,
    }
    data["ordered"] = collections.OrderedDict(a=1)
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(data, protocol=4 if old else 5))
    torch.save(data, tmp_path / "torch.pth", _use_new_zipfile_serialization=not old)
    for found in (read_pickle(tmp_path / "plain.pkl"), read_pickle(tmp_path / "torch.pth")):
        assert torch.equal(found["star"], data["star"]) and torch.equal(found["view"], data["view"])
        assert found["deep"] == data["deep"] and found["ordered"] == data["ordered"]


@pytest.mark.parametrize("size, stride", [((1000,), (1,)), ((10**9,), (0,)), ((-1,), (1,)), ((3,), (7,))])
def test_a_tensor_larger_than_its_numbers(tmp_path, size, stride):
    storage = torch.ones(10)._typed_storage()
    call = Call(torch._utils._rebuild_tensor_v2, storage, 0, size, stride, False, collections.OrderedDict())
    (tmp_path / "big.pkl").write_bytes(pickle.dumps({"star": call}))
    with pytest.raises(SAEFileError, match="damaged"):
        read_pickle(tmp_path / "big.pkl")


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_pickle(tmp_path, share):
    data = pickle.dumps({"star": torch.ones(3, 4, 5)})
    (tmp_path / "cut.pkl").write_bytes(data[: int(share * len(data))])
    with pytest.raises(SAEFileError, match="damaged"):
        read_pickle(tmp_path / "cut.pkl")


def test_a_missing_file_is_called_so_and_not_damaged(tmp_path):
    for path in (tmp_path / "none.pkl", tmp_path):
        with pytest.raises(SAEFileError, match=f"^{path} does not exist"):
            read_pickle(path)


def test_a_file_that_would_unpack_to_far_more_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "stored.pt")
    with zipfile.ZipFile(tmp_path / "stored.pt") as old, zipfile.ZipFile(tmp_path / "small.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name), zipfile.ZIP_DEFLATED)
    with pytest.raises(SAEFileError, match="small.pt is compressed"):
        read_torch_file(tmp_path / "small.pt")
    assert recognise(tmp_path / "small.pt") is None


def test_a_pickle_that_counts_further_than_it_is_long_is_refused(tmp_path):
    """Python's own unpickler takes memory for all that it counts."""
    (tmp_path / "count.pkl").write_bytes(b"\x80\x04Nr\xff\xff\xff\x0f.")
    with pytest.raises(SAEFileError, match="count.pkl.*counts to 268435455"):
        read_pickle(tmp_path / "count.pkl")


def test_a_tensor_that_is_given_a_larger_state_is_refused(tmp_path):
    """It would be as large as the state says, of whatever was in memory there."""
    storage = torch.ones(2)._typed_storage()
    rebuilt, state = (0, (2,), (1,), False, collections.OrderedDict()), (storage, 0, (1000,), (1,))
    grown = Call(torch._utils._rebuild_tensor_v2, storage, *rebuilt, state=state)
    (tmp_path / "grown.pkl").write_bytes(pickle.dumps(grown))
    with pytest.raises(SAEFileError, match="it gives an object another state.*Nothing of it was run"):
        read_pickle(tmp_path / "grown.pkl")


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("make", [bytearray, torch.Tensor, torch.FloatTensor, torch.UntypedStorage])
def test_a_file_that_asks_for_memory_is_refused(tmp_path, old, make):
    """In a few hundred bytes for any amount; ComfyUI would run out of it while it lists files."""
    data = pickle.dumps({"a": Call(make, 1000)}, protocol=2)
    if old:
        plain = io.BytesIO()
        torch.save({}, plain, _use_new_zipfile_serialization=False)
        before = plain.getvalue()
        empty = pickle.dumps({}, protocol=2)
        assert before.count(empty) == 1
        data = before.replace(empty, data)
    (tmp_path / "asks.pt").write_bytes(data if old else bytes_of_zip(data))
    with pytest.raises(SAEFileError, match="it asks for .*(bytearray|Tensor|UntypedStorage).*Nothing of it was run"):
        read_torch_file(tmp_path / "asks.pt")


def test_a_tensor_alone_is_read(tmp_path):
    (tmp_path / "tensor.pkl").write_bytes(pickle.dumps(torch.arange(3)))
    assert read_pickle(tmp_path / "tensor.pkl").tolist() == [0, 1, 2]
