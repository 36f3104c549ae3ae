"""Tasks: a card (what is asked) and a folder (the audio) become a table of clips. Importing this imports no pandas."""

from __future__ import annotations

from evar.datasets.card import Card, Download, find_card, list_cards, list_suites
from evar.datasets.task import Task, load_task

__all__ = ["Card", "Download", "Task", "find_card", "list_cards", "list_suites", "load_task"]
