"""Inputs that are known to hurt, by format: bombs, deep nesting, giant numbers, code, other encodings, ways out."""

from __future__ import annotations

import copy
import io
import json
import pickle
import stat
import struct
import tarfile
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

CANARY = "EVAR_CANARY"  # an environment variable: the file that planted code would write


class Code:
    """Unpickled, it writes the file that $EVAR_CANARY names."""

    def __reduce__(self) -> tuple:
        return eval, (f"open(__import__('os').environ.get({CANARY!r}, '/dev/null'), 'a').write('pickle ')",)


_LAUGH = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
)
_RUN = "__import__('os').system('echo yaml >> $EVAR_CANARY')"
_TAGS = (
    "!!python/object/apply:os.system ['echo yaml >> $EVAR_CANARY']",
    "!!python/object/new:os.system ['echo yaml >> $EVAR_CANARY']",
    f'!!python/object/apply:eval ["{_RUN}"]',
    "!!python/name:os.system",
    "!!python/module:os",
    "!!bool x", "!!int ''", "!!float ''", "!!timestamp x", "!!binary x", "!!omap [a]", "!!set {a}", "!!pairs x", "!x y",
)  # fmt: skip
_GIANTS = (
    "9" * 5000,
    "0x" + "f" * 5000,
    "1:" * 3000 + "1",
    "1:" * 3000 + "1.5",
    "1e999",
    ".inf",
    ".nan",
    "-1",
    "1e300",
)
_CARD = "name: mine\nseconds: 1\nsplit: parts\nlayout: csv_columns\n"
YAML = [
    text.encode()
    for text in (
        _LAUGH,
        _CARD + "classes: &a [*a, *a]\n",
        _CARD + _LAUGH.replace("a9:", "options:"),
        *(_CARD + f"title: {tag}\n" for tag in _TAGS),
        *(f"{_CARD}{key}: {giant}\n" for giant in _GIANTS for key in ("version", "seconds", "classes", "max_epochs")),
        "[" * 100_000,
        "{a: " * 10_000,
        "\n".join(" " * depth + "a:" for depth in range(200)),
        "- " * 10_000,
        "? [a, b]\n: 1\n",
        "{{a: 1}: 2}",
        "~: 1\n1: 2\n",
        "a: 2001-99-99\n",
        "base: mine.yaml\n", "base: p.yaml\n",
        _CARD + "split_file: ../../../../etc/passwd\n",
        _CARD + "split_file: /etc/passwd\n",
        _CARD + "folders: [../.., /etc, '', .]\n",
        _CARD + "fetch: [{url: 'file:///etc/passwd', into: ..}]\n",
        _CARD + "layout: ../../os\n",
        _CARD + "options: {file: ../../../../etc/passwd}\n",
        _CARD + "options: {file: /etc/passwd}\n",
        _CARD + "options: {delimiter: ''}\n",
        _CARD + "options: {delimiter: ab, separator: ''}\n",
        "encoders: {a: b}\ntasks: [1, [2, [3]]]\n",
        "encoders: 3\ntasks: 2001-01-01\n",
        "encoders: ['a[', '\0']\ntasks: '[!]'\n",
        "encoders: logmel\ntasks: esc50\ndata: {a: b}\nlimit: [1]\nprobe: [[1]]\nseeds: {1: 2}\n",
        "base: fair\nseeds: [[1]]\nstrengths: [a, {}]\nneighbours: {}\nprobe: [a]\n",
        "base: fair\nmax_epochs: .inf\n", "base: fair\nhidden: .nan\n", "base: [fair]\n",
    )
]  # fmt: skip
YAML += [_CARD.encode(code) for code in ("utf-16", "utf-32", "utf-8-sig")]
YAML += [b"\xff\xfe\x00", b"a: \x00\n", b"a: \x1b[2J\n", b"a: \xed\xa0\x80\n", b"name: mine\x85seconds: 1"]

JSON = [
    text.encode()
    for text in (
        "[" * 100_000, '{"a":' * 100_000, "null", "[]", "3", '"a"', "{}", "NaN", '{"card": NaN, "counts": {"clips": 1e999}}',
        "9" * 5000, '{"counts": {"clips": ' + "9" * 5000 + "}}", '{"a": "\\ud800"}', '{"card": [], "counts": []}',
        '{"statistics": {"mean": "a", "std": []}}', '{"statistics": {"mean": 1e999, "std": 0}}', '{"statistics": 3}',
        '{"weight_map": {"a": "../../x"}}', '{"weight_map": {"a": "a\\u0000b"}}', '{"weight_map": [1]}',
        '{"model_type": []}', '{"model_type": "wav2vec2", "hidden_size": "a"}', '{"model_type": {"a": 1}}',
        '{"model_type": "wav2vec2", "auto_map": {"AutoConfig": "x--y.Z"}}', '{"sampling_rate": 1e999}',
        '{"feature_extractor_type": "../../x", "sampling_rate": []}', '{"records": 1, "journal_crc": 2, "samples": 3}',
        '{"bad": {"99": {"stamp": [1, 2]}}, "records": 3, "journal_crc": 0, "samples": 600, "fingerprint": "a"}',
    )
]  # fmt: skip
JSON += [b"\xff", b"\x00", "{}".encode("utf-16")]

CSV = [
    text.encode("utf-8", "surrogatepass")
    for text in (
        "", "\n", "a", ",,,\n,,,\n", '"', 'a,b\n"', "a\rb\n", "path,path,label,split\na,b,c,train\n", "path\0,label\n",
        "path,label,split\n../../etc/passwd,a,train\n", "path,label,split\n/etc/passwd,a,train\n",
        "path,label,split\na\0b.wav,a,train\n", "path,label,split\n\x1b[2J.wav,a,train\n", "file,licence\n\0,a\n",
        "file\n" + "a" * 200_000 + "\n", "x" * 200_000, "path,label,split\n" + "a,b\n", "file,file\na,b\n",
        "table,model,task,mean\nmine,a,b,1e999\n", "table,model,task,mean,sample_rate\nm,a,b,50,1e400\n",
        "table,model,task,mean\nm,\x1b]0;x\x07,b,50\n", "step,score\n1e999,nan\n", "step,split,encoder\n" + "9" * 5000,
        "schema,cell_id\n1,0\n", "\ufeffpath,label,split\n", "path,label,split\n\ud800,a,train\n",
    )
]  # fmt: skip
CSV += [b"\xff\xfe\x00a", "path,label\n".encode("utf-16")]

_ODD = (
    "",
    "nan",
    "-inf",
    "1e999",
    "1e300",
    "9" * 30,
    "9" * 5000,
    "-1",
    "abc",
    "1_0",
    "\u0661",
    "\x1b[2J",
    "=cmd()",
    "../../x",
    "\0",
)


def with_odd_cells(valid: bytes) -> list[bytes]:
    """A valid CSV file with every column of its rows replaced by odd texts, one at a time."""
    header, *rows = [line.split(",") for line in valid.decode().splitlines()]
    made = []
    for at in range(len(header)):
        for odd in _ODD:
            changed = [[*row[:at], odd, *row[at + 1 :]] for row in rows]
            made.append("\n".join(map(",".join, [header, *changed])).encode() + b"\n")
    return made


NAMES = [
    text.encode()
    for text in (
        "../../../etc/passwd=logmel", "a/../../b=logmel", "=logmel", "@", ":", "a@", "random:@1", "py:", "hf:", "[", "[!]",
        "\x1b[2J=logmel", "x\u202e=logmel", "a\nb=logmel", "logmel@\0", "*" * 300, "tfhub:../..", "=cmd|' /C calc'!A0=logmel",
        "logmel@\x1b]0;owned\x07.pth", "random:logmel@\x1b[2J", "hf:\x1b[2J", "1" * 5000, ".=logmel", "..=logmel",
    )
]  # fmt: skip

ODD_WAVS = [
    dict(zip(("channels", "rate", "bits", "claimed", "code"), odd, strict=True))
    for odd in (
        (0, 8000, 16, 100, 1), (65535, 8000, 16, 100, 1), (1, 0, 16, 100, 1), (1, 2**32 - 1, 16, 100, 1),
        (1, 8000, 0, 100, 1), (1, 8000, 65535, 100, 1), (1, 8000, 16, 2**32 - 1, 1), (1, 8000, 16, 0x7FFFFFFF, 1),
        (64, 8000, 16, 2**32 - 1, 1), (1, 8000, 64, 800, 3), (1, 8000, 4, 100, 2), (2, 8000, 16, 100, 0xFFFE),
        (1, 8000, 4, 100, 0x11), (1, 8000, 16, 100, 0x55), (1, 8000, 16, 100, 0x31),
    )
]  # fmt: skip


def wav(channels: int, rate: int, bits: int, claimed: int, code: int) -> bytes:
    """A WAV file of 200 bytes of sound whose header says what it likes."""
    form = struct.pack("<HHIIHH", code, channels, rate, rate, max(1, channels * bits // 8) & 0xFFFF, bits)
    data = bytes(range(200))
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", claimed) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


WAYS_OUT = (
    "../out",
    "/tmp/evar-out",
    "a/../../out",
    "..\\out",
    "C:out",
    "a\0b",
    "a\nb",
    "\x1b[2J",
    ".",
    "..",
    "",
    "a/" * 3000,
)


def zips() -> list[bytes]:
    """Zip archives: ways out, links, devices, bombs, lies in the table of contents."""
    made = []
    for name in WAYS_OUT:
        made.append(_zip([(name, b"x", 0o100644)]))
    for kind in (stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK):
        made.append(_zip([("a", b"/etc/passwd", kind | 0o777), ("a/b", b"x", 0o100644)]))
    made.append(_zip([("bomb", bytes(40 * 2**20), 0o100644)]))
    made.append(_zip([("a", b"x", 0o100644), ("a", b"y", 0o100644), ("A", b"z", 0o100644)]))
    honest = _zip([("a", b"x" * 50, 0o100644)])
    for at in range(len(honest) - 22, len(honest)):  # the end record
        made.append(honest[:at] + b"\xff" + honest[at + 1 :])
    return made


def _zip(entries: list[tuple[str, bytes, int]]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in entries:
            info = zipfile.ZipInfo("x" * len(name.encode()) or "x")
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            info.filename = name  # past what zipfile mends
            archive.writestr(info, content)
    return stream.getvalue()


def tars(mode: str) -> list[bytes]:
    """Tar archives: ways out, links, devices, sparse files, giant headers."""
    made = []
    for name in WAYS_OUT:
        made.append(_tar(mode, [(name, tarfile.REGTYPE, "", b"x")]))
    for kind in (
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        b"S",
        b"V",
        b"\xff",
    ):
        made.append(_tar(mode, [("a", kind, "/etc", b""), ("a/passwd", tarfile.REGTYPE, "", b"x")]))
        made.append(_tar(mode, [("a", kind, "../..", b"")]))
    made.append(_tar(mode, [("a", tarfile.REGTYPE, "", b"x"), ("a", tarfile.DIRTYPE, "", b"")]))
    info = tarfile.TarInfo("a")
    for kind, size in ((tarfile.XHDTYPE, 2**33), (tarfile.GNUTYPE_LONGNAME, 2**33), (tarfile.REGTYPE, 2**60)):
        info.type, info.size = kind, size
        made.append(_packed(mode, info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)))
    made.append(_packed(mode, bytes(64 * 2**20)) if "gz" in mode else bytes(1024))
    return made


def _packed(mode: str, data: bytes) -> bytes:
    if "gz" not in mode:
        return data
    packer = zlib.compressobj(9, wbits=31)
    return packer.compress(data) + packer.flush()


def _tar(mode: str, entries: list[tuple[str, bytes, str, bytes]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode, format=tarfile.PAX_FORMAT) as archive:
        for name, kind, link, content in entries:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def npz() -> list[bytes]:
    """NumPy archives: objects (pickles), shapes of terabytes, headers that are code."""
    made = []
    stream = io.BytesIO()
    np.savez(stream, pca_eigen_vectors=np.array([Code()], object), pca_means=np.array([Code()], object))
    made.append(stream.getvalue())
    for shape in ("(1000000000000,)", "(128, 99999999999)", "(-1,)", "(" * 5000, "__import__('os').system('true')"):
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
        array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64)
        made.append(_zip([("pca_eigen_vectors.npy", array, 0o100644), ("pca_means.npy", array, 0o100644)]))
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (16777216,), }\n"
    bomb = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(2**26)
    made.append(_zip([("pca_eigen_vectors.npy", bomb, 0o100644), ("pca_means.npy", bomb, 0o100644)]))
    return made


def checkpoints() -> list[bytes]:
    """PyTorch and safetensors files: code, tensors that claim terabytes, odd kinds of tensors, bombs, lying headers."""
    import torch

    warnings.filterwarnings("ignore", message=".*(Sparse CSR|nested tensors)")
    made = []
    objects: list[Any] = [Code(), {"a": Code()}, {"state_dict": {"a": torch.ones(2), "b": Code()}}, Path("x"), [1], 3]
    giant = torch.ones(1).expand(10**12)
    objects += [
        {"a": giant}, {"a": torch.ones(2, 2).to_sparse()}, {"a": torch.ones(2, 2).to_sparse_csr()},
        {"a": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, {"a": torch.empty(2, device="meta")},
        {"a": torch.ones(2, dtype=torch.float8_e4m3fn)}, {"a": torch.ones(2, dtype=torch.complex64)},
        {"a": torch.ones(0)}, {1: torch.ones(2), None: torch.ones(2)}, {"model": {"state_dict": {"model": {}}}},
        {"a": torch.nn.Parameter(torch.ones(2))}, {"a": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])},
    ]  # fmt: skip
    for value in objects:
        for form in (True, False):
            stream = io.BytesIO()
            try:
                torch.save(value, stream, _use_new_zipfile_serialization=form)
            except Exception:  # some kinds have no legacy form
                continue
            made.append(stream.getvalue())
    made += [pickle.dumps(Code(), protocol) for protocol in (0, 2, 4)]
    made.append(_deflated({"a": torch.zeros(2**24)}))  # 64 MiB in 64 kB
    for header in _HEADERS:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        made.append(struct.pack("<Q", len(text)) + text + bytes(64))
    made += [struct.pack("<Q", claimed) + b'{"a":1}' for claimed in (2**63, 2**40, 2**25, 0)]
    return made


def _deflated(state: dict) -> bytes:
    """A PyTorch file, its zip compressed: PyTorch itself writes it stored."""
    import torch

    stream, packed = io.BytesIO(), io.BytesIO()
    torch.save(state, stream)
    with zipfile.ZipFile(stream) as plain, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in plain.namelist():
            archive.writestr(name, plain.read(name))
    return packed.getvalue()


def _tensor(dtype: str, shape: list, offsets: list, **metadata: str) -> dict:
    entry = {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}
    return entry | ({"__metadata__": metadata} if metadata else {})


_OURS = {"format": 1, "encoder": "byola-v2"}
_HEADERS = [
    _tensor("F32", [4, 4], [0, 64]), _tensor("F32", [10**12], [0, 64]), _tensor("F32", [2**62, 4], [0, 64]),
    _tensor("F32", [-1], [0, 64]), _tensor("F32", [16], [64, 0]), _tensor("F8_E4M3", [64], [0, 64]),
    _tensor("F8_E8M0", [64], [0, 64]), _tensor("F4", [128], [0, 64]), _tensor("F6_E2M3", [64], [0, 48]),
    _tensor("U64", [8], [0, 64]), _tensor("C64", [8], [0, 64]), _tensor("BOOL", [64], [0, 64]), _tensor("X", [1], [0, 64]),
    *(
        _tensor("F32", [16], [0, 64], evar=about)
        for about in ("[" * 100_000, "{}", "3", json.dumps({"format": True, "encoder": "byola-v2"}), "NaN", "9" * 5000,
                      json.dumps(_OURS | {"normalization": {"mean": "a", "std": None}, "trained_on": 3}),
                      json.dumps(_OURS | {"frontend": {"n_mels": 10**9, "n_fft": -1}}), json.dumps(_OURS | {"frontend": []}),
                      json.dumps(_OURS | {"encoder": "../../x"}), json.dumps(_OURS | {"preset": {"a": [1]}}))
    ),
    b"[" * 100_000, b"{}", b'{"a": {}}', b'{"a": 1, "a": 2}', b'{"__metadata__": 3}', b"{\xff}",
]  # fmt: skip


def metas(meta: dict) -> list[bytes]:
    """meta.json of a set of embeddings with one value replaced."""
    odd = [
        None,
        [],
        {},
        "",
        "a",
        -1,
        0,
        2**70,
        1e999,
        -1e999,
        float("nan"),
        True,
        "2020-01-01T00:00:00",
        [[1]],
        "\x1b[2J",
    ]
    made = []
    for key in meta:
        for value in odd:
            made.append({**meta, key: value})
    for key in ("layer", "pooling", "dim", "file"):
        for value in odd:
            changed = copy.deepcopy(meta)
            changed["matrices"][0][key] = value
            made.append(changed)
    made.append({**meta, "matrices": meta["matrices"] * 1000})
    return [json.dumps(one).encode() for one in made]
