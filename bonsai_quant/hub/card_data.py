"""The metadata at the top of a model card, written by the Hub's own library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Result:
    """One figure of a model on a benchmark, as the Hub shows it beside the card.

    dataset_id: short, for the Hub's filters.  metric_id: likewise.  args: how it was measured.
    """

    task: str
    dataset: str
    dataset_id: str
    split: str
    metric: str
    metric_id: str
    value: float
    args: Mapping[str, Any]


def front_matter(
    fields: Mapping[str, Any], *, name: str = "", results: Sequence[Result] = ()
) -> str:
    """YAML without its `---` lines. fields: as the Hub names them; None is left out.

    name: the model's, in whose name the results stand.
    """
    from huggingface_hub import EvalResult, ModelCardData

    shown = [
        EvalResult(
            task_type=r.task,
            dataset_type=r.dataset_id,
            dataset_name=r.dataset,
            dataset_split=r.split,
            dataset_args=dict(r.args),
            metric_type=r.metric_id,
            metric_name=r.metric,
            metric_value=r.value,
        )
        for r in results
    ]
    more = {"model_name": name, "eval_results": shown} if shown else {}
    return str(ModelCardData(**{**fields, **more}).to_yaml()) + "\n"
