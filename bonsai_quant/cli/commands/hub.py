"""The commands that talk to the Hub: publish and pull."""

from __future__ import annotations

from typing import Any

import click

from bonsai_quant.cli import completion
from bonsai_quant.cli import options as shared
from bonsai_quant.cli.output import common_options, open_output, shown_progress
from bonsai_quant.cli.views import hub as views
from bonsai_quant.publishing.publish import plan_publication
from bonsai_quant.publishing.publish import publish as run_publish
from bonsai_quant.publishing.pull import pull as run_pull

PLANNED = ("report", "score", "license", "incomplete")
"""The options that decide what is published, not how."""


@click.command()
@click.argument("pack", shell_complete=completion.pack)
@click.argument("repo", metavar="OWNER/NAME")
@click.option("--private", is_flag=True, help="Make a new repo private; an old one must be so.")
@click.option("--revision", metavar="BRANCH", help="Existing branch to commit to [main].")
@click.option("--create-pr", is_flag=True, help="Open a pull request with the commit.")
@click.option("--into-existing", is_flag=True, help="Accept a repo that holds other files.")
@click.option(
    "--report",
    metavar="FOLDER",
    help="Output folder of `report`, for the card.",
    shell_complete=completion.file,
)
@click.option(
    "--score",
    metavar="FILE",
    help="File that `score --json` printed, for the card.",
    shell_complete=completion.file,
)
@click.option("--license", metavar="ID", help="License, where the source's card names none.")
@click.option("--incomplete", is_flag=True, help="Accept a pack without text encoder and VAE.")
@click.option("-n", "--dry-run", is_flag=True, help="List the files, show the card, send nothing.")
@common_options
def publish(pack: str, repo: str, dry_run: bool, **options: Any) -> None:
    """Publish PACK, one folder, as a repo of the Hub: verified, one commit, then compared.

    Run it again after an interruption: it goes on, and never makes a second commit.

    \b
    bonsai-quant publish packs/mlx my-name/my-model-ternary-mlx --report report -n
    bonsai-quant publish packs/mlx my-name/my-model-ternary-mlx --report report
    """
    show = open_output(options)
    with shown_progress(show) as progress:
        if dry_run:
            chosen = {k: options[k] for k in PLANNED}
            show(views.listed(plan_publication(pack, repo, progress=progress, **chosen)))
            return
        result = run_publish(pack, repo, progress=progress, **options)
    show(views.published(result))


@click.command()
@click.argument("repo", metavar="OWNER/NAME[@REVISION]")
@click.option("-o", "--out", metavar="OUT", help="Output folder, a new one [./NAME].")
@click.option("--revision", help="Branch, tag or commit of the repo.")
@shared.overwrite_pack
@common_options
def pull(repo: str, **options: Any) -> None:
    """Download a pack from one commit on the Hub, and check every file against its hash.

    \b
    bonsai-quant pull my-name/my-model-ternary-mlx -o pack
    """
    show = open_output(options)
    with shown_progress(show) as progress:
        result = run_pull(repo, progress=progress, **options)
    show(views.pulled(result))
