"""The stored embeddings behind one row, with their labels, and their projection to a plane."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evar.errors import EvarError, unknown
from evar.reporting.report_rows import clips_per_second, command_of
from evar.results import Results
from evar.store_format import Meta, read_meta, set_folders

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from evar.store import Embeddings

METHODS = ("pca", "tsne", "umap")
MOST_POINTS = 1000
_SEED = 0


@dataclass(frozen=True, eq=False)
class Points:
    """Some clips of one cell in a plane.

    xy: float32 [n, 2]; labels, clip_ids: [n]; right: int8 [n], 1 recognised, 0 not, -1 not tested or multi-label.
    method: of METHODS; explained: share of the variance that the two axes hold (pca), else NaN; n_clips: before thinning.
    """

    xy: np.ndarray
    labels: tuple[str, ...]
    clip_ids: tuple[str, ...]
    right: np.ndarray
    method: str
    explained: float
    n_clips: int


@dataclass(frozen=True, eq=False)
class Labelled:
    """The embeddings of one cell, row by row: which row of the store, its clip, label, and whether it was recognised."""

    embeddings: Embeddings
    row: pd.Series
    rows: np.ndarray
    clip_ids: np.ndarray
    labels: np.ndarray
    right: np.ndarray

    def project(self, method: str, most: int = MOST_POINTS) -> Points:
        """At most `most` clips (drawn with a fixed seed) in a plane, each feature standardised first, as the probes do.

        t-SNE (van der Maaten and Hinton, 2008) starts from the principal axes with perplexity min(30, n / 4).
        EvarError: fewer than 3 clips, an unknown method, or `umap` where umap-learn is not installed.
        """
        import numpy as np

        if method not in METHODS:
            raise unknown("projection", method, METHODS)
        n = len(self.rows)
        kept = np.arange(n)
        if n > most:
            kept = np.sort(np.random.default_rng(_SEED).choice(n, most, replace=False))
        if len(kept) < 3:
            raise EvarError(f"{self.row['encoder']} on {self.row['task']}: {len(kept)} clips are too few for a figure")
        X = self.embeddings.rows(self.row["layers"], self.row["pooling"], self.rows[kept]).astype(np.float64)
        scale = X.std(axis=0)
        X = (X - X.mean(axis=0)) / np.where(scale > 0, scale, 1.0)
        xy, explained = _project(X, method)
        return Points(
            xy.astype(np.float32),
            tuple(map(str, self.labels[kept])),
            tuple(map(str, self.clip_ids[kept])),
            self.right[kept],
            method,
            explained,
            n,
        )


def labelled(
    results: Results,
    row: pd.Series,
    embeddings: str | Path,
    *,
    data: Sequence[str] = (),
    tasks_dir: str | None = None,
    fold: int | None = None,
) -> Labelled:
    """The embeddings that a leaderboard row was measured on, of its test clips (or those of one fold).

    k folds need only the stored predictions; a fixed split needs the dataset (`data`, `tasks_dir`) to tell which rows of
    the store are its test clips. Labels of a multi-label clip are joined by `+`.
    EvarError, one line with the command to type: set gone, dataset gone or changed, fold that is not there.
    """
    import numpy as np

    clips = _clips(results, row, Path(embeddings), data, tasks_dir)
    found = _find(Path(embeddings), row, len(clips))
    predictions = results.predictions(row["cell_id"])
    tested = clips["clip_id"].isin(set(predictions["clip_id"])).to_numpy()
    if fold is not None:
        if row["n_folds"] < 2:
            raise EvarError(f"{row['task']} has a fixed split, no folds: leave --fold out")
        of_fold = set(predictions["clip_id"][predictions["fold"] == fold])
        if not of_fold:
            there = ", ".join(map(str, sorted(set(predictions["fold"]))))
            raise EvarError(f"{row['task']} has no fold {fold}: choose of {there}")
        tested = tested & clips["clip_id"].isin(of_fold).to_numpy()
    rows = np.flatnonzero(tested)
    ids = clips["clip_id"].to_numpy()[rows]
    return Labelled(found, row, rows, ids, clips["label"].to_numpy()[rows], _right(predictions, ids))


def with_costs(rows: pd.DataFrame, embeddings: str | Path, parameters: Mapping[str, int]) -> pd.DataFrame:
    """Rows with `speed` (clips per second), `dim` (numbers per embedding, from the store) and `params`; NA where unknown.

    parameters: by encoder label.
    """
    dims: dict[tuple[str, str, str], int] = {}
    for folder in set_folders(Path(embeddings)):
        with contextlib.suppress(EvarError):
            meta = read_meta(folder)
            for matrix in meta.matrices if meta is not None else ():
                dims[str(meta.settings.get("encoder_fingerprint")), matrix.layer, matrix.pooling] = matrix.dim
    import pandas as pd

    found = [dims.get((row.encoder_fingerprint, row.layers, row.pooling)) for row in rows.itertuples()]
    counts = [parameters.get(name) for name in rows["encoder"]]
    return rows.assign(
        speed=clips_per_second(rows),
        dim=pd.array(found, dtype="Int64"),
        params=pd.array(counts, dtype="Int64"),
    )


def _clips(
    results: Results, row: pd.Series, embeddings: Path, data: Sequence[str], tasks_dir: str | None
) -> pd.DataFrame:
    """clip_id and label of each row of the store's matrix: a task's clips are sorted by clip_id."""
    predictions = results.predictions(row["cell_id"])
    multilabel = "targets" in predictions
    if row["n_folds"] > 1 and not row["skipped"]:  # every clip is tested once
        clips = predictions.drop_duplicates("clip_id").sort_values("clip_id", ignore_index=True)
        label = clips["targets"].map(_joined) if multilabel else clips["target"].astype(str)
    else:
        clips = _task_clips(row, embeddings, data, tasks_dir)
        label = clips["labels"].map(_joined) if "labels" in clips else clips["label"].astype(str)
    return clips[["clip_id"]].assign(label=label)


def _joined(labels: Sequence[str]) -> str:
    return "+".join(map(str, labels)) or "none"


def _task_clips(row: pd.Series, embeddings: Path, data: Sequence[str], tasks_dir: str | None) -> pd.DataFrame:
    import pandas as pd

    from evar.datasets import find_card, load_task

    name = row["task"]
    try:
        root = None
        if row["synthetic"]:
            from evar.datasets.mini import default_root

            root = default_root(find_card(name, tasks_dir), embeddings / "minis")
        task = load_task(name, root=root, data=data, tasks_dir=tasks_dir, partial=bool(row["partial"]))
    except EvarError as error:
        raise EvarError(
            f"{name}: which stored rows are its test clips is known from the dataset: give --data (and --tasks-dir): {error}"
        ) from None
    if not pd.isna(row["limit"]):
        task = task.limited(int(row["limit"]))
    if task.fingerprint != row["task_fingerprint"]:
        raise EvarError(
            f"{name}: the dataset at {task.root} is not the one that was measured (fingerprint {task.fingerprint[:12]}, "
            f"the row has {row['task_fingerprint'][:12]}): {command_of(row)}"
        )
    return task.clips


def _find(root: Path, row: pd.Series, n_clips: int) -> Embeddings:
    """The set that the row names: its encoder, clips, log-mel statistics, duration and precision."""
    import pandas as pd

    from evar.store import Store

    wanted, given = (row["layers"], row["pooling"]), (row["norm_mean"], row["norm_std"])
    told = {column: row[column] for column in ("encoder_fingerprint", "clips_fingerprint", "precision", "duration")}
    told["normalization"] = None if any(map(pd.isna, given)) else {"mean": float(given[0]), "std": float(given[1])}
    known = bool(told["clips_fingerprint"])
    if not known:
        # In schema 1 statistics of the task are in the encoder's fingerprint, and no other clips give them.
        known = row["schema"] == 1 and row["norm"] not in ("none", "weights")
        del told["clips_fingerprint"]
    chosen: dict[str, Meta] = {}
    for folder in set_folders(root) if known else ():
        with contextlib.suppress(EvarError):
            meta = read_meta(folder)
            if meta is not None and meta.complete and not meta.ragged and meta.n_clips == n_clips:
                same = all(meta.settings.get(name) == value for name, value in told.items())
                if same and wanted in [matrix.pair for matrix in meta.matrices]:
                    chosen[meta.key] = meta
    found = Store(root).find(next(iter(chosen.values())).settings, [wanted]) if len(chosen) == 1 else None
    if found is None and not row["clips_fingerprint"]:
        raise EvarError(
            f"the row of {row['encoder']} on {row['task']} is of an earlier evar, which did not say its clips: "
            f"'evar results migrate --embeddings {root}' finds them where they are stored; else measure it again: "
            f"{command_of(row)}"
        )
    if found is None:
        raise EvarError(
            f"the embeddings of {row['encoder']} on {row['task']} ({row['layers']}, {row['pooling']}) are not in {root}: "
            f"name their folder with --embeddings, or remove predictions/{row['cell_id']}.parquet and make both again: "
            f"{command_of(row)} --embeddings {root}"
        )
    return found


def _right(predictions: pd.DataFrame, clip_ids: np.ndarray) -> np.ndarray:
    import numpy as np

    if "predicted" not in predictions:
        return np.full(len(clip_ids), -1, np.int8)
    hits = (predictions["target"] == predictions["predicted"]).groupby(predictions["clip_id"]).mean()
    shares = hits.reindex(clip_ids).to_numpy(dtype=float)
    return np.where(np.isnan(shares), -1, shares > 0.5).astype(np.int8)


def _project(X: np.ndarray, method: str) -> tuple[np.ndarray, float]:
    import numpy as np
    from sklearn.decomposition import PCA

    n, d = X.shape
    pca = PCA(min(50, n, d), svd_solver="randomized" if min(n, d) > 100 else "full", random_state=_SEED).fit(X)
    axes = pca.transform(X)
    if axes.shape[1] < 2:
        axes = np.concatenate([axes, np.zeros((n, 1))], axis=1)
    if method == "pca":
        return axes[:, :2], float(np.nansum(pca.explained_variance_ratio_[:2]))
    if method == "tsne":
        from sklearn.manifold import TSNE

        start = axes[:, :2] / max(axes[:, 0].std(), 1e-12) * 1e-4
        return TSNE(perplexity=min(30.0, n / 4), init=start, random_state=_SEED).fit_transform(axes), float("nan")
    if importlib.util.find_spec("umap") is None:
        raise EvarError("the projection umap needs umap-learn, which is not installed: pip install umap-learn")
    import umap

    return umap.UMAP(random_state=_SEED, n_jobs=1, n_neighbors=min(15, n - 1)).fit_transform(axes), float("nan")
