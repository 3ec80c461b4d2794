"""Captions, scenes, pictures, and the checker of pictures."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from bonsai_quant.evaluation.scenes.checker import FAILURES, check
from bonsai_quant.evaluation.scenes.draw import coverage, draw
from bonsai_quant.evaluation.scenes.find import find_things
from bonsai_quant.evaluation.scenes.grammar import (
    SPLITS,
    converse,
    draw_prompt,
    meanings,
    meanings_of,
    phrasings,
    prompts,
    split_of,
    vocabulary,  # fmt: skip
)
from bonsai_quant.evaluation.scenes.layout import compose
from bonsai_quant.evaluation.scenes.scene import Meaning, Scene, Thing, Want
from bonsai_quant.evaluation.scenes.validation import MISTAKES, blurred, noisy, validate
from bonsai_quant.evaluation.scenes.world import CATEGORIES, COLOURS, LARGE, SMALL, TONES, WORLDS

EVERY_SPLIT = ("train", *SPLITS)
worlds = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
categories = pytest.mark.parametrize("category", CATEGORIES)

RED_CIRCLE = Meaning("colors", (Want("circle", "red"),))


def picture_of(meaning, world=SMALL, seed=0):
    return draw(compose(meaning, world, np.random.default_rng(seed)), world.pixels)


def drawn(world, per_category, seed=0):
    """Test prompts with their scenes."""
    for i, prompt in enumerate(prompts(world, "test", per_category=per_category, seed=seed)):
        yield prompt.meaning, compose(prompt.meaning, world, np.random.default_rng([seed, i]))


def scene_of(*things, tone="light"):
    shade = (float(TONES[tone]),) * 3
    return Scene(things, tone, (shade, shade), 0.0, 0.0)


# --- captions ---


@worlds
@categories
def test_every_meaning_is_in_one_split(world, category):
    parts = [set(meanings_of(world, category, s)) for s in EVERY_SPLIT]
    assert sum(len(p) for p in parts) == len(set().union(*parts))
    assert set().union(*parts) == set(meanings(world, category))
    assert all(parts)


@worlds
def test_no_caption_means_two_things(world):
    said = [t for c in CATEGORIES for m in meanings(world, c) for t in phrasings(m)]
    assert len(said) == len(set(said))


@worlds
@pytest.mark.parametrize("category", ["two_objects", "color_attribution"])
def test_two_things_have_one_split_in_either_order(world, category):
    for m in meanings(world, category):
        assert split_of(m) == split_of(Meaning(category, m.wants[::-1]))


@pytest.mark.parametrize(
    ("meaning", "split"),
    [
        (Meaning("colors", (Want("circle", "red"),)), "test"),
        (Meaning("colors", (Want("circle", "red", "small"),)), "train"),
        (Meaning("counting", (Want("circle", "yellow", count=2),)), "dev"),
        (Meaning("position", (Want("circle"), Want("square")), "left"), "test"),
        (Meaning("position", (Want("circle", "red"), Want("square", "yellow")), "left"), "dev"),
        (Meaning("two_objects", (Want("square"), Want("circle"))), "test"),
        (Meaning("single_object", (Want("circle", size="big"),), tone="dark"), "dev"),
        (Meaning("single_object", (Want("circle"),)), "train"),
    ],
)
def test_splits_never_change(meaning, split):
    assert split_of(meaning) == split


@worlds
def test_a_relation_and_its_converse_are_held_out_together(world):
    for split in SPLITS:
        held = meanings_of(world, "position", split)
        assert {split_of(converse(m)) for m in held} == {split}
    trained = meanings_of(world, "position", "train")
    assert {split_of(converse(m)) for m in trained} == {"train"}


@worlds
def test_prompts_belong_to_their_split_whatever_the_seed(world):
    for split, seed in itertools.product(SPLITS, (0, 1)):
        chosen = prompts(world, split, per_category=20, seed=seed)
        assert {split_of(p.meaning) for p in chosen} == {split}
        assert [p.meaning.category for p in chosen] == [c for c in CATEGORIES for _ in range(20)]
        assert all(p.text in phrasings(p.meaning) for p in chosen)
        assert chosen == prompts(world, split, per_category=20, seed=seed)
    rng = np.random.default_rng(0)
    assert {split_of(draw_prompt(world, rng).meaning) for _ in range(300)} == {"train"}


@worlds
def test_every_word_of_every_caption_is_in_the_vocabulary(world):
    words = set(vocabulary(world))
    for category in CATEGORIES:
        for meaning in meanings(world, category):
            for text in phrasings(meaning):
                assert set(text.split()) <= words, text


# --- scenes and pictures ---


def is_true(meaning, scene):
    """Whether a caption holds of a scene; its things lie in the order of the wanted ones."""
    wanted = [w for w in meaning.wants for _ in range(w.count)]
    fit = len(wanted) == len(scene.things) and all(
        t.shape == w.shape and w.colour in (None, t.colour) and w.size in (None, t.size)
        for w, t in zip(wanted, scene.things, strict=True)
    )
    side = True
    if meaning.relation:
        a, b = scene.things
        dx, dy = a.x - b.x, a.y - b.y
        across = abs(dx) > abs(dy)
        side = {
            "left": across and dx < 0,
            "right": across and dx > 0,
            "above": not across and dy < 0,
            "below": not across and dy > 0,
        }[meaning.relation]
    return fit and side and meaning.tone in (None, scene.tone)


@worlds
def test_scenes_are_what_their_captions_say(world):
    for meaning, scene in drawn(world, 60):
        assert is_true(meaning, scene), (meaning, scene)
        for t in scene.things:
            reach = 1.1 * t.radius
            assert reach < t.x < world.pixels - reach
            assert reach < t.y < world.pixels - reach


@worlds
def test_the_same_seed_gives_the_same_picture(world):
    for meaning, scene in drawn(world, 2):
        picture = draw(scene, world.pixels)
        assert picture.shape == (world.pixels, world.pixels, 3)
        assert picture.dtype == np.uint8
        assert np.array_equal(picture, draw(scene, world.pixels))
        first, second = (picture_of(meaning, world, seed) for seed in (3, 4))
        assert np.array_equal(first, picture_of(meaning, world, 3))
        assert not np.array_equal(first, second)


@pytest.mark.parametrize("shape", LARGE.shapes)
def test_shapes_lie_around_their_centre(shape):
    y, x = np.mgrid[0:64, 0:64].astype(np.float32) + 0.5
    cover = coverage(Thing(shape, "red", "big", 30.0, 33.0, 12.0), x, y)
    assert (cover * x).sum() / cover.sum() == pytest.approx(30, abs=0.1)
    assert (cover * y).sum() / cover.sum() == pytest.approx(33, abs=0.1)


# --- the checker ---


@pytest.mark.parametrize(
    ("world", "each"),
    [(SMALL, 50), pytest.param(LARGE, 15, marks=pytest.mark.heavy)],
    ids=["small", "large"],
)
def test_right_pictures_pass(world, each):
    for meaning, scene in drawn(world, each):
        judged = check(draw(scene, world.pixels), meaning, world)
        assert judged.passed, (meaning, judged)
        assert judged.failure is None
        assert judged.score > 0.9


@worlds
def test_things_are_found_where_they_are(world):
    for _, scene in drawn(world, 4):
        found = find_things(draw(scene, world.pixels), world)
        assert len(found) == len(scene.things)
        for thing in scene.things:
            near = min(found, key=lambda f: (f.x - thing.x) ** 2 + (f.y - thing.y) ** 2)
            assert (near.shape, near.colour) == (thing.shape, thing.colour)
            assert near.x == pytest.approx(thing.x, abs=0.6)
            assert near.y == pytest.approx(thing.y, abs=0.6)
            assert near.radius == pytest.approx(thing.radius, rel=0.05)


@pytest.mark.parametrize(("name", "spoil", "expected"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_wrong_pictures_fail_for_the_right_reason(name, spoil, expected):
    rng, judged = np.random.default_rng(0), []
    for meaning, scene in drawn(SMALL, 8):
        wrong = spoil(meaning, scene, SMALL, rng)
        if wrong is not None:
            judged.append(check(wrong, meaning, SMALL))
    assert len(judged) >= 7
    assert not any(j.passed for j in judged)
    assert {j.failure for j in judged} <= ({expected} if expected else set(FAILURES))
    assert all(0 <= j.score < 0.9 for j in judged)


@worlds
def test_judging_is_deterministic_and_leaves_the_picture_alone(world):
    for meaning, scene in drawn(world, 2):
        picture = draw(scene, world.pixels)
        before = picture.copy()
        assert check(picture, meaning, world) == check(picture, meaning, world)
        assert np.array_equal(picture, before)


@pytest.mark.heavy
def test_score_falls_with_damage():
    scenes = list(drawn(SMALL, 5))
    rng = np.random.default_rng(0)
    for worsen in (blurred, lambda s, p: noisy(15 * s, p, rng)):
        means = [
            np.mean([check(worsen(level, draw(s, 64)), m, SMALL).score for m, s in scenes])
            for level in (0.01, 1.5, 3.0)
        ]
        assert means[0] > 0.97
        assert means[0] > means[1] > means[2]


def test_things_of_one_colour_that_touch_are_two():
    things = [Thing("triangle", "blue", "big", x, 32.0, 11.0) for x in (20.4, 43.4)]
    found = find_things(draw(scene_of(*things), 64), SMALL)
    assert [f.shape for f in found] == ["triangle", "triangle"]


def test_things_of_two_colours_that_touch_are_two():
    things = (
        Thing("square", "yellow", "big", 22.0, 32.0, 11.0),
        Thing("circle", "blue", "big", 41.0, 32.0, 11.0),
    )
    found = find_things(draw(scene_of(*things, tone="dark"), 64), SMALL)
    named = sorted((f.x, f.shape, f.colour) for f in found)
    assert [n[1:] for n in named] == [("square", "yellow"), ("circle", "blue")]


BLOBS = {
    "half a circle": lambda u, v: (u**2 + v**2 < 100) & (v > 0),
    "ellipse": lambda u, v: (u / 1.3) ** 2 + (1.3 * v) ** 2 < 100,
    "between circle and square": lambda u, v: abs(u) ** 3.8 + abs(v) ** 3.8 < 10**3.8,
    "three quarters": lambda u, v: (abs(u) < 10) & (abs(v) < 10) & ~((u > 0) & (v < 0)),
    "triangle upside down": lambda u, v: (abs(u) * 0.866 + 0.5 * v < 6.8) & (v > -6.8),
    "ring": lambda u, v: (u**2 + v**2 < 100) & (u**2 + v**2 > 25),
}


@pytest.mark.parametrize("blob", BLOBS.values(), ids=BLOBS)
def test_what_fits_no_template_has_no_shape(blob):
    y, x = np.mgrid[0:256, 0:256] / 4 - 31.9
    cover = blob(x, y).reshape(64, 4, 64, 4).mean((1, 3))[..., None]
    picture = np.rint(222 + cover * (np.array(COLOURS["red"]) - 222)).astype(np.uint8)
    judged = [check(picture, Meaning("colors", (Want(s, "red"),)), SMALL) for s in SMALL.shapes]
    assert {j.failure for j in judged} == {"shape"}
    assert judged[0].found[0].shape is None


def test_specks_are_not_things():
    picture = picture_of(RED_CIRCLE)
    picture[4:7, 4:7] = COLOURS["green"]
    assert check(picture, RED_CIRCLE, SMALL).passed
    picture[4:10, 4:10] = COLOURS["green"]
    assert check(picture, RED_CIRCLE, SMALL).failure == "count"


def test_any_colour_will_do_where_none_is_said():
    meaning = Meaning("two_objects", (Want("circle"), Want("square", "blue")))
    for colour in SMALL.colours:
        painted = Meaning("two_objects", (Want("circle", colour), Want("square", "blue")))
        assert check(picture_of(painted), meaning, SMALL).passed
    wrong = Meaning("two_objects", (Want("circle", "blue"), Want("square", "red")))
    assert check(picture_of(wrong), meaning, SMALL).failure == "colour"


def test_the_first_failure_is_named():
    """A picture with everything wrong; one thing after the other is put right."""
    asked = Meaning("position", (Want("circle", "red", "big"), Want("cross")), "left", "dark")
    circle = Thing("square", "blue", "small", 46.0, 32.0, 7.5)
    cross = Thing("cross", "green", "small", 18.0, 32.0, 7.5)
    steps = [
        (scene_of(), "nothing"),
        (scene_of(circle), "count"),
        (scene_of(circle, cross), "shape"),
        (scene_of(circle := moved(circle, shape="circle"), cross), "colour"),
        (scene_of(circle := moved(circle, colour="red"), cross), "position"),
        (scene_of(circle := moved(circle, x=18.0), cross := moved(cross, x=46.0)), "size"),
        (scene_of(circle := moved(circle, radius=11.0), cross), "background"),
        (scene_of(circle, cross, tone="dark"), None),
    ]
    assert [check(draw(s, 64), asked, SMALL).failure for s, _ in steps] == [f for _, f in steps]


def moved(thing, **changes):
    values = {name: getattr(thing, name) for name in Thing.__slots__} | changes
    return Thing(**values)


@pytest.mark.heavy
def test_validation_has_a_row_for_everything():
    rows = validate(SMALL, pictures=6, seed=0)
    assert [r.name for r in rows if not r.right] == [m[0] for m in MISTAKES]
    assert rows[0].name == "clean"
    assert rows[0].passed == 1
    assert all(r.pictures == 6 for r in rows if r.right)
    assert rows == validate(SMALL, pictures=6, seed=0)
