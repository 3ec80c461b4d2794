"""The commands that talk to the Hub: publish and pull."""

from __future__ import annotations

from typing import Any

import rich_click as click

from bonsai_quant.cli import completion, next_steps
from bonsai_quant.cli import options as shared
from bonsai_quant.cli.help import Command
from bonsai_quant.cli.output import common_options, open_output, shown_progress
from bonsai_quant.cli.types import Repo
from bonsai_quant.cli.views import hub as views
from bonsai_quant.publishing.publish import plan_publication
from bonsai_quant.publishing.publish import publish as run_publish
from bonsai_quant.publishing.pull import pull as run_pull

PLANNED = ("report", "score", "license", "incomplete")
"""The options that decide what is published, not how."""


@click.command(cls=Command, goes_on=True, first="dry_run private create_pr report score")
@click.argument(
    "pack",
    type=shared.PACK,
    shell_complete=completion.pack,
    help="One pack: a folder in one format, such as packs/mlx.",
)
@click.argument(
    "repo",
    type=Repo(),
    metavar="OWNER/NAME",
    help="The repo; a new one is made if it is not there.",
)
@click.option(
    "--private", is_flag=True, help="Make the new repo private; an earlier one must be so."
)
@click.option("--revision", metavar="BRANCH", help="Existing branch to commit to. [default: main]")
@click.option("--create-pr", is_flag=True, help="Open a pull request with the commit.")
@click.option("--into-existing", is_flag=True, help="Accept a repo that holds other files.")
@click.option(
    "--report",
    metavar="FOLDER",
    help="Output folder of report, for the model card.",
    shell_complete=completion.file,
)
@click.option(
    "--score",
    metavar="FILE",
    help="File that score --json printed, for the model card.",
    shell_complete=completion.file,
)
@click.option(
    "--license", metavar="ID", help="License of the pack, where the source's card names none."
)
@click.option("--incomplete", is_flag=True, help="Accept a pack without text encoder and VAE.")
@click.option(
    "-n", "--dry-run", is_flag=True, help="List the files and show the card; send nothing."
)
@common_options
def publish(pack: str, repo: str, dry_run: bool, **options: Any) -> None:
    """Send a pack to the Hub.

    The pack is verified, sent as one commit, and every file is then compared with what the Hub
    holds. Run it again after an interruption: it goes on, and never makes a second commit.

    \b
    # what would be sent
    bonsai-quant publish packs/mlx YOUR-NAME/mini-klein-ternary-mlx --dry-run
    # send it; log in first with: hf auth login
    bonsai-quant publish packs/mlx YOUR-NAME/mini-klein-ternary-mlx --private
    """
    show = open_output(options)
    if dry_run:
        chosen = {k: options[k] for k in PLANNED}
        with shown_progress(show) as progress:
            planned = plan_publication(pack, repo, progress=progress, **chosen)
        show(views.listed(planned), next_step=next_steps.typed(without=["dry_run"]))
        return
    with shown_progress(show) as progress:
        result = run_publish(pack, repo, progress=progress, **options)
    name = repo.rpartition("/")[2]
    show(views.published(result), next_step=next_steps.command("pull", repo, "-o", f"{name}-again"))


@click.command(cls=Command, goes_on=True)
@click.argument(
    "repo",
    type=Repo(),
    metavar="OWNER/NAME",
    help="The repo; OWNER/NAME@REVISION for one revision.",
)
@click.option("-o", "--out", metavar="OUT", help="Output folder, a new one. [default: NAME]")
@click.option("--revision", metavar="REVISION", help="Branch, tag or commit. [default: main]")
@shared.overwrite_pack
@common_options
def pull(repo: str, **options: Any) -> None:
    """Download a pack from the Hub, and check it.

    All files are of one commit, and every file is checked against its hash.

    \b
    bonsai-quant pull YOUR-NAME/mini-klein-ternary-mlx -o pulled
    """
    show = open_output(options)
    with shown_progress(show) as progress:
        result = run_pull(repo, progress=progress, **options)
    show(views.pulled(result), next_step=next_steps.paint(result.out))
