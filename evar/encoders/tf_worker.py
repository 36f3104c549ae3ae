"""The process in which TensorFlow runs: it loads SavedModels and calls them, for `evar.encoders.tf_client`.

TensorFlow costs 700 MB, seconds, and the GPU; it prints below Python's level; and what it imports clashes with what
others import. So it has a process of its own. Requests come over a pipe and arrays go back over another:

    message = length of the header (uint32, little endian), header (JSON, UTF-8), bytes of the arrays in order

The header's `arrays` lists [name, dtype, shape]. Nothing is pickled. A SavedModel is a program: it is as trusted as
code, since its graph may hold any operation of TensorFlow, also those that read and write files.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

READY = b"\0evar worker\0"
"""What a worker writes before its first message: start-up files of Python may have printed something before it."""
IDLE_SECONDS = 60.0
"""A worker that holds no model ends after this time."""
SAME = 1e-4
"""Largest relative difference between a clip alone and in a batch, for which a model is given whole batches."""
LONGEST_REASON = 400
"""Characters of TensorFlow's message that are passed on: it lists every option of every function."""


def send(stream: BinaryIO, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> None:
    """Write one message to an unbuffered pipe; OSError where nobody reads."""
    arrays = {name: np.asarray(array, order="C") for name, array in (arrays or {}).items()}
    listed = [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()]
    text = json.dumps({**header, "arrays": listed}).encode()
    for part in (struct.pack("<I", len(text)) + text, *(array.reshape(-1).view(np.uint8) for array in arrays.values())):
        view = memoryview(part)
        while view:
            view = view[stream.write(view) :]


def receive(stream: BinaryIO) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read one message from an unbuffered pipe; EOFError where it ends."""
    (length,) = struct.unpack("<I", _exactly(stream, 4))
    header = json.loads(bytes(_exactly(stream, length)))
    arrays = {}
    for name, dtype, shape in header.pop("arrays"):
        count = int(np.prod(shape, dtype=np.int64))
        data = _exactly(stream, count * np.dtype(dtype).itemsize)
        arrays[name] = np.frombuffer(data, dtype=dtype).reshape(shape)
    return header, arrays


def _exactly(stream: BinaryIO, length: int) -> bytearray:
    data = bytearray(length)
    view = memoryview(data)
    while view:
        count = stream.readinto(view)
        if not count:
            raise EOFError("the pipe ended")
        view = view[count:]
    return data


def main() -> None:
    """Serve requests from standard input until it ends, the parent is gone, or nothing has been loaded for a while."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    requests, answers = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb", buffering=0)
    # From here on, whatever TensorFlow prints goes where standard error goes, and cannot get among the arrays.
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    answers.write(READY)
    worker = _Worker()
    threading.Thread(target=worker.watch, args=(os.getppid(),), daemon=True).start()
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            header, arrays = receive(requests)
            with worker.busy():
                for model in header.pop("drop", ()):
                    worker.models.pop(model, None)
                if "do" not in header:
                    continue
                try:
                    answer, found = getattr(worker, "do_" + header.pop("do"))(header, arrays)
                except BaseException as error:
                    answer, found = {"error": reason(error), "memory": _is_memory(error)}, {}
                send(answers, answer, found)
    os._exit(0)  # TensorFlow's own threads may take seconds to end


class _Worker:
    """The models that are loaded, by the client's numbers."""

    def __init__(self) -> None:
        self.models: dict[int, Any] = {}
        self._last, self._busy = time.monotonic(), False

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        self._busy = True
        yield
        self._last, self._busy = time.monotonic(), False

    def watch(self, parent: int) -> None:
        """End with the parent, also in the middle of a call: a fork of the parent would keep the pipe open."""
        while os.getppid() == parent:
            if not self.models and not self._busy and time.monotonic() - self._last > IDLE_SECONDS:
                break
            time.sleep(0.5)
        os._exit(0)

    def do_load(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[dict, dict]:
        """Load the SavedModel of `folder` as `model`."""
        import tensorflow as tf

        old_format = (Path(header["folder"]) / "tfhub_module.pb").exists()  # TensorFlow 1: no tags
        module = tf.saved_model.load(header["folder"], tags=[] if old_format else None)
        self.models[header["model"]] = _Model(module, header["rate"])
        return {}, {}

    def do_find(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[dict, dict]:
        """How `model` wants to be called: the first way in which it takes `wav` [N] and gives features."""
        model, wav = self.models[header["model"]], arrays["wav"]
        unfit, refusals, takes_rate = [], [], False
        for way in ways(model.module):
            if takes_rate and way["rate"] is None:
                continue  # it refused this rate: without one it would take the waveform for another
            try:
                model.function(way)
            except Exception as error:  # of any kind: its arguments do not fit
                unfit.append(reason(error))
                continue
            takes_rate = takes_rate or way["rate"] is not None
            try:
                found = model.rows(way, wav[None], None)
            except Exception as error:
                refusals.append(reason(error))
                continue
            if found and all(array.size for array in found.values()):
                return {"way": model.in_batches(way, wav, found)}, {}
            refusals.append(f"it gives nothing for {len(wav)} samples")
        inputs = takes(model.module)
        told = refusals or ([f"it takes {inputs}"] if inputs else unfit) or ["it has no function to call"]
        return {"refused": told[0]}, {}

    def do_run(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[dict, dict]:
        """Call `model` in the `way` that was found on `wav` [B, N]; gives its outputs named in `layers`, [B, ...]."""
        return {}, self.models[header["model"]].rows(header["way"], arrays["wav"], header["layers"])

    def do_fetch(self, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[dict, dict]:
        """Download the module `handle` into the folder `cache`, in the way of tensorflow_hub."""
        os.environ["TFHUB_CACHE_DIR"], os.environ["TFHUB_MODEL_LOAD_FORMAT"] = header["cache"], "COMPRESSED"
        import tensorflow_hub

        return {"path": tensorflow_hub.resolve(header["handle"])}, {}


class _Model:
    """A loaded module and the functions by which it is called, for waveforms of any length at `rate` Hz."""

    def __init__(self, module: Any, rate: int) -> None:
        self.module, self.rate = module, rate
        self._functions: dict[str, Any] = {}

    def function(self, way: dict[str, Any]) -> Any:
        """The function of a way, traced once: called as it is, a module is traced anew for each length of clip."""
        import tensorflow as tf

        key = json.dumps(way, sort_keys=True)
        if key not in self._functions:
            target = self.module if way["signature"] is None else self.module.signatures[way["signature"]]

            def call(wav: Any) -> dict[str, Any]:
                named = {}
                if way["rate"] is not None:
                    named[way["rate"]] = self.rate
                    if way["signature"] is not None:
                        named[way["rate"]] = tf.cast(self.rate, target.structured_input_signature[1][way["rate"]].dtype)
                if way["argument"] is not None:
                    named[way["argument"]] = wav
                outputs = target(**named) if way["argument"] is not None else target(wav, **named)
                found = dict(_tensors(outputs, ""))
                if list(found) == ["output_0"]:  # what TensorFlow calls the only output of a signature
                    found = {"embedding": found["output_0"]}
                return {name: tf.cast(tensor, tf.float32) for name, tensor in found.items()}

            shape = {"flat": [None], "one": [1, None], "batch": [None, None]}[way["rows"]]
            spec = tf.TensorSpec(shape, tf.float32)
            self._functions[key] = tf.function(call, input_signature=(spec,), autograph=False).get_concrete_function()
        return self._functions[key]

    def rows(self, way: dict[str, Any], wav: np.ndarray, layers: list[str] | None) -> dict[str, np.ndarray]:
        """The outputs of clips [B, N], each [B, ...]; only those named in `layers` unless that is None."""
        import tensorflow as tf

        def call(part: np.ndarray) -> dict[str, np.ndarray]:
            outputs = self.function(way)(tf.constant(part))
            return {name: tensor.numpy() for name, tensor in outputs.items() if layers is None or name in layers}

        if way["rows"] == "batch":
            return call(wav)
        if way["rows"] == "flat":
            clips = [call(clip) for clip in wav]
            return {name: np.stack([clip[name] for clip in clips]) for name in clips[0]}
        clips = [call(clip[None]) for clip in wav]
        if wrong := [(name, array.shape) for clip in clips for name, array in clip.items() if array.shape[:1] != (1,)]:
            raise ValueError(f"its output {wrong[0][0]!r} is {list(wrong[0][1])} for a batch of one clip")
        return {name: np.concatenate([clip[name] for clip in clips]) for name in clips[0]}

    def in_batches(self, way: dict[str, Any], wav: np.ndarray, alone: dict[str, np.ndarray]) -> dict[str, Any]:
        """The way with whole batches, where the module takes them and its rows do not depend on each other."""
        if way["rows"] != "one":
            return way
        batch = {**way, "rows": "batch"}
        other = 0.3 * wav[::-1] + np.float32(0.05)  # of another mean, power and order
        try:
            found = self.rows(batch, np.stack([wav, other]), None)
        except Exception:  # of any kind: one by one it works
            return way
        for name, array in alone.items():
            if found[name].shape != (2, *array.shape[1:]):
                return way
            if not np.abs(found[name][:1] - array).max() <= SAME * np.abs(array).max():
                return way
        return batch


def ways(module: Any) -> Iterator[dict[str, Any]]:
    """Ways to call a module with a waveform, as JSON values, the most telling first.

    signature: None (the object itself) or a name; argument, rate: keywords of waveform and sample rate, None where it
    is positional or not given; rows: how clips [B, N] are given: `flat` [N] each, `one` [1, N] each, `batch` [B, N].
    """
    if callable(module):
        for rows in ("flat", "one"):
            yield {"signature": None, "argument": "samples", "rate": "sample_rate", "rows": rows}
            yield {"signature": None, "argument": None, "rate": None, "rows": rows}
    signatures = getattr(module, "signatures", {})
    for name in sorted(signatures, key=lambda name: name not in ("serving_default", "default")):
        inputs = signatures[name].structured_input_signature[1]
        waves = [key for key, spec in inputs.items() if spec.dtype.is_floating and spec.shape.rank in (None, 1, 2)]
        others = [key for key in inputs if key not in waves]
        if len(waves) == 1 and others in ([], ["sample_rate"]):
            for rows in ("flat", "one"):
                yield {"signature": name, "argument": waves[0], "rate": (others or [None])[0], "rows": rows}


def takes(module: Any) -> str:
    """The inputs of a module's signatures, for people: `serving_default(images float32 [None, 224, 224, 3])`."""
    found = []
    for name, function in getattr(module, "signatures", {}).items():
        inputs = function.structured_input_signature[1]
        listed = [f"{key} {spec.dtype.name} {spec.shape}" for key, spec in inputs.items()]
        found.append(f"{name}({', '.join(listed)})")
    return ", ".join(found)


def _tensors(outputs: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Floating-point tensors of nested outputs by name; a single one is `embedding`, those of a tuple `output0` ..."""
    import tensorflow as tf

    if isinstance(outputs, Mapping):
        for key in outputs:
            yield from _tensors(outputs[key], f"{name}.{key}" if name else str(key))
    elif isinstance(outputs, (tuple, list)):
        for index, output in enumerate(outputs):
            yield from _tensors(output, f"{name or 'output'}{index}")
    elif isinstance(outputs, tf.Tensor) and outputs.dtype.is_floating:
        yield name or "embedding", outputs


def reason(error: BaseException) -> str:
    """An exception in one line of bounded length, without where in the graph it was."""
    text = " ".join(str(error).split())
    text = re.sub("Graph execution error:|Detected at node .*?<stack traces unavailable>", "", text)
    text = re.sub(r"\[(Op:|\[\{\{node).*", "", text).strip()
    text = text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON] + " ..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"
