"""`evar check ENCODER`: the contract, held against anybody's encoder; our own tests demand it of ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from evar.encoders.base import Encoder
from evar.encoders.contract import CHECKS, BrokenContractError, noise
from evar.errors import EvarError, unknown


@dataclass(frozen=True)
class CheckResult:
    """One line of the report: what was checked, whether it holds, and what was seen."""

    name: str
    ok: bool
    detail: str


def check_encoder(
    encoder: Encoder,
    device: str | torch.device = "cpu",
    only: Sequence[str] | None = None,
    report: Callable[[CheckResult], None] | None = None,
) -> list[CheckResult]:
    """Run every check of the contract on `device`, or those named in `only`; none of them stops the others.

    report: called with each result as soon as it is there. An encoder that needs normalisation statistics and has none
    gets those of the test noise. Raises EvarError for an unknown name in `only`.
    """
    checks = CHECKS if only is None else _chosen(only)
    encoder = encoder.to(device).eval()
    results: list[CheckResult] = []

    def add(result: CheckResult) -> None:
        results.append(result)
        if report:
            report(result)

    if encoder.needs_normalization and encoder.normalization is None:
        try:
            encoder = encoder.with_normalization(encoder.measure_normalization([(noise(encoder, [2.0, 1.3]), None)]))
        except Exception as error:
            add(CheckResult("normalisation", False, f"{type(error).__name__}: {error}"))
            return results
    for check in checks:
        name = check.__name__.replace("_", " ")
        try:
            add(CheckResult(name, True, check(encoder)))
        except BrokenContractError as error:
            add(CheckResult(name, False, str(error)))
        except Exception as error:  # an author's bug is what this report is for
            add(CheckResult(name, False, f"{type(error).__name__}: {error}"))
    return results


def _chosen(names: Sequence[str]) -> list[Callable[[Encoder], str]]:
    known = {check.__name__.replace("_", " "): check for check in CHECKS}
    wanted = [re.sub(r"[\s_-]+", " ", name.strip()) for name in names]
    if not wanted:
        raise EvarError(f"no check named: there are {', '.join(known)}")
    for name in wanted:
        if name not in known:
            raise unknown("check", name, known)
    return [check for name, check in known.items() if name in wanted]
