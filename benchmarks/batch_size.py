"""Is the batch that each encoder asks for on this device near the best? One-second clips through `encode`, batches of 1 to 256.

Each batch size encodes at least its own number of clips, in turn with the others; clips per second as a share of the best.
Encoders are untrained, clips are noise in memory. `--only NAME,NAME` (any registered encoder), `--device cuda`.
"""

from __future__ import annotations

import common

TARGETS = {
    "share": {
        "what": "an encoder's own batch size: share of the best one's speed, worst encoder",
        "least": 90,
        "unit": "%",
    }
}
ENCODERS = ("byola-v1-512", "byola-v2", "cnn14", "vggish")
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
STATISTICS = {"mean": -7.0, "std": 4.0}


def main() -> None:
    words = common.parser(__doc__)
    words.add_argument("--only", metavar="NAME,NAME", help=f"default: {','.join(ENCODERS)}")
    words.add_argument("--runs", type=int, default=2)
    words.add_argument("--device", default="cpu")
    options = words.parse_args()
    names = options.only.split(",") if options.only else ENCODERS[: 1 if options.quick else None]
    sizes = SIZES[:3] if options.quick else SIZES
    rows = [measured(name, sizes, 1 if options.quick else options.runs, options.device) for name in names]
    worst = min(row["share of the best, %"] for row in rows)
    common.finish("batch sizes, clips/s", rows, TARGETS, {"share": worst})


def measured(name: str, sizes: tuple[int, ...], runs: int, device: str) -> dict:
    import torch

    from evar.embed import keep_freed_memory, preferred_batch
    from evar.encoders import list_encoders, load_encoder

    keep_freed_memory()
    untrained = name if list_encoders()[name].weights in ("none", "bundled") else f"random:{name}"
    encoder = load_encoder(untrained, device=device)
    encoder = encoder.with_normalization(STATISTICS) if encoder.needs_normalization else encoder
    own = preferred_batch(encoder)
    sizes = tuple(sorted({*sizes, own}))
    wav = 0.1 * torch.randn(max(sizes), encoder.sample_rate, generator=torch.Generator().manual_seed(0))
    clips = {size: size * max(1, 16 // size) for size in sizes}  # small batches: 16 clips, so that the clock can tell

    def encode(size: int) -> None:
        for part in wav[: clips[size]].split(size):
            encoder.encode(part)
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    works = {str(size): lambda size=size: encode(size) for size in sizes}
    seconds = common.side_by_side(works, runs)
    per_second = {size: common.rate(clips[size], seconds[str(size)]).median for size in sizes}
    best = max(per_second, key=per_second.get)
    return {
        "encoder": name,
        **{str(size): per_second[size] for size in sizes},
        "own": own,
        "best": best,
        "share of the best, %": 100 * per_second[own] / per_second[best],
    }


if __name__ == "__main__":
    main()
