"""The contract, held against anybody's encoder: what `evar check ENCODER` prints and our own tests demand."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evar.encoders.base import Encoder, state_digest
from evar.encoders.pooling import pool
from evar.errors import EvarError

TOLERANCE = 1e-4
"""Largest relative difference between a clip alone and the same clip in a batch."""


@dataclass(frozen=True)
class CheckResult:
    """One line of the report: what was checked, whether it holds, and what was seen."""

    name: str
    ok: bool
    detail: str


def check_encoder(encoder: Encoder, device: str | torch.device = "cpu") -> list[CheckResult]:
    """Run every check of the contract on `device`; none of them stops the others.

    An encoder that needs normalisation statistics and has none gets those of the test noise.
    """
    encoder = encoder.to(device).eval()
    results = []
    if encoder.needs_normalization and encoder.normalization is None:
        try:
            encoder = encoder.with_normalization(encoder.measure_normalization([(noise(encoder, [2.0, 1.3]), None)]))
        except Exception as error:
            return [CheckResult("normalisation", False, f"{type(error).__name__}: {error}")]
    for check in CHECKS:
        name = check.__name__.replace("_", " ")
        try:
            results.append(CheckResult(name, True, check(encoder)))
        except _BrokenContractError as error:
            results.append(CheckResult(name, False, str(error)))
        except Exception as error:  # an author's bug is what this report is for
            results.append(CheckResult(name, False, f"{type(error).__name__}: {error}"))
    return results


def noise(encoder: Encoder, seconds: list[float], seed: int = 0) -> Tensor:
    """Clips of filtered noise and a tone each, float32 [len(seconds), N]; zeros past each clip's end."""
    rate, longest = encoder.sample_rate, round(max(seconds) * encoder.sample_rate)
    generator = torch.Generator().manual_seed(seed)
    wav = torch.randn(len(seconds), longest, generator=generator)
    wav = 0.05 * (wav + wav.roll(1, dims=1))
    time_s = torch.arange(longest) / rate
    for row, duration in enumerate(seconds):
        wav[row] += 0.1 * torch.sin(2 * torch.pi * 220.0 * (row + 1) * time_s)
        wav[row, round(duration * rate) :] = 0.0
    return wav


class _BrokenContractError(Exception):
    pass


def _expect(condition: bool, detail: str) -> None:
    if not condition:
        raise _BrokenContractError(detail)


def _difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference of any row, relative to that row's largest value."""
    found, expected = found.reshape(len(found), -1), expected.reshape(len(expected), -1)
    scale = expected.abs().amax(dim=1).clamp(min=1e-6)
    return float(((found - expected).abs().amax(dim=1) / scale).max())


def declarations(encoder: Encoder) -> str:
    """Name, version, rate, layers and defaults are there and agree."""
    _expect(isinstance(encoder.name, str) and bool(encoder.name), "name: expected a non-empty string")
    for attribute in ("version", "sample_rate", "min_samples"):
        value = getattr(encoder, attribute)
        _expect(isinstance(value, int) and value > 0, f"{attribute}: expected a whole number above 0, found {value!r}")
    strange = [layer for layer in encoder.layers if not re.fullmatch(r"[\w.-]+", layer)]
    _expect(not strange, f"layer names are words without '+' and ':', found {strange}")
    _expect(set(encoder.hop_ms) <= set(encoder.layers), "hop_ms names layers that are not in `layers`")
    _expect(encoder.weights_kind in ("trained", "bundled", "random", "none"), f"weights_kind {encoder.weights_kind!r}")
    trained = encoder.weights_kind != "none"
    _expect(trained == bool(encoder.weights_sha256), "weights_sha256 is there if and only if there are weights")
    return f"{encoder.default_layer} {encoder.default_pooling}, {encoder.embedding_dim} dimensions"


def shapes(encoder: Encoder) -> str:
    """[B, N] gives float32 [B, D] on the device; [N] gives [D]; numpy and float64 are the same audio."""
    wav = noise(encoder, [1.0, 1.0, 1.0])
    out = encoder.encode(wav)
    expected = [3, encoder.embedding_dim]
    _expect(list(out.shape) == expected, f"expected {expected}, found {list(out.shape)}")
    _expect(out.dtype == torch.float32, f"expected float32, found {out.dtype}")
    _expect(out.device.type == encoder.device.type, f"expected results on {encoder.device}, found {out.device}")
    _expect(bool(torch.isfinite(out).all()), "NaN or infinity for ordinary noise")
    one = encoder.encode(wav[1])
    _expect(list(one.shape) == expected[1:], f"one clip [N]: expected {expected[1:]}, found {list(one.shape)}")
    for other in (wav.numpy(), wav.double()):
        _expect(_difference(encoder.encode(other), out) <= TOLERANCE, "numpy or float64 audio gives another result")
    return f"{list(out.shape)} {out.dtype}".replace("torch.", "")


def every_layer(encoder: Encoder) -> str:
    """Every declared layer comes with its declared dimension, and the default equals `encode`."""
    wav = noise(encoder, [1.0, 0.7])
    lengths = [encoder.sample_rate, round(0.7 * encoder.sample_rate)]
    for layer, size in encoder.layers.items():
        pooling = "mean" if layer in encoder.hop_ms else "clip"
        found = encoder.encode_all(wav, lengths, [layer], [pooling])[layer, pooling]
        _expect(list(found.shape) == [2, size], f"{layer}: expected [2, {size}], found {list(found.shape)}")
    (default,) = encoder.encode_all(wav, lengths).values()
    _expect(bool(torch.equal(default, encoder.encode(wav, lengths))), "encode_all's default differs from encode")
    return ", ".join(f"{layer} {size}" for layer, size in encoder.layers.items())


def deterministic(encoder: Encoder) -> str:
    """Twice the same input gives the same bits."""
    wav = noise(encoder, [1.0, 0.6])
    first, second = encoder.encode(wav), encoder.encode(wav)
    _expect(bool(torch.equal(first, second)), f"two calls differ by {_difference(first, second):.1e}")
    return "bit for bit"


def batch_invariance(encoder: Encoder) -> str:
    """A clip's row is the same alone and beside others of its length."""
    wav = noise(encoder, [1.0] * 5)
    alone = torch.stack([encoder.encode(clip) for clip in wav])
    difference = _difference(encoder.encode(wav), alone)
    _expect(difference <= TOLERANCE, f"a clip's row changes by {difference:.1e} with its neighbours")
    return f"{difference:.1e}"


def padding_invariance(encoder: Encoder) -> str:
    """A clip's row is the same alone and in a padded batch, whatever the padding holds."""
    seconds = [1.37, 1.0, 0.9999, 0.83, 0.515, 0.1, 0.02]
    lengths = [round(s * encoder.sample_rate) for s in seconds]
    wav = noise(encoder, seconds)
    alone = torch.stack([encoder.encode(clip[:length]) for clip, length in zip(wav, lengths, strict=True)])
    for row, length in enumerate(lengths):
        wav[row, length:] = 0.3
    difference = _difference(encoder.encode(wav, lengths), alone)
    _expect(difference <= TOLERANCE, f"a clip's row changes by {difference:.1e} with padding")
    return f"{difference:.1e}" + (" (one pass for each length)" if encoder.equal_lengths_only else "")


def silence(encoder: Encoder) -> str:
    """Digital silence gives finite numbers."""
    return _finite(encoder, torch.zeros(2, encoder.sample_rate))


def ten_milliseconds(encoder: Encoder) -> str:
    """A clip of 10 ms works."""
    return _finite(encoder, noise(encoder, [0.01]))


def sixty_seconds(encoder: Encoder) -> str:
    """A clip of 60 s works; says how much memory it takes."""
    wav = noise(encoder, [60.0])
    with _peak_memory(encoder.device) as peak:
        _finite(encoder, wav)
    return "memory not known" if peak[0] is None else f"peak memory +{peak[0] / 1e6:.0f} MB"


def refusals(encoder: Encoder) -> str:
    """NaN, stereo, integers, another rate, no audio and wrong lengths each give an EvarError."""
    good = noise(encoder, [0.5])
    broken = good.clone()
    broken[0, 100] = torch.nan
    cases: dict[str, Callable[[], Any]] = {
        "NaN": lambda: encoder.encode(broken),
        "stereo": lambda: encoder.encode(good[:, None].expand(1, 2, -1)),
        "integers": lambda: encoder.encode((good * 32767).to(torch.int16)),
        "another sample rate": lambda: encoder.encode(good, sample_rate=encoder.sample_rate + 1),
        "empty audio": lambda: encoder.encode(good[:, :0]),
        "a length past the end": lambda: encoder.encode(good, [good.shape[1] + 1]),
        "a length of 0": lambda: encoder.encode(good, [0]),
        "an unknown layer": lambda: encoder.encode_all(good, None, ["no-such-layer"]),
    }
    for case, call in cases.items():
        try:
            call()
        except EvarError:
            continue
        except Exception as error:
            raise _BrokenContractError(f"{case}: {type(error).__name__} instead of an EvarError") from error
        raise _BrokenContractError(f"{case} is accepted")
    return ", ".join(cases)


def frozen(encoder: Encoder) -> str:
    """Encoding leaves no gradients, changes no weights, and gives ordinary tensors."""
    before = state_digest(encoder.state_dict())
    training = [module.training for module in encoder.modules()]
    encoder.train()
    try:
        in_training = encoder.encode(noise(encoder, [1.0]))
    finally:
        for module, mode in zip(encoder.modules(), training, strict=True):
            module.training = mode
    out = encoder.encode(noise(encoder, [1.0]))
    _expect(not out.requires_grad and not out.is_inference(), "the result is bound to gradients or inference mode")
    _expect(bool(torch.equal(out, in_training)), "training mode changes the embedding")
    _expect(state_digest(encoder.state_dict()) == before, "encoding changes the weights or buffers")
    return "no gradient, weights unchanged"


def frames_agree(encoder: Encoder) -> str:
    """Pooling `encode_frames` gives what `encode` gives; times rise by the declared hop."""
    seconds = [1.0, 0.55]
    wav, lengths = noise(encoder, seconds), [round(s * encoder.sample_rate) for s in seconds]
    layers = [layer for layer in encoder.layers if layer in encoder.hop_ms]
    for layer in layers:
        frames = encoder.encode_frames(wav, lengths, layer)
        steps = frames.times_ms.diff()
        hop = encoder.hop_ms[layer]
        _expect(bool(((steps - hop).abs() <= 0.02 * hop).all()), f"{layer}: frames are not {hop:g} ms apart")
        _expect(len(frames.times_ms) == frames.features.shape[1], f"{layer}: as many times as frames")
        fits = bool((frames.valid >= 1).all()) and int(frames.valid.max()) <= frames.features.shape[1]
        _expect(fits, f"{layer}: valid frames {frames.valid.tolist()} of {frames.features.shape[1]}")
        pooled = encoder.encode_all(wav, lengths, [layer], ["mean"])[layer, "mean"]
        difference = _difference(pool(frames, "mean"), pooled)
        _expect(difference <= TOLERANCE, f"{layer}: pooled frames differ from encode_all by {difference:.1e}")
    return ", ".join(f"{layer} {encoder.hop_ms[layer]:g} ms" for layer in layers) or "clip layers only"


def fingerprint(encoder: Encoder) -> str:
    """Stable, and another one when the normalisation changes."""
    found = encoder.fingerprint()
    _expect(re.fullmatch(r"[0-9a-f]{64}", found) is not None, f"expected 64 hex digits, found {found!r}")
    encoder.encode(noise(encoder, [0.5]))
    _expect(encoder.fingerprint() == found, "changes from call to call")
    if encoder.needs_normalization:
        shifted = encoder.with_normalization({"mean": 0.5, "std": 1.5})
        _expect(shifted.fingerprint() != found, "does not change with the normalisation statistics")
        _expect(encoder.fingerprint() == found, "with_normalization changes the original")
        wav = noise(encoder, [0.5])
        changed = not torch.equal(shifted.encode(wav), encoder.encode(wav))
        _expect(changed, "the normalisation statistics have no effect")
    return found[:16]


def speed(encoder: Encoder) -> str:
    """Clips of one second per second, in the preferred batch."""
    batch = encoder.preferred_batch.get(encoder.device.type, 8)
    wav = noise(encoder, [1.0] * batch)
    encoder.encode(wav)
    runs, start = 0, time.perf_counter()
    while runs < 3 or (runs < 20 and time.perf_counter() - start < 1.0):
        encoder.encode(wav).sum().item()
        runs += 1
    return f"{runs * batch / (time.perf_counter() - start):.0f} clips/s of 1 s in batches of {batch}"


CHECKS: tuple[Callable[[Encoder], str], ...] = (
    declarations,
    shapes,
    every_layer,
    deterministic,
    batch_invariance,
    padding_invariance,
    silence,
    ten_milliseconds,
    sixty_seconds,
    refusals,
    frozen,
    frames_agree,
    fingerprint,
    speed,
)


def _finite(encoder: Encoder, wav: Tensor) -> str:
    out = encoder.encode(wav)
    _expect(bool(torch.isfinite(out).all()), "NaN or infinity")
    return "finite"


@contextlib.contextmanager
def _peak_memory(device: torch.device) -> Iterator[list[int | None]]:
    """Bytes by which memory rose at most inside the block, in a list of one; None where nobody can tell."""
    peak: list[int | None] = [None]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak[0] = torch.cuda.max_memory_allocated(device) - before
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the high-water mark
    before = _status_bytes("VmRSS")
    yield peak
    after = _status_bytes("VmHWM")
    peak[0] = None if before is None or after is None else max(0, after - before)


def _status_bytes(key: str) -> int | None:
    try:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) * 1024
