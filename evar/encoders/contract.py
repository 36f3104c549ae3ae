"""What an encoder promises, one function for each promise: `evar.encoders.check` runs them, in the order of `CHECKS`.

Each takes an encoder and returns what was seen; a broken promise is a `BrokenContractError` that says which.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from evar.encoders.base import CLIP, Encoder, Frames, state_digest
from evar.encoders.pooling import POOLINGS, pool
from evar.encoders.traces import hidden_networks, peak_memory, process_state, tensor_bytes, with_other_weights
from evar.errors import EvarError

TOLERANCE = 1e-4
"""Largest relative difference between a clip alone and the same clip in a batch."""
Pairs = list[tuple[str, str]]
"""(layer, pooling) each."""


class BrokenContractError(Exception):
    """What `evar check` reports; its text is for the encoder's author."""


def noise(encoder: Encoder, seconds: Sequence[float], seed: int = 0) -> Tensor:
    """Clips of filtered noise and a tone each, float32 [len(seconds), N]; zeros past each clip's end."""
    rate, longest = encoder.sample_rate, max(_samples(encoder, seconds))
    generator = torch.Generator().manual_seed(seed)
    wav = torch.randn(len(seconds), longest, generator=generator)
    wav = 0.05 * (wav + wav.roll(1, dims=1))
    time_s = torch.arange(longest) / rate
    for row, length in enumerate(_samples(encoder, seconds)):
        wav[row] += 0.1 * torch.sin(2 * torch.pi * 220.0 * (row + 1) * time_s)
        wav[row, length:] = 0.0
    return wav


def _samples(encoder: Encoder, seconds: Sequence[float]) -> list[int]:
    return [max(1, round(one * encoder.sample_rate)) for one in seconds]


# ---- the checks, in the order of the report ------------------------------------------------------------------------


def declarations(encoder: Encoder) -> str:
    """Name, version, rate, layers and defaults are there and agree."""
    _expect(isinstance(encoder.name, str) and bool(encoder.name), "name: expected a non-empty string")
    for attribute in ("version", "sample_rate", "min_samples"):
        value = getattr(encoder, attribute)
        _expect(isinstance(value, int) and value > 0, f"{attribute}: expected a whole number above 0, found {value!r}")
    strange = [layer for layer in encoder.layers if not re.fullmatch(r"[\w.-]+", layer) or layer == "all"]
    _expect(not strange, f"layer names are words without '+' and ':', and not 'all': found {strange}")
    for layer, size in encoder.layers.items():
        _expect(isinstance(size, int) and size > 0, f"layers: {layer} has the dimension {size!r}")
    for layer, hop in encoder.hop_ms.items():
        _expect(layer in encoder.layers, f"hop_ms names {layer!r}, which is not in `layers`")
        _expect(isinstance(hop, (int, float)) and hop > 0, f"hop_ms: {layer} has the hop {hop!r}")
    numbers = Counter(re.search(r"\d*$", layer)[0] for layer in encoder.layers)
    twofold = [layer for layer in encoder.layers if layer.isdigit() and numbers[layer] > 1]
    _expect(not twofold, f"--layers {', '.join(twofold)} could mean two layers: give them names, not bare numbers")
    of_strings = not isinstance(encoder.trained_on, str) and all(isinstance(name, str) for name in encoder.trained_on)
    _expect(of_strings, f"trained_on: expected a tuple of names, found {encoder.trained_on!r}")
    batch = encoder.preferred_batch
    fits = all(isinstance(batch.get(device), int) and batch[device] > 0 for device in ("cpu", "cuda"))
    _expect(fits, f"preferred_batch: expected clips for 'cpu' and 'cuda', found {dict(batch)}")
    _expect(encoder.weights_kind in ("trained", "bundled", "random", "none"), f"weights_kind {encoder.weights_kind!r}")
    trained = encoder.weights_kind != "none"
    _expect(trained == bool(encoder.weights_sha256), "weights_sha256 is there if and only if there are weights")
    return f"{encoder.default_layer} {encoder.default_pooling}, {encoder.embedding_dim} dimensions"


def shapes(encoder: Encoder) -> str:
    """[B, N] gives float32 [B, D] on the device; [N] gives [D]; numpy and float64 are the same audio."""
    wav = noise(encoder, [1.0, 1.0])
    out = encoder.encode(wav)
    expected = [2, encoder.embedding_dim]
    _expect(list(out.shape) == expected, f"expected {expected}, found {list(out.shape)}")
    _expect(out.dtype == torch.float32, f"expected float32, found {out.dtype}")
    _expect(out.device.type == encoder.device.type, f"expected results on {encoder.device}, found {out.device}")
    _expect(bool(torch.isfinite(out).all()), "NaN or infinity for ordinary noise")
    one = encoder.encode(wav[1])
    _expect(list(one.shape) == expected[1:], f"one clip [N]: expected {expected[1:]}, found {list(one.shape)}")
    for other in (wav[1].numpy(), wav[1].double()):
        changed = _difference(encoder.encode(other)[None], one[None])
        _expect(changed <= TOLERANCE, "numpy or float64 audio gives another result")
    return f"{list(out.shape)} {out.dtype}".replace("torch.", "")


def every_layer(encoder: Encoder) -> str:
    """Every layer comes with its declared dimension in every pooling, and the default equals `encode`."""
    seconds = [1.0, 0.7]
    wav, lengths = noise(encoder, seconds), _samples(encoder, seconds)
    poolings = [name for name in POOLINGS if name != "cls"]
    pairs = [*encoder.choices("all", ",".join(poolings)), *_summaries(encoder), _default(encoder)]
    _expect({layer for layer, _ in pairs} >= set(encoder.layers), "'--layers all' does not name every layer")
    if fusion := _fusion(encoder):
        pairs += [(fusion, "mean+max")]
    found = encoder.encode_pairs(wav, lengths, pairs)
    for (layer, pooling), vectors in found.items():
        expected = [2, encoder.dim(layer, pooling)]
        _expect(list(vectors.shape) == expected, f"{layer} {pooling}: expected {expected}, found {list(vectors.shape)}")
        _expect(bool(torch.isfinite(vectors).all()), f"{layer} {pooling}: NaN or infinity for ordinary noise")
    difference = _difference(found[_default(encoder)], encoder.encode(wav, lengths))
    _expect(difference <= TOLERANCE, f"the default differs by {difference:.1e} when other layers are wanted too")
    return ", ".join(f"{layer} {size}" for layer, size in encoder.layers.items())


def deterministic(encoder: Encoder) -> str:
    """Twice the same input gives the same bits, whatever was encoded in between."""
    wav, pairs = noise(encoder, [1.0, 0.6]), _mean_of_all(encoder)
    first = encoder.encode_pairs(wav, None, pairs)
    encoder.encode(3.0 * noise(encoder, [0.8], seed=1))
    for pair, again in encoder.encode_pairs(wav, None, pairs).items():
        difference = _difference(first[pair], again)
        _expect(bool(torch.equal(first[pair], again)), f"{pair[0]}: two calls differ by {difference:.1e}")
    return "bit for bit"


def batch_invariance(encoder: Encoder) -> str:
    """A clip's row is the same alone and beside others of its length, in every layer."""
    wav, pairs = noise(encoder, [1.0] * 3), _everything(encoder)
    alone = [encoder.encode_pairs(clip, None, pairs) for clip in wav]
    return f"{_invariant(encoder.encode_pairs(wav, None, pairs), alone, 'with its neighbours'):.1e}"


def padding_invariance(encoder: Encoder) -> str:
    """A clip's row is the same alone and in a padded batch, whatever the padding holds, in every layer."""
    pairs, shortest = _everything(encoder), _shortest(encoder)
    seconds = [shortest + s for s in (1.37, 1.0, 0.9999, 0.83, 0.515)] + [0.1, 0.02]
    found = [_padded(encoder, part, pairs) for part in (seconds, [12.3 + shortest, 4.1 + shortest])]
    return f"{max(found):.1e}" + (" (one pass for each length)" if encoder.equal_lengths_only else "")


def _padded(encoder: Encoder, seconds: Sequence[float], pairs: Pairs) -> float:
    wav, lengths = noise(encoder, seconds), _samples(encoder, seconds)
    alone = [encoder.encode_pairs(clip[:length], None, pairs) for clip, length in zip(wav, lengths, strict=True)]
    for row, length in enumerate(lengths):
        wav[row, length:] = 0.3
    advice = (
        "" if encoder.equal_lengths_only else "; where the network cannot be exact, declare equal_lengths_only = True"
    )
    return _invariant(encoder.encode_pairs(wav, lengths, pairs), alone, f"with padding{advice}")


def silence(encoder: Encoder) -> str:
    """Digital silence gives finite numbers in every layer."""
    return _finite(encoder, torch.zeros(2, encoder.sample_rate))


def ten_milliseconds(encoder: Encoder) -> str:
    """A clip of 10 ms works in every layer, and so does a single sample."""
    _finite(encoder, noise(encoder, [0.0]))
    return _finite(encoder, noise(encoder, [0.01]))


def sixty_seconds(encoder: Encoder) -> str:
    """A clip of 60 s works and is heard to its end; says how much memory it takes."""
    wav, of_clip = noise(encoder, [60.0]), encoder.default_pooling == CLIP
    with peak_memory(encoder.device) as peak:
        out = encoder.encode(wav) if of_clip else encoder.encode_frames(wav)
    if of_clip:
        _expect(bool(torch.isfinite(out).all()), "NaN or infinity")
        wav[:, 50 * encoder.sample_rate :] *= -5.0
        _expect(not torch.equal(encoder.encode(wav), out), "the last 10 of 60 s change nothing: they are not heard")
    else:
        valid = int(out.valid[0])
        _expect(bool(torch.isfinite(out.features[:, :valid]).all()), "NaN or infinity")
        heard = float(out.times_ms[valid - 1]) / 1000
        _expect(heard > 54.0, f"the last of {valid} frames is at {heard:.1f} s of 60: the rest is not heard")
    return "memory not known" if peak[0] is None else f"peak memory +{peak[0] / 1e6:.0f} MB"


def refusals(encoder: Encoder) -> str:
    """NaN, stereo, integers, another rate, no audio, wrong lengths and unknown names each give an EvarError."""
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
        "an unknown pooling": lambda: encoder.encode_all(good, None, None, ["no-such-pooling"]),
    }
    for case, call in cases.items():
        try:
            call()
        except EvarError:
            continue
        except Exception as error:
            raise BrokenContractError(f"{case}: {type(error).__name__} instead of an EvarError") from error
        raise BrokenContractError(f"{case} is accepted")
    return ", ".join(cases)


def frozen(encoder: Encoder) -> str:
    """Encoding leaves no gradients; it changes no weights, not its input, and nothing else in the process."""
    before, wav = state_digest(encoder.state_dict()), noise(encoder, [1.0])
    given, around = wav.clone(), process_state()
    training = [module.training for module in encoder.modules()]
    encoder.train()
    try:
        in_training = encoder.encode(wav)
    finally:
        for module, mode in zip(encoder.modules(), training, strict=True):
            module.training = mode
    _expect(bool(torch.equal(wav, given)), "encoding changes the audio that it was given")
    changed = [what for what, now in process_state().items() if now != around[what]]
    _expect(not changed, f"encoding changes torch's {', '.join(changed)} for the whole process")
    out = encoder.encode(wav)
    _expect(not out.requires_grad and not out.is_inference(), "the result is bound to gradients or inference mode")
    _expect(bool(torch.equal(out, in_training)), "training mode changes the embedding")
    _expect(state_digest(encoder.state_dict()) == before, "encoding changes the weights or buffers")
    return "no gradient, weights unchanged"


def frames_agree(encoder: Encoder) -> str:
    """`encode_frames` gives what `encode` pools, layer by layer; times rise by the declared hop and lie in the clip."""
    layers = [layer for layer in encoder.layers if layer in encoder.hop_ms]
    if not layers:
        return "clip layers only"
    longest = max(1.0, 2.5 * max(encoder.hop_ms.values()) / 1000)
    wav, lengths = noise(encoder, [longest, 0.55 * longest]), _samples(encoder, [longest, 0.55 * longest])
    pairs = [*encoder.choices(",".join(layers), "mean"), *_summaries(encoder)]
    pooled = encoder.encode_pairs(wav, lengths, pairs)
    for layer in layers:
        frames = encoder.encode_frames(wav, lengths, layer)
        _check_frames(encoder, layer, frames, lengths)
        for pooling in [pooling for other, pooling in pairs if other == layer]:
            difference = _difference(pool(frames, pooling), pooled[layer, pooling])
            where = f"{layer}: pooled frames ({pooling}) differ by {difference:.1e} from what encode_pairs gives"
            _expect(difference <= TOLERANCE, f"{where}; a layer must not depend on which others are wanted")
    return ", ".join(f"{layer} {encoder.hop_ms[layer]:g} ms" for layer in layers)


def _check_frames(encoder: Encoder, layer: str, frames: Frames, lengths: list[int]) -> None:
    n_frames, hop, times = frames.features.shape[1], encoder.hop_ms[layer], frames.times_ms
    _expect(len(times) == n_frames, f"{layer}: {n_frames} frames and {len(times)} times")
    _expect(bool(((times.diff() - hop).abs() <= 0.02 * hop).all()), f"{layer}: frames are not {hop:g} ms apart")
    valid = frames.valid.tolist()
    _expect(min(valid) >= 1 and max(valid) <= n_frames, f"{layer}: valid frames {valid} of {n_frames}")
    for count, length in zip(valid, lengths, strict=True):
        end = 1000 * max(length, encoder.min_samples) / encoder.sample_rate
        first, last = float(times[0]), float(times[count - 1])
        inside = first >= 0 and last <= end + hop
        _expect(inside, f"{layer}: valid frames from {first:g} to {last:g} ms in a clip of {end:.0f} ms")
    if frames.summary is not None:
        expected = [len(lengths), encoder.layers[layer]]
        _expect(
            list(frames.summary.shape) == expected, f"{layer}: summary {list(frames.summary.shape)}, not {expected}"
        )


def fingerprint(encoder: Encoder) -> str:
    """Stable, and another one when the weights or the normalisation change."""
    found = encoder.fingerprint()
    _expect(re.fullmatch(r"[0-9a-f]{64}", found) is not None, f"expected 64 hex digits, found {found!r}")
    encoder.encode(noise(encoder, [0.5]))
    _expect(encoder.fingerprint() == found, "changes from call to call")
    hidden = hidden_networks(encoder)
    _expect(
        not hidden, f"{', '.join(hidden)}: a network inside a list or dict is not seen: use nn.ModuleList or ModuleDict"
    )
    weight = next((weight for weight in encoder.parameters() if weight.numel()), None)
    if weight is not None:
        _expect(with_other_weights(encoder, weight) != found, "does not change with the weights")
    if encoder.needs_normalization:
        shifted = encoder.with_normalization({"mean": 0.5, "std": 1.5})
        _expect(shifted.fingerprint() != found, "does not change with the normalisation statistics")
        _expect(encoder.fingerprint() == found, "with_normalization changes the original")
        wav = noise(encoder, [0.5])
        changed = not torch.equal(shifted.encode(wav), encoder.encode(wav))
        _expect(changed, "the normalisation statistics have no effect")
    return found[:16]


def memory(encoder: Encoder) -> str:
    """Nothing of a call stays in memory."""
    wav = noise(encoder, [0.5])
    encoder.encode(wav)
    before = tensor_bytes()
    for _ in range(2):
        encoder.encode(wav)
    grown = tensor_bytes() - before
    _expect(grown < 1024, f"every call leaves {grown / 2:.0f} bytes of tensors in memory")
    return "nothing stays behind"


def speed(encoder: Encoder) -> str:
    """Clips of one second per second, in the preferred batch."""
    batch = encoder.preferred_batch.get(encoder.device.type, 8)
    wav = noise(encoder, [1.0] * batch)
    encoder.encode(wav[: max(1, batch // 8)])
    runs, start = 0, time.perf_counter()
    while runs == 0 or (runs < 20 and time.perf_counter() - start < 1.0):
        encoder.encode(wav).sum().item()
        runs += 1
    return f"{runs * batch / (time.perf_counter() - start):.3g} clips/s of 1 s in batches of {batch}"


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
    memory,
    speed,
)

# ---- what the checks encode ----------------------------------------------------------------------------------------


def _default(encoder: Encoder) -> tuple[str, str]:
    return encoder.default_layer, encoder.default_pooling


def _mean_of_all(encoder: Encoder) -> Pairs:
    """Every layer, and what `encode` gives."""
    return [*encoder.choices("all", "mean"), _default(encoder)]


def _everything(encoder: Encoder) -> Pairs:
    return [*_mean_of_all(encoder), *_summaries(encoder)]


def _summaries(encoder: Encoder) -> Pairs:
    """The pooling `cls` of the layers that have a summary token."""
    wav, lengths, _ = encoder._checked(noise(encoder, [0.1]), None, None)
    with encoder._frozen():
        outputs = encoder._run(wav, lengths, frozenset(encoder.hop_ms))
    return [(layer, "cls") for layer in encoder.hop_ms if outputs[layer].summary is not None]


def _fusion(encoder: Encoder) -> str | None:
    """The finest layer with the coarsest, where their rates are whole multiples."""
    layers = sorted(encoder.hop_ms, key=lambda layer: encoder.hop_ms[layer])
    if len(layers) < 2:
        return None
    ratio = encoder.hop_ms[layers[-1]] / encoder.hop_ms[layers[0]]
    return f"{layers[0]}+{layers[-1]}" if abs(ratio - round(ratio)) < 1e-6 else None


def _shortest(encoder: Encoder) -> float:
    """Seconds below which clips of all lengths look alike: to be added where lengths should matter; 0 where they do."""
    shortest = max([encoder.min_samples / encoder.sample_rate, *(hop / 1000 for hop in encoder.hop_ms.values())])
    return shortest if shortest > 0.1 else 0.0


def _invariant(
    together: Mapping[tuple[str, str], Tensor], alone: Sequence[Mapping[tuple[str, str], Tensor]], cause: str
) -> float:
    """The largest difference of any row of any pair; too large a one is a broken contract."""
    largest = 0.0
    for (layer, pooling), rows in together.items():
        difference = _difference(rows, torch.stack([one[layer, pooling] for one in alone]))
        _expect(difference <= TOLERANCE, f"{layer} {pooling}: a clip's row changes by {difference:.1e} {cause}")
        largest = max(largest, difference)
    return largest


def _finite(encoder: Encoder, wav: Tensor) -> str:
    for (layer, pooling), out in encoder.encode_pairs(wav, None, _mean_of_all(encoder)).items():
        _expect(bool(torch.isfinite(out).all()), f"{layer} {pooling}: NaN or infinity")
    return "finite"


def _expect(condition: bool, detail: str) -> None:
    if not condition:
        raise BrokenContractError(detail)


def _difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference of any row, relative to that row's largest value."""
    found, expected = found.reshape(len(found), -1), expected.reshape(len(expected), -1)
    scale = expected.abs().amax(dim=1).clamp(min=1e-6)
    difference = ((found - expected).abs().amax(dim=1) / scale).max()
    return float(difference) if bool(torch.isfinite(difference)) else float("inf")
