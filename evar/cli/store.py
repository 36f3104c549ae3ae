"""`evar store`: what embeddings are on disk, whether they are whole, and removing what is not wanted."""

from __future__ import annotations

from pathlib import Path

import click

from evar.cli.options import Group, embeddings_option, format_option, print_json, refuse_folders, table, with_options
from evar.errors import EvarError


@click.group(cls=Group)
def store_command() -> None:
    """List, verify, prune or re-key stored embeddings.

    \b
    Examples:
      evar store list
      evar store verify
      evar store prune --incomplete
    """


def _folder(embeddings: str) -> Path:
    """The folder of a store that is there: of a name with a slip it must not be said that all in it is well."""
    if not Path(embeddings).is_dir():
        what = "is not a folder" if Path(embeddings).exists() else "is not there"
        raise EvarError(f"--embeddings {embeddings} {what}: give the folder that 'evar run' was given")
    return Path(embeddings)


@store_command.command("list")
@with_options(embeddings_option, format_option)
def list_sets(embeddings: str, output: str) -> None:
    """List the stored embeddings.

    \b
    Example:
      evar store list --embeddings /scratch/embeddings
    """
    from evar.files import human_bytes
    from evar.store import Store

    sets = Store(_folder(embeddings)).list_sets()
    if output == "json":
        return print_json(sets)
    rows = [
        [
            one["encoder"],
            one["task"],
            f"{one['clips']:,}",
            " ".join(f"{layer}/{pooling}[{dim}]" for layer, pooling, dim in one["matrices"]),
            human_bytes(one["bytes"]),
            "complete" if one["complete"] else "damaged" if one["problem"] else "unfinished",
            one["key"],
        ]
        for one in sets
    ]
    click.echo(table(rows, ["encoder", "task", "clips", "matrices", "size", "state", "key"], right={2, 4}))
    click.echo(f"\n{len(sets)} sets, {human_bytes(sum(one['bytes'] for one in sets))}")


@store_command.command("verify")
@with_options(embeddings_option)
@click.pass_context
def verify(ctx: click.Context, embeddings: str) -> None:
    """Recompute every checksum; says what is altered or unfinished. Exits 1 when something is altered.

    \b
    Example:
      evar store verify
    """
    from evar.cli.data import bar
    from evar.store import Store

    with bar("verify", "B") as progress:
        problems = Store(_folder(embeddings)).verify(progress)
    for problem in problems:
        click.echo(str(problem))
    click.echo("all stored embeddings are whole" if not problems else f"{len(problems)} problems")
    ctx.exit(1 if problems else 0)


@store_command.command("prune")
@with_options(
    embeddings_option,
    click.option("--incomplete", is_flag=True, help="Remove unfinished sets and damaged ones."),
    click.option("--key", metavar="KEY", help="Remove the set of this key (as listed)."),
    click.option(
        "--older", type=click.FloatRange(min=0), metavar="DAYS", help="Remove sets not written for this many days."
    ),
    click.option("--dry-run", is_flag=True, help="Only say what would go."),
)
@click.pass_context
def prune(
    ctx: click.Context, embeddings: str, incomplete: bool, key: str | None, older: float | None, dry_run: bool
) -> None:
    """Remove stored embeddings. What is in use by a running evar stays.

    \b
    Example:
      evar store prune --incomplete --dry-run
    """
    from evar.files import human_bytes
    from evar.store import Store

    if not (incomplete or key or older is not None):
        raise click.UsageError("say what to remove: --incomplete, --key KEY or --older DAYS", ctx)
    freed = Store(_folder(embeddings)).prune(incomplete=incomplete, key=key, older_days=older, dry_run=dry_run)
    click.echo(f"{human_bytes(freed)} {'would be' if dry_run else ''} freed".replace("  ", " "))


@store_command.command("migrate")
@click.argument("encoders", nargs=-1)
@with_options(embeddings_option, click.option("--dry-run", is_flag=True, help="Only say what would be re-keyed."))
def migrate(encoders: tuple[str, ...], embeddings: str, dry_run: bool) -> None:
    """Give embeddings that an earlier evar stored the names that this one looks for. Nothing is encoded, no data moves.

    ENCODERS: those that are not loaded by their label, with their weights. What was made by other weights or code stays as
    it is, and is named.

    \b
    Examples:
      evar store migrate --dry-run
      evar store migrate byola-v2@my.safetensors --embeddings /scratch/embeddings
    """
    from evar.migration import migrate_store

    refuse_folders(encoders, "--embeddings")
    report = migrate_store(_folder(embeddings), encoders, dry_run)
    click.echo("\n".join(report.lines(dry_run)))
