"""PyTorch's files: what torch reads we read bit for bit, without torch, and nothing in a file is executed."""

import collections
import pickle
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from naturel_jax.weights.torch_files import open_torch
from tfds_naturel.common.errors import UserError

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit"),  # the format of OpenAI's files
    pytest.mark.filterwarnings("ignore:torch.tensor results:torch.jit.TracerWarning"),  # a constant, on purpose
]


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(3, 4).half())
        self.register_buffer("steps", torch.arange(3.0).bfloat16())
        self.input_resolution = 224
        self.names = ["a", "b"]
        self.sizes = [1, 2]
        self.pair = (1, 2.5)
        self.table = {"a": 1}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight.sum() + torch.tensor([1.0, 2.0])[0] * self.input_resolution


class Model(torch.nn.Module):
    """Parameters, buffers, plain attributes, a module under two names, a list of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()
        self.shared = self.block
        self.blocks = torch.nn.Sequential(Block(), torch.nn.Linear(4, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks[0](self.block(x))


def assert_reads_like_torch(path: Path, expected: dict[str, torch.Tensor]) -> None:
    tensors = open_torch(path)
    assert dict(tensors.shapes) == {key: tuple(value.shape) for key, value in expected.items()}
    for key, value in expected.items():
        got = tensors.get(key)
        assert str(value.dtype) == f"torch.{got.dtype}"
        np.testing.assert_array_equal(got.astype(np.float32), value.detach().float().numpy())


@pytest.mark.parametrize("make", [torch.jit.script, lambda model: torch.jit.trace(model, torch.ones(3))])
def test_torchscript_gives_the_state_dict_of_torch(tmp_path, make):
    torch.jit.save(make(Model()), tmp_path / "model.pt")
    assert open_torch(tmp_path / "model.pt").script
    assert_reads_like_torch(tmp_path / "model.pt", torch.jit.load(tmp_path / "model.pt").state_dict())


@pytest.mark.parametrize(
    "options", [{}, {"pickle_protocol": 4}, {"pickle_protocol": 5}, {"_use_new_zipfile_serialization": False}], ids=str
)
def test_saved_tensors_are_those_of_torch(tmp_path, options):
    """Views, strides, shared storages, parameters, scalars, empty tensors; a training state around them."""
    x, model = torch.randn(4, 6), torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    state = collections.OrderedDict(
        whole=x, t=x.t(), row=x[1], part=x[1:, ::2], half=x.half(), bf16=x[2:].bfloat16(), scalar=torch.tensor(2.0)
    )
    state |= {"empty": torch.zeros(0, 3), "parameter": torch.nn.Parameter(x[0]), **model.state_dict()}
    torch.save(state, tmp_path / "state.bin", **options)
    assert_reads_like_torch(tmp_path / "state.bin", state)
    facts = {"epoch": 5, "dtype": torch.float32, "size": torch.Size([1]), "device": torch.device("cpu"), "n": -(2**40)}
    for inside in ("state_dict", "model_state_dict"):  # OpenCLIP's, and GNM-CLIP's
        torch.save({inside: state, "optimizer": optimizer.state_dict(), **facts}, tmp_path / "run.pth", **options)
        assert_reads_like_torch(tmp_path / "run.pth", state)


class Writes(torch.nn.Module):
    """Writes a file when ``torch.jit.load`` reads it."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    @torch.jit.export
    def __getstate__(self):
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.path, self.training = state
        torch.save(torch.ones(3), self.path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Loops(Writes):
    """Never ends when ``torch.jit.load`` reads it."""

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        n = 0
        while n >= 0:
            n = (n + 1) % 1000
        self.path, self.training = state


@pytest.mark.parametrize("kind", [Writes, Loops])
def test_code_in_torchscript_does_not_run(tmp_path, kind):
    target = tmp_path / "pwned"
    module = torch.nn.Sequential(kind(str(target)), torch.nn.Linear(2, 2))
    torch.jit.save(torch.jit.script(module), tmp_path / "model.pt")
    before = time.monotonic()
    assert sorted(open_torch(tmp_path / "model.pt").shapes) == ["1.bias", "1.weight"]
    assert time.monotonic() - before < 5 and not target.exists()
    if kind is Writes:  # what torch itself does
        torch.jit.load(tmp_path / "model.pt")
        assert target.exists()


def archive(path: Path, data: bytes, **members: bytes) -> Path:
    """A zip file like torch's with this data.pkl; ``members``: name below ``archive/`` -> bytes."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", data)
        for name, content in members.items():
            file.writestr(f"archive/{name}", content)
    return path


def name(text: str) -> bytes:
    return b"c" + text.replace(" ", "\n").encode() + b"\n"


def string(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def tensor(key: str = "0", numel: int = 4, shape: bytes = b"K\x04\x85", strides: bytes = b"K\x01\x85") -> bytes:
    """The pickle of a tensor over the storage ``key``."""
    reference = b"(" + string("storage") + name("torch FloatStorage") + string(key) + string("cpu")
    reference += b"J" + struct.pack("<i", numel) + b"tQ"
    return name("torch._utils _rebuild_tensor_v2") + b"(" + reference + b"K\x00" + shape + strides + b"\x89}tR"


def state(value: bytes) -> bytes:
    """The pickle of {"a": value}."""
    return b"\x80\x02}" + string("a") + value + b"s."


def module(attributes: bytes) -> bytes:
    return name("__torch__ M") + b")\x81}(" + attributes + b"ub"


LAUGHS = b"}q\x00" + b"".join(  # each module has the one before under ten names
    module(b"".join(string(f"m{i}") + b"h" + bytes([n]) for i in range(10))) + b"q" + bytes([n + 1]) for n in range(40)
)
TUPLES = b")q\x00" + b"".join(b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) for n in range(200))
SIXTEEN, EVAL = {"data/0": bytes(16)}, string("builtins") + string("eval")
TWO_SIZES = string("a") + tensor() + string("b") + tensor(numel=2, shape=b"K\x02\x85")
EXPANDED = tensor(shape=b"J\xff\xff\xff\x7f\x85", strides=b"K\x00\x85")
IN_ITSELF = name("__torch__ M") + b")\x81q\x00}(" + string("me")
HOSTILE = {
    "a command": (b"\x80\x02" + name("posix system") + string("touch pwned") + b"\x85R.", {}, r"refused \(posix sys"),
    "a command by name": (b"\x80\x04" + EVAL + b"\x93" + string("1") + b"\x85R.", {}, r"refused \(builtins eval"),
    "a method of torch": (b"\x80\x02" + name("torch load") + string("x") + b"\x85R.", {}, r"refused \(torch load"),
    "a call of a dtype": (b"\x80\x02" + name("torch float32") + b")R.", {}, r"refused \(torch float32"),
    "an instance": (b"\x80\x02" + name("subprocess Popen") + b")\x81.", {}, r"refused \(subprocess Popen"),
    "an old instance": (b"(iposix\nsystem\n.", {}, r"refused \(instruction INST"),
    "an extension code": (b"\x80\x02\x82\x01.", {}, r"refused \(instruction EXT1"),
    "attributes of a tensor": (state(tensor() + b"}b"), SIXTEEN, r"refused \(attributes of a Tensor"),
    "storage outside the archive": (state(tensor("../../../etc/passwd")), SIXTEEN, r"is missing, expected 16 bytes"),
    "missing storage": (state(tensor("1")), SIXTEEN, r"storage '1' is missing"),
    "short storage": (state(tensor()), {"data/0": bytes(12)}, r"storage '0' has 12 bytes, expected 16"),
    "storage of two sizes": (b"\x80\x02}(" + TWO_SIZES + b"u.", SIXTEEN, r"declared twice, as 4 F32 and as 2 F32"),
    "negative storage": (state(tensor(numel=-4)), SIXTEEN, r"not whole numbers"),
    "larger than its storage": (state(tensor(shape=b"K\x05\x85")), SIXTEEN, r"shape \[5\] on a storage of 4"),
    "a tensor of many sides": (
        state(tensor(shape=b"(" + b"K\x01" * 65 + b"t", strides=b"(" + b"K\x01" * 65 + b"t")),
        {},
        "65 sides",
    ),
    "expanded to terabytes": (state(EXPANDED), SIXTEEN, r"on a storage of 4 elements"),
    "out of its storage": (state(tensor(strides=b"K\x02\x85")), SIXTEEN, r"reaches element 6 of a storage of 4"),
    "negative stride": (state(tensor(strides=b"J\xff\xff\xff\xff\x85")), SIXTEEN, r"not whole numbers"),
    "fractional shape": (state(tensor(shape=b"G" + struct.pack(">d", 2.0) + b"\x85")), SIXTEEN, r"not whole numbers"),
    "modules without end": (b"\x80\x02" + LAUGHS + b".", {}, r"nested|modules within modules"),
    "a module in itself": (b"\x80\x02" + IN_ITSELF + b"h\x00ub.", {}, r"modules within modules"),
    "a key that hashes for ever": (b"\x80\x02" + TUPLES + b"}h\xc8Ns.", {}, r"a key is a tuple"),
    "big-endian": (state(tensor()), SIXTEEN | {"byteorder": b"big"}, r"not little-endian"),
    "no end": (b"\x80\x02}", {}, r"truncated or not a PyTorch file"),
    "empty stack": (b"\x80\x02R.", {}, r"the stack is empty"),
    "a string of 4 GB": (b"\x80\x02X\xff\xff\xff\xffabc.", {}, r"truncated or not a PyTorch file"),
    "memo of 4 GB": (b"\x80\x02Nr\xff\xff\xff\xff.", {}, r"numbers a value higher than 500,000"),
    "keys of one hash": (
        b"\x80\x02}\x8a\x08" + ((1 << 61) - 1).to_bytes(8, "little") + b"Ns.",
        {},
        r"beyond 16,777,216",
    ),
    "numbers": (state(b"K\x01"), {}, r"holds dict, expected a mapping of names to tensors"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_archives_are_refused_at_once(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    data, members, message = HOSTILE[kind]
    path = archive(tmp_path / "model.pt", data, **members)
    before = time.monotonic()
    with pytest.raises(UserError, match=message) as caught:
        open_torch(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert time.monotonic() - before < 5 and sorted(tmp_path.iterdir()) == [path]


def test_instructions_are_limited(tmp_path, monkeypatch):
    monkeypatch.setattr("naturel_jax.weights.pickled.WORK", 1000)
    path = archive(tmp_path / "model.pt", b"\x80\x02" + b"N" * 2000 + b".")
    with pytest.raises(UserError, match="more than 1,000 instructions"):
        open_torch(path)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")  # zipfile's, on writing
def test_archives_that_readers_see_differently_are_refused(tmp_path):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as file:
        for numel in (4, 3):
            file.writestr("archive/data.pkl", state(tensor(numel=numel)))
        file.writestr("archive/data/0", bytes(16))
    with pytest.raises(UserError, match="two members with the same name"):
        open_torch(path)
    with zipfile.ZipFile(path, "w") as file:
        for folder in "ab":
            file.writestr(f"{folder}/data.pkl", state(tensor()))
    with pytest.raises(UserError, match=r"2 members called data\.pkl"):
        open_torch(path)


def test_old_files_with_wrong_storages_are_refused(tmp_path):
    torch.save({"a": torch.ones(4)}, tmp_path / "a.bin", _use_new_zipfile_serialization=False)
    data = (tmp_path / "a.bin").read_bytes()
    for changed, message in (
        (data[:-1], "the file ends in it"),
        (data[:-24] + struct.pack("<q", 1 << 60) + data[-16:], "has 1,152,921,504,606,846,976 elements"),
        (pickle.dumps(1, 2) + data, "not a little-endian file"),
        (data[: data.rindex(b"\x80\x02")] + pickle.dumps([1, "a"], 2), r"truncated or not|damaged"),
    ):
        (tmp_path / "a.bin").write_bytes(changed)
        with pytest.raises(UserError, match=message):
            open_torch(tmp_path / "a.bin")


@pytest.mark.parametrize("part", [slice(0, 64), slice(8, 16)], ids=str)
def test_flipped_bits_in_a_storage_are_found(tmp_path, part):
    torch.save({"a": torch.ones(64)[part]}, tmp_path / "a.bin")
    data = bytearray((tmp_path / "a.bin").read_bytes())
    data[data.index(np.ones(64, np.float32).tobytes()) + 7] ^= 1
    with pytest.raises(UserError, match="Bad CRC-32"):
        (tmp_path / "a.bin").write_bytes(data)
        open_torch(tmp_path / "a.bin").get("a")
