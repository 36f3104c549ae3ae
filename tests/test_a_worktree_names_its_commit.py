"""Rows name the commit that they were measured with, from a worktree of git too: there `.git` is a file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from evar.provenance import git_commit; print(git_commit())"


def test_a_worktree_names_its_commit(tmp_path):
    source = Path(__file__).resolve().parents[1] / "evar"
    main, tree = tmp_path / "main", tmp_path / "tree"
    (main / "evar").mkdir(parents=True)
    for name in ("__init__.py", "provenance.py"):
        (main / "evar" / name).write_text((source / name).read_text())

    def git(*words, folder=main):
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words]
        return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    git("worktree", "add", "-q", "-b", "other", str(tree))
    for folder in (main, tree):
        said = subprocess.run([sys.executable, "-c", PROGRAM, str(folder)], capture_output=True, text=True, check=True)
        assert said.stdout.strip() == git("rev-parse", "HEAD", folder=folder)[:12]
