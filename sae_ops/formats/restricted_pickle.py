"""Reading pickles without running what they say: tensors, dicts, lists, tuples, numbers and strings, nothing else."""

import io
import math
import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import IO, Any, BinaryIO

import torch

from ..reasons import reason_of
from ..sae_file import SAEFileError

ZIP = b"PK\x03\x04"
"""How a file of torch.save begins."""
OLD_PICKLES = 5
"""One after the other in a file that torch.save wrote in its old format."""
MAKERS = re.compile(r"(builtins|__builtin__) bytearray|torch \w*Tensor|torch\.storage \w+")


def read_torch_file(path: Path) -> Any:
    """Reads what torch.save has written.

    Raises SAEFileError, before anything has run, if it holds more than plain data and what other packs have told torch,
    by add_safe_globals, is safe.
    """
    try:
        with open(path, "rb") as file:
            is_zip = file.read(4) == ZIP
            file.seek(0)
            for _ in range(0 if is_zip else OLD_PICKLES):
                _refuse_makers(file)
            if is_zip:
                _refuse_programs(file)
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                    raise SAEFileError(
                        f"{path} is compressed, which torch.save does not do. Unpack it, or save it again."
                    )
                for name in archive.namelist():
                    if name.endswith("data.pkl"):
                        with archive.open(name) as member:
                            _refuse_makers(member)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except SAEFileError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in the readers of torch
        raise _refusal(path, error) from error


def read_pickle(path: Path) -> Any:
    """Reads what pickle.dump or torch.save has written. Raises SAEFileError as read_torch_file does."""
    if not path.is_file():
        raise SAEFileError(f"{path} does not exist. Put the file there, or choose another one.")
    try:
        with open(path, "rb") as file:
            if file.read(4) == ZIP:
                return read_torch_file(path)
            file.seek(0)
            _refuse_what_takes_memory(file, path.stat().st_size)
            file.seek(0)
            value = _PlainUnpickler(file).load()
    except SAEFileError:
        raise
    except Exception as error:  # a damaged pickle can fail with any of Python's errors
        raise _refusal(path, error) from error
    of_torch = isinstance(value, int) and value == torch.serialization.MAGIC_NUMBER
    return read_torch_file(path) if of_torch else value


def _refuse_makers(file: IO[bytes]) -> None:
    """Some of what torch takes for safe makes something as large as a number in the file says."""
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL" and MAKERS.fullmatch(str(argument)):
            raise pickle.UnpicklingError(f"it asks for {str(argument).replace(' ', '.')}")


def _refuse_programs(archive: BinaryIO) -> None:
    """Before 2.6 torch.load runs those of TorchScript, as it finds this name, even if it is told weights_only.

    Torch's own reader tells: another may see other names in an archive that was made so.
    """
    if "constants.pkl" in torch._C.PyTorchFileReader(archive).get_all_records():
        raise pickle.UnpicklingError("it is a program of TorchScript")


def _refuse_what_takes_memory(file: BinaryIO, size: int) -> None:
    """A pickle numbers what it says twice. It may begin with any number, for which Python then takes memory.

    And it may give an object another state than it was made with: a tensor is then as large as that says.
    """
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "BUILD":
            raise pickle.UnpicklingError("it gives an object another state")
        if "PUT" in opcode.name and int(argument or 0) > size:
            raise pickle.UnpicklingError(f"it counts to {argument}, further than it is long")


def _refusal(path: Path, error: Exception) -> SAEFileError:
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return SAEFileError(
            f"{path} does not fit into memory: it needs about twice its size, which is {path.stat().st_size / 1e9:.1f} "
            "GB. Close other programs, or use a computer with more."
        )
    return SAEFileError(
        f"{path} is damaged, or holds more than tensors, dicts, lists, numbers and strings ({reason_of(error)}). "
        "Nothing of it was run. Get it again from where it was published."
    )


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _ALLOWED[module, name]


class _Storage:
    """Stands for torch.storage._load_from_bytes. Without attributes, so that a pickle has nothing to set."""

    __slots__ = ()

    def __call__(self, data: bytes) -> torch.storage.TypedStorage:
        if data.startswith(ZIP):
            _refuse_programs(io.BytesIO(data))
        storage = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        if not isinstance(storage, torch.storage.TypedStorage):
            raise pickle.UnpicklingError("it calls something else a tensor's numbers")
        return storage


class _Tensor:
    """Stands for torch._utils._rebuild_tensor_v2, whose other arguments concern training alone."""

    __slots__ = ()

    def __call__(
        self, storage: torch.storage.TypedStorage, offset: int, size: tuple, stride: tuple, *_
    ) -> torch.Tensor:
        if not isinstance(storage, torch.storage.TypedStorage):
            raise pickle.UnpicklingError("it calls something else a tensor's numbers")
        numbers = storage._untyped_storage.nbytes() // storage.dtype.itemsize
        reach = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if min(offset, *size, *stride) < 0 or math.prod(size) > numbers or (math.prod(size) and reach >= numbers):
            raise pickle.UnpicklingError("one of its tensors is larger than its numbers")
        return torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage, offset, size, stride)


_ALLOWED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Tensor(),
    ("torch.storage", "_load_from_bytes"): _Storage(),
}
