"""5 folds × 7 strengths of C on [2000, 2048] features of 50 classes: evar's `fair` against scikit-learn's LogisticRegression.

Both standardise each fold on its training part, fit the 35 candidates on three folds, choose C on the next fold and refit on
four. scikit-learn runs as a user would run it, one float32 fit after the other, threads in its BLAS: once at its default tolerance,
which stops so early at large C that it costs accuracy, and once at tol=1e-6, near the optimum, where its accuracy equals evar's.
The data have a power-law spectrum and classes that overlap.
"""

from __future__ import annotations

import time

import common
import numpy as np
from probe_data import embeddings

TARGETS = {
    "search": {
        "what": "`fair`, 5 folds x 7 strengths, against scikit-learn at the same accuracy",
        "least": 5,
        "unit": "x",
    },
}


def scikit_learn(X, y, fold, strengths, **options):
    """Test predictions by fold, and the chosen strengths."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    predicted, chosen = np.zeros_like(y), []
    for f in range(1, 6):
        following = f % 5 + 1
        fit, valid, train, test = (fold != f) & (fold != following), fold == following, fold != f, fold == f
        scaler = StandardScaler().fit(X[fit])
        A, B = scaler.transform(X[fit]), scaler.transform(X[valid])
        scores = [LogisticRegression(C=C, **options).fit(A, y[fit]).score(B, y[valid]) for C in strengths]
        chosen.append(strengths[int(np.argmax(scores))])
        scaler = StandardScaler().fit(X[train])
        model = LogisticRegression(C=chosen[-1], **options).fit(scaler.transform(X[train]), y[train])
        predicted[test] = model.predict(scaler.transform(X[test]))
    return predicted, chosen


def main() -> None:
    quick = common.parser(__doc__).parse_args().quick
    n, d, classes = (400, 64, 5) if quick else (2000, 2048, 50)

    from evar.probes import evaluate, get_protocol

    X, y, fold = embeddings(n, d, classes)
    names = [f"{i:04d}" for i in range(len(y))]
    evaluate(
        "fair", X[:200, :64], y[:200], range(classes), fold=fold[:200], clip_ids=names[:200]
    )  # imports, thread pools
    begun = time.perf_counter()
    found = evaluate("fair", X, y, range(classes), fold=fold, clip_ids=names)
    ours = time.perf_counter() - begun
    mine = np.zeros_like(y)
    for run in found.runs:
        mine[run.test] = run.predicted
    rows = [
        {
            "engine": "evar fair",
            "seconds": ours,
            "accuracy": found.mean,
            "C": " ".join(r.setting[2:] for r in found.runs),
        }
    ]
    for name, options in (("LogisticRegression", {}), ("LogisticRegression(tol=1e-6)", {"tol": 1e-6})):
        begun = time.perf_counter()
        predicted, chosen = scikit_learn(X, y, fold, get_protocol("fair").strengths, max_iter=5000, **options)
        theirs = time.perf_counter() - begun
        rows.append(
            {
                "engine": name,
                "seconds": theirs,
                "accuracy": float(np.mean(predicted == y)),
                "C": " ".join(f"{C:g}" for C in chosen),
                "seconds / evar's": theirs / ours,
                "same predictions": f"{np.mean(mine == predicted):.1%}",
            }
        )
    found = {"search": rows[-1]["seconds / evar's"]}
    common.finish(f"probe search: 5 folds x 7 strengths, [{n}, {d}], {classes} classes", rows, TARGETS, found)


if __name__ == "__main__":
    main()
