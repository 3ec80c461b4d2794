"""The commands that meet the Hub: publish and pull."""

from __future__ import annotations

from typing import Any

import click

from bonsai_quant.cli.output import common, open_output, progress_bar
from bonsai_quant.cli.views import hub as views
from bonsai_quant.publishing.publish import plan_publication
from bonsai_quant.publishing.publish import publish as run_publish
from bonsai_quant.publishing.pull import pull as run_pull

PLANNED = ("report", "score", "license", "incomplete")
"""The options that decide what is published, not how."""


@click.command()
@click.argument("pack")
@click.argument("repo", metavar="OWNER/NAME")
@click.option("--private", is_flag=True, help="Of a new repo; one that is there must be so.")
@click.option("--revision", metavar="BRANCH", help="A branch that is there [main].")
@click.option("--create-pr", is_flag=True, help="In a pull request.")
@click.option("--into-existing", is_flag=True, help="Beside files of others.")
@click.option("--report", metavar="FOLDER", help="What `report` made of it, for the card.")
@click.option("--score", metavar="FILE", help="What `score --json` printed, for the card.")
@click.option("--license", metavar="ID", help="Where the card of the source says none.")
@click.option("--incomplete", is_flag=True, help="Accept a pack without text encoder and VAE.")
@click.option("-n", "--dry-run", is_flag=True, help="Only list the files and show the card.")
@common
def publish(pack: str, repo: str, dry_run: bool, **options: Any) -> None:
    """Publish PACK, one folder, as a repo of the Hub: verified, one commit, then compared.

    Running it again after an interruption goes on, and never makes a second commit.

    \b
    bonsai-quant publish packs/mlx my-name/my-model-ternary-mlx --report report -n
    bonsai-quant publish packs/mlx my-name/my-model-ternary-mlx --report report
    """
    show = open_output(options)
    with progress_bar("verifying", show) as progress:
        if dry_run:
            chosen = {k: options[k] for k in PLANNED}
            show(views.listed(plan_publication(pack, repo, progress=progress, **chosen)))
            return
        made = run_publish(pack, repo, progress=progress, **options)
    show(views.published(made))


@click.command()
@click.argument("repo", metavar="OWNER/NAME[@REVISION]")
@click.option("-o", "--out", metavar="OUT", help="A new folder [./NAME].")
@click.option("--revision", help="Branch, tag or commit.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier pack of this program.")
@common
def pull(repo: str, **options: Any) -> None:
    """Bring a pack from the Hub, of one commit, every file checked against its hash.

    \b
    bonsai-quant pull my-name/my-model-ternary-mlx -o pack
    """
    show = open_output(options)
    with progress_bar("fetching", show) as progress:
        made = run_pull(repo, progress=progress, **options)
    show(views.pulled(made))
