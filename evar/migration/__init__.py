"""What an earlier evar stored, under the names that this one gives: the store and the results are re-keyed, not made again."""

from evar.migration.results import migrate_results
from evar.migration.store import migrate_store

__all__ = ["migrate_results", "migrate_store"]
