"""`mlp` and `knn` against scikit-learn's MLPClassifier and KNeighborsClassifier: 5 folds on [2000, 1024] features of 50 classes.

Both standardise on the training part. mlp: one hidden layer of 512, Adam, batches of 200, early stop on a tenth of the training
clips with patience 20, 3 seeds. knn: cosine distance; k chosen on the next fold, then all training folds vote. scikit-learn fits
one configuration after the other, threads in its BLAS, at its own defaults otherwise. `fair` and `paper` have benchmarks of
their own (probe_search.py, probe_paper.py).
"""

from __future__ import annotations

import time

import common
import numpy as np

TARGETS = {
    "mlp": {"what": "`mlp`, 3 seeds x 5 folds, against MLPClassifier", "least": 1, "unit": "x"},
    "knn": {"what": "`knn`, 5 folds x 6 k, against KNeighborsClassifier", "least": 1, "unit": "x"},
}


def main() -> None:
    words = common.parser(__doc__)
    words.add_argument("--runs", type=int, default=3)
    options = words.parse_args()
    n, d, classes, runs = (400, 64, 5, 1) if options.quick else (2000, 1024, 50, options.runs)

    from probe_data import embeddings

    from evar.probes import evaluate

    X, y, fold = embeddings(n, d, classes)
    names = [f"{i:05d}" for i in range(n)]
    rows, found = [], {}
    for protocol, rival in (("mlp", mlp_classifier), ("knn", k_neighbours)):
        evaluate(protocol, X[:200, :64], y[:200] % 5, range(5), fold=fold[:200], clip_ids=names[:200], seeds=[0])
        scores, seconds = {}, {"evar": [], "scikit-learn": []}
        for _ in range(1 if protocol == "mlp" else runs):  # mlp takes minutes
            begun = time.perf_counter()
            scores["evar"] = evaluate(protocol, X, y, range(classes), fold=fold, clip_ids=names).mean
            middle = time.perf_counter()
            scores["scikit-learn"] = rival(X, y, fold)
            seconds["evar"].append(middle - begun)
            seconds["scikit-learn"].append(time.perf_counter() - middle)
        found[protocol] = common.ratio(seconds["scikit-learn"], seconds["evar"])
        rows += [
            {"protocol": protocol, "engine": name, "seconds": common.Spread.of(seconds[name]), "accuracy": scores[name]}
            for name in seconds
        ]
        rows[-2]["scikit-learn / evar"] = found[protocol]
    common.finish(f"mlp and knn, 5 folds, [{n}, {d}], {classes} classes", rows, TARGETS, found)


def standardised(X: np.ndarray, fit: np.ndarray) -> np.ndarray:
    from sklearn.preprocessing import StandardScaler

    return StandardScaler().fit(X[fit]).transform(X)


def mlp_classifier(X: np.ndarray, y: np.ndarray, fold: np.ndarray) -> float:
    from sklearn.neural_network import MLPClassifier

    from evar.probes import get_protocol

    chosen, scores = get_protocol("mlp"), []
    words = {"alpha": chosen.weight_decay, "batch_size": chosen.batch_size, "learning_rate_init": chosen.learning_rate}
    words |= {"max_iter": chosen.max_epochs, "n_iter_no_change": chosen.patience, "early_stopping": True}
    for seed in chosen.seeds:
        for f in range(1, 6):
            rows, model = standardised(X, fold != f), MLPClassifier((chosen.hidden,), random_state=seed, **words)
            scores.append(model.fit(rows[fold != f], y[fold != f]).score(rows[fold == f], y[fold == f]))
    return float(np.mean(scores))


def k_neighbours(X: np.ndarray, y: np.ndarray, fold: np.ndarray) -> float:
    from sklearn.neighbors import KNeighborsClassifier

    from evar.probes import get_protocol

    scores = []
    for f in range(1, 6):
        valid, test = fold == f % 5 + 1, fold == f
        rows, fit, train = standardised(X, ~valid & ~test), ~valid & ~test, ~test

        def model(k: int, rows=rows, part=fit):
            return KNeighborsClassifier(k, metric="cosine").fit(rows[part], y[part])

        k = max(get_protocol("knn").neighbours, key=lambda k: model(k).score(rows[valid], y[valid]))
        rows = standardised(X, train)
        scores.append(model(k, rows, train).score(rows[test], y[test]))
    return float(np.mean(scores))


if __name__ == "__main__":
    main()
