"""The words of `evar run` for engines, and a grid file that names one."""

from __future__ import annotations


def test_words_of_the_command(evar, tmp_path):
    assert "KEY=VALUE, found 'a'" in evar("run", "logmel", "fsdd", "--mini", "-E", "a").one_line_error()
    assert "unknown engine 'slurm'" in evar("run", "logmel", "fsdd", "--mini", "--engine", "slurm").one_line_error()
    (tmp_path / "grid.yaml").write_text(
        "encoders: [logmel]\ntasks: [fsdd]\nworkers: 2\nengine: local\nmini: true\nlimit: 20\n"
    )
    ran = evar("run", "grid.yaml")
    assert ran.code == 0, ran.err
    assert "logmel × fsdd (fair): accuracy" in ran.err
