"""`paper` and `mlp` train every fold and seed exactly as a plain PyTorch loop would."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from probe_data import embeddings, folds, ids, parts
from sklearn.preprocessing import StandardScaler

from evar.probes import adam, evaluate, get_protocol
from evar.probes.adam import _draws
from evar.probes.metrics import score
from evar.probes.splits import draw_validation, plan_folds


def plain_loop(protocol, X, targets, fold, n_classes, generator):
    """One configuration as METHODS.md has it: nn.Linear, torch.optim.Adam, autograd, a loop.

    generator: of the seed, set once before the first fold. Returns test probabilities, the epoch kept, the last epoch.
    """
    training = np.union1d(fold.fit, fold.valid) if fold.scaled is not None else fold.fit
    S = torch.from_numpy(StandardScaler().fit(X[training].astype(np.float64)).transform(X).astype(np.float32))
    hot = torch.from_numpy(targets if targets.ndim == 2 else np.eye(n_classes)[targets]).float()
    sizes = [X.shape[1], protocol.hidden, n_classes] if protocol.probe == "mlp" else [X.shape[1], n_classes]
    layers = [torch.nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    for layer in layers:
        bound = layer.in_features**-0.5  # what reset_parameters draws
        for parameter in (layer.weight, layer.bias):
            parameter.data.uniform_(-bound, bound, generator=generator)
    own = torch.Generator().manual_seed(int(torch.randint(1 << 62, (), generator=generator)))
    parameters = [value for layer in layers for value in layer.parameters()]
    optimizer = torch.optim.Adam(
        parameters, lr=protocol.learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=protocol.weight_decay
    )

    def model(rows, training=False):
        for layer in layers[:-1]:
            rows = layer(rows).relu()
            if training:
                kept = torch.rand(rows.shape, generator=own) >= protocol.dropout
                rows = rows * kept / (1 - protocol.dropout)
        return layers[-1](rows)

    def loss(logits, wanted):
        if targets.ndim == 2:
            return torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted)
        return -(wanted * logits.log_softmax(1)).mean()

    best, best_epoch, kept = -1.0, 0, None
    batch = min(protocol.batch_size, len(training))
    for epoch in range(1, protocol.max_epochs + 1):
        order = fold.fit[torch.randperm(len(fold.fit), generator=own).numpy()]
        for start in range(0, len(order), batch):
            clips = order[start : start + batch]
            optimizer.zero_grad()
            loss(model(S[clips], training=True), hot[clips]).backward()
            optimizer.step()
        with torch.no_grad():
            value = score("accuracy" if targets.ndim == 1 else "mAP", targets[fold.valid], model(S[fold.valid]).numpy())
            if value >= best:
                best, best_epoch, kept = value, epoch, model(S[fold.test])
        if epoch - best_epoch >= protocol.patience:
            break
    return (kept.softmax(1) if targets.ndim == 1 else kept.sigmoid()).numpy(), best_epoch, epoch


def held_to_the_loop(protocol, X, targets, n_classes, **where):
    """Every run of `evaluate` decides as the plain loop does; returns the (kept, last) epochs."""
    n = len(X)
    found = evaluate(protocol, X, targets, range(n_classes), clip_ids=ids(n), **where)
    runs = {(run.fold, run.seed): run for run in found.runs}
    plan = {"split": None, "fold": None, "group": ids(n)} | {k: v for k, v in where.items() if k != "metric"}
    epochs = []
    for seed in protocol.seeds:
        generator = torch.Generator().manual_seed(seed)
        plans, _ = plan_folds(protocol, targets, clip_ids=ids(n), seed=seed, **plan)
        for one in plans:
            expected, kept, last = plain_loop(protocol, X, targets, one, n_classes, generator)
            run = runs[one.fold, seed]
            assert run.setting == f"lr={protocol.learning_rate:g} epoch={kept} of {last}"
            np.testing.assert_array_equal(run.predicted, expected.argmax(1))
            np.testing.assert_allclose(run.scores, expected, atol=2e-4)
            epochs.append((kept, last))
    assert len(runs) == len(epochs)
    return epochs


@pytest.mark.parametrize("name", ["paper", "mlp"])
def test_same_as_one_configuration_at_a_time(name):
    X, targets = embeddings(330, 40, 5)
    # unequal folds: the problems have different numbers of batches
    fold = np.where(np.arange(330) < 150, 1, folds(330, 3) % 2 + 2)
    protocol = dataclasses.replace(
        get_protocol(name), name="short", max_epochs=25, patience=6, batch_size=64, hidden=16, learning_rate=3e-3
    )
    epochs = held_to_the_loop(protocol, X, targets, 5, fold=fold)
    assert len({last for _, last in epochs}) > 1
    assert any(kept < last for kept, last in epochs)


@pytest.mark.parametrize("n_classes", [2, 6])
def test_the_shipped_settings_decide_as_the_plain_loop(n_classes):
    X, targets = embeddings(240, 24, n_classes, signal=1.0)
    protocol = get_protocol("paper")
    epochs = held_to_the_loop(protocol, X, targets, n_classes, fold=folds(240, 3))
    assert max(last for _, last in epochs) > 60  # ties do not stop it


def test_a_valid_part_of_the_data_set_is_used_and_not_scaled_on():
    X, targets = embeddings(300, 24, 4)
    split = parts(300)
    X[split == "valid"] *= 3  # a scaler that saw it would be another one
    protocol = dataclasses.replace(get_protocol("paper"), name="short", max_epochs=40, learning_rate=3e-3)
    held_to_the_loop(protocol, X, targets, 4, split=split)


def test_multi_label_decides_as_the_plain_loop():
    X, targets = embeddings(260, 24, 4)
    hot = np.eye(4, dtype=np.float32)[targets]
    hot[np.arange(260), (targets * 3 + 1) % 4] = 1
    protocol = dataclasses.replace(get_protocol("paper"), name="short", max_epochs=40, learning_rate=3e-3)
    held_to_the_loop(protocol, X, hot, 4, fold=folds(260, 2), metric="mAP")


def test_an_equal_score_counts_as_better_and_patience_starts_again():
    X, targets = embeddings(120, 8, 2, signal=50)  # every epoch after the first few is right on all validation clips
    found = evaluate("paper", X, targets, range(2), fold=folds(120, 2), clip_ids=ids(120), lr=1e-2)
    assert {run.setting for run in found.runs} == {"lr=0.01 epoch=200 of 200"}
    assert found.mean > 0.95
    assert not any("still improving" in warning for warning in found.warnings)


def test_two_separable_classes_are_told_apart():
    X, targets = embeddings(200, 20, 2, signal=4)
    assert evaluate("paper", X, targets, "ab", fold=folds(200, 2), clip_ids=ids(200), lr=1e-2).mean > 0.95


def test_the_validation_part_is_drawn_by_clip_until_it_holds_each_class():
    _, targets = embeddings(200, 4, 6)
    group = (np.arange(200) // 40).astype(str)
    plans, told = plan_folds(
        get_protocol("paper"), targets, split=None, fold=folds(200, 2), group=group, clip_ids=ids(200), seed=42
    )
    assert not told
    for one in plans:
        training = np.union1d(one.fit, one.valid)
        assert len(one.valid) == int(np.ceil(0.1 * len(training)))
        assert set(targets[one.valid]) == set(range(6))
        assert set(group[one.valid]) & set(group[one.fit])  # not by group
        np.testing.assert_array_equal(one.scaled, training)
    assert not np.array_equal(plans[0].valid, plans[1].valid)


def test_a_class_that_no_draw_can_hold_ends_the_drawing():
    targets = np.arange(40)  # 40 classes of one clip: four validation clips cannot hold them
    fit, valid, _ = draw_validation(np.arange(40), targets, 0.1, np.random.RandomState(0))
    assert (len(fit), len(valid)) == (36, 4)
    fit, valid, warning = draw_validation(np.arange(1), targets, 0.1, np.random.RandomState(0))
    assert len(fit) == len(valid) == 1
    assert "too few training clips" in warning


def test_folds_of_a_seed_start_from_different_weights_and_the_first_from_its_seed():
    _, targets = embeddings(90, 12, 3)
    plans, _ = plan_folds(
        get_protocol("paper"), targets, split=None, fold=folds(90, 3), group=ids(90), clip_ids=ids(90), seed=43
    )
    (first, one), (second, other), _ = _draws([12, 3], plans)
    torch.manual_seed(43)
    model = torch.nn.Linear(12, 3)
    torch.testing.assert_close(first, [model.weight.data, model.bias.data])
    assert not torch.equal(first[0], second[0])
    assert one.initial_seed() != other.initial_seed()


@pytest.mark.parametrize("name", ["paper", "mlp"])
def test_neither_neighbours_nor_threads_change_a_run(name, monkeypatch):
    X, targets = embeddings(150, 20, 3)
    protocol = dataclasses.replace(get_protocol(name), name="short", max_epochs=15, hidden=32, learning_rate=3e-3)
    where = {"fold": folds(150, 3), "clip_ids": ids(150)}
    together = evaluate(protocol, X, targets, range(3), **where)
    monkeypatch.setattr(adam, "WORKING_BYTES", 1)  # one problem at a time
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        alone = evaluate(protocol, X, targets, range(3), **where)
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(together.runs, alone.runs, strict=True):
        assert a.setting == b.setting
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)


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
