"""The checker's judgement of pictures: by their own captions, and by those of other prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bonsai_quant.evaluation.scenes.scene import Prompt
from bonsai_quant.evaluation.scenes.world import World

from .task import Task, scenery

N_SHOWN = 2
"""Prompts of each category, and pictures of each, that are kept to be shown."""
Mark = tuple[bool, float, str]
"""Whether a picture passed, its score from 0 to 1, and what is wrong, "" where nothing is."""


@dataclass(frozen=True, slots=True)
class Marks:
    """The checker's judgement: [prompts, images] each.

    continuous: 0 to 1.  failures: the checker's word for what is wrong, "" where nothing is.
    """

    passed: NDArray[np.bool_]
    continuous: NDArray[np.float64]
    failures: NDArray[np.str_]


@dataclass(frozen=True, slots=True)
class Judged:
    """Some pictures of a task in a row. own, chance: the mark of each.

    shown: those to show, [side, side, 3] uint8 by their index in the task.
    """

    own: list[Mark]
    chance: list[Mark] | None
    shown: dict[int, NDArray[np.uint8]]


def judge(pictures: NDArray[np.uint8], asked: Sequence[Prompt], world: World) -> Marks:
    """pictures: [prompts, images, side, side, 3]; each is judged by its row's prompt."""
    from bonsai_quant.evaluation.scenes.checker import check

    judgements = [
        [check(p, prompt.meaning, world) for p in row]
        for row, prompt in zip(pictures, asked, strict=True)
    ]
    return Marks(
        np.array([[j.passed for j in row] for row in judgements], np.bool_),
        np.array([[j.score for j in row] for row in judgements], np.float64),
        np.array([[j.failure or "" for j in row] for row in judgements], np.str_),
    )


def judge_batch(
    pictures: NDArray[np.uint8], task: Task, others: NDArray[np.int64] | None, at: int
) -> Judged:
    """Judge pictures [n, side, side, 3], the first of which is picture `at` of the task.

    others: [prompts, images], the prompt whose caption each picture is held against by chance.
    """
    from bonsai_quant.evaluation.scenes.checker import check

    world = scenery(task.benchmark)

    def mark(picture: NDArray[np.uint8], prompt: int) -> Mark:
        j = check(picture, task.prompts[prompt].meaning, world)
        return bool(j.passed), float(j.score), j.failure or ""

    places = [divmod(at + i, task.images) for i in range(len(pictures))]
    own = [mark(p, prompt) for p, (prompt, _) in zip(pictures, places, strict=True)]
    chance = None
    if others is not None:
        chance = [mark(p, int(others[place])) for p, place in zip(pictures, places, strict=True)]
    shown = {
        at + i: pictures[i]
        for i, (prompt, image) in enumerate(places)
        if prompt % task.per_category < N_SHOWN and image < N_SHOWN
    }
    return Judged(own, chance, shown)


def marks_of(each: Sequence[Mark], task: Task) -> Marks:
    """Judgements of all pictures of a task, in order, as arrays."""
    passed, scores, failures = zip(*each, strict=True)
    shape = len(task.prompts), task.images
    return Marks(
        np.array(passed, np.bool_).reshape(shape),
        np.array(scores, np.float64).reshape(shape),
        np.array(failures, np.str_).reshape(shape),
    )


def shrink(pictures: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """[n, h, w, 3] -> [n, side, side, 3]; each pixel is the mean of those it covers."""
    if pictures.shape[1:3] == (side, side):
        return pictures
    from PIL import Image

    box = Image.Resampling.BOX
    return np.stack([np.asarray(Image.fromarray(p).resize((side, side), box)) for p in pictures])


def other_prompts(asked: Sequence[Prompt], *seed: int) -> NDArray[np.int64] | None:
    """For each prompt the index of another one, of other meaning, and each index once.

    None when there is no such exchange, as with a single meaning.
    """
    meanings = [p.meaning for p in asked]
    rng = np.random.default_rng([*seed, len(asked)])
    donors = rng.permutation(len(asked))
    for _ in range(1000):
        bad = [i for i, d in enumerate(donors) if meanings[d] == meanings[i]]
        if not bad:
            return donors
        for i in bad:
            j = rng.integers(len(asked))
            donors[i], donors[j] = donors[j], donors[i]
    return None


def other_captions(task: Task) -> NDArray[np.int64] | None:
    """[prompts, images]: the prompt whose caption each picture is held against by chance.

    A prompt's pictures go to as many other prompts, so that one lucky pair weighs little.
    """
    columns = []
    for k in range(task.images):
        donors = other_prompts(task.prompts, task.seed, k)
        if donors is None:
            return None
        columns.append(np.argsort(donors))  # prompt donors[i] gives its picture to prompt i
    return np.stack(columns, axis=1)
