"""Predictions of one cell as Parquet (schema: docs/architecture.md), with a digest that tells a damaged table."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

CONTENT = b"evar_rows_sha256"
"""The key of the file's metadata that holds the digest; tables that were written before there was one lack it."""


def to_parquet(predictions: pd.DataFrame) -> bytes:
    """A Parquet file with what pandas keeps in one, and the digest of what it says."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = pa.Table.from_pandas(predictions, preserve_index=False)
    about = {b"PANDAS_ATTRS": json.dumps(predictions.attrs), CONTENT: content_digest(predictions)}
    stream = pa.BufferOutputStream()
    pq.write_table(made.replace_schema_metadata({**(made.schema.metadata or {}), **about}), stream)
    return stream.getvalue().to_pybytes()


def content_digest(predictions: pd.DataFrame) -> str:
    """SHA-256 (hex) of attributes, column names and values; of scores, as float64, whatever width they are kept in."""
    import numpy as np

    sha256 = hashlib.sha256(json.dumps([predictions.attrs, list(predictions.columns)]).encode())
    for name, column in predictions.items():
        if name == "scores":  # [clips, classes] may be gigabytes as text
            for cell in column:
                sha256.update(np.asarray(cell, "<f8").tobytes())
        else:
            sha256.update(json.dumps(column.tolist(), default=lambda array: array.tolist()).encode())
    return sha256.hexdigest()


def is_parquet(path: Path) -> bool:
    """Whether a file has both ends of a Parquet file: it is neither missing nor torn."""
    with contextlib.suppress(OSError), open(path, "rb") as stream:
        if stream.read(4) == b"PAR1":
            stream.seek(-4, os.SEEK_END)
            return stream.read() == b"PAR1" and stream.tell() >= 12
    return False
