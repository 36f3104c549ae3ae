"""`paper` and `mlp` train every fold and seed exactly as a plain PyTorch loop would."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from probe_data import embeddings, folds, ids

from evar.probes import evaluate, get_protocol
from evar.probes.splits import plan_folds


def plain_loop(protocol, X, targets, fold, n_classes):
    """One configuration: nn.Linear, torch.optim.Adam, a loop. Returns test probabilities and the best epoch."""
    mean, std = X[fold.fit].astype(np.float64).mean(0), X[fold.fit].astype(np.float64).std(0)
    S = torch.from_numpy(((X - mean) / std).astype(np.float32))
    y = torch.from_numpy(targets)
    torch.manual_seed(fold.seed)
    if protocol.probe == "mlp":
        layers = [
            torch.nn.Linear(X.shape[1], protocol.hidden),
            torch.nn.ReLU(),
            torch.nn.Linear(protocol.hidden, n_classes),
        ]
    else:
        layers = [torch.nn.Linear(X.shape[1], n_classes)]
    model = torch.nn.Sequential(*layers)
    optimizer = torch.optim.Adam(model.parameters(), lr=protocol.learning_rate, weight_decay=protocol.weight_decay)
    loss = torch.nn.CrossEntropyLoss() if targets.ndim == 1 else torch.nn.BCEWithLogitsLoss()
    best, best_epoch, kept = -1.0, 0, None
    for epoch in range(1, protocol.max_epochs + 1):
        order = fold.fit[torch.randperm(len(fold.fit)).numpy()]
        for start in range(0, len(order), protocol.batch_size):
            batch = order[start : start + protocol.batch_size]
            optimizer.zero_grad()
            loss(model(S[batch]), y[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            score = (
                (model(S[fold.valid]).argmax(1) == y[fold.valid]).float().mean().item() if targets.ndim == 1 else epoch
            )
            if score > best:
                best, best_epoch, kept = score, epoch, model(S[fold.test])
        if epoch - best_epoch >= protocol.patience:
            break
    return kept.softmax(1).numpy(), best_epoch


@pytest.mark.parametrize("name", ["paper", "mlp"])
def test_same_as_one_configuration_at_a_time(name):
    X, targets = embeddings(330, 40, 5)
    # unequal folds: the problems have different numbers of batches
    fold = np.where(np.arange(330) < 150, 1, folds(330, 3) % 2 + 2)
    protocol = dataclasses.replace(
        get_protocol(name), name="short", max_epochs=25, patience=6, batch_size=64, hidden=16, learning_rate=3e-3
    )
    found = evaluate(protocol, X, targets, range(5), fold=fold, clip_ids=ids(330))
    runs = {(run.fold, run.seed): run for run in found.runs}
    assert len(runs) == 9
    for seed in protocol.seeds:
        plans, _ = plan_folds(protocol, targets, split=None, fold=fold, group=ids(330), clip_ids=ids(330), seed=seed)
        for plan in plans:
            expected, epoch = plain_loop(protocol, X, targets, plan, 5)
            run = runs[plan.fold, seed]
            assert run.setting == f"lr=0.003 epoch={epoch}"
            np.testing.assert_allclose(run.scores, expected, atol=2e-4)


def test_seeds_differ_and_repeat():
    X, targets = embeddings(200, 20, 4)
    kwargs = {"fold": folds(200, 2), "clip_ids": ids(200), "lr": 1e-2}
    first, second = (evaluate("paper", X, targets, range(4), **kwargs) for _ in range(2))
    assert not np.array_equal(first.runs[0].scores, first.runs[2].scores)
    for a, b in zip(first.runs, second.runs, strict=True):
        np.testing.assert_array_equal(a.scores, b.scores)
    by_seed = [np.mean([run.score for run in first.runs if run.seed == seed]) for seed in (42, 43, 44)]
    assert first.mean == pytest.approx(np.mean(by_seed))
    assert first.std == pytest.approx(np.std(by_seed, ddof=1))


def test_multi_label_learns():
    X, targets = embeddings(400, 30, 4)
    hot = np.eye(4, dtype=np.float32)[targets]
    found = evaluate("paper", X, hot, range(4), fold=folds(400, 2), clip_ids=ids(400), metric="mAP", lr=1e-2, seeds=[1])
    assert found.mean > 0.5
