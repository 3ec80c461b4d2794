"""Write the prompts that calibration and distillation use where nobody gives others.

    python tools/make_prompts.py bonsai_quant/data/prompts.txt

Half of them count, place, or tell colours and materials apart, since that is what few bits lose
first; the other half is people, scenes, food, rooms, pictures in a style, signs, and longer
descriptions. Every line is put together from the lists below; the seed makes it the same file.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import click


def words(text: str) -> list[str]:
    """A comma-separated list."""
    return [" ".join(part.split()) for part in text.split(",")]


COUNTED = words("""
    apple, orange, lemon, cup, mug, book, candle, chair, bicycle, cat, dog, duck, horse, sheep,
    elephant, owl, balloon, boat, car, truck, bus, train carriage, tree, flower, sunflower, tulip,
    mushroom, cupcake, pizza, bottle, glass, bowl, plate, spoon, clock, lamp, umbrella, hat, shoe,
    backpack, suitcase, guitar, violin, piano, kite, tent, lantern, vase, pillow, window, door,
    key, coin, feather, shell, starfish, butterfly, bee, penguin, parrot, rabbit, fox, bear,
    tortoise, robot, teapot, cactus, donut, pear, pumpkin, strawberry, carrot, croissant
""")
COLOURS = words("""
    red, blue, green, yellow, orange, purple, pink, brown, black, white, grey, turquoise, gold,
    silver
""")
MATERIALS = words("""
    wooden, glass, ceramic, metal, paper, stone, knitted, leather, plastic, clay, marble, copper,
    velvet, straw
""")
SIZES = words("""
    tiny, small, large, huge, tall, short, thin, wide
""")
RELATIONS = words("""
    to the left of, to the right of, above, below, in front of, behind, next to, on top of, under,
    inside a box beside, between two walls near, far behind, leaning against
""")
PLACES = words("""
    on a wooden table, on a windowsill, in a meadow, on a beach, in a snowy field, on a city
    street, in a library, in a kitchen, on a white background, on a marble floor, in a garden,
    under a street lamp, beside a lake, on a rooftop, in a workshop, in an empty room, on a mossy
    rock, in shallow water, on a stage, in a market
""")
LIGHT = words("""
    at sunrise, at dusk, at noon, in soft morning light, under an overcast sky, in candlelight, in
    neon light, by moonlight, in fog, after the rain, in heavy snow, in strong backlight, in
    studio light, under a starry sky
""")
STYLES = words("""
    a watercolour of, an oil painting of, a pencil sketch of, a charcoal drawing of, a woodcut of,
    a pixel art image of, a low-poly render of, a paper collage of, a stained glass window
    showing, a children's book illustration of, a black and white photograph of, a macro
    photograph of, an aerial photograph of, a film still of, a blueprint of, a mosaic of, an
    embroidery of, a poster of, a chalk drawing of, a clay model of
""")
PEOPLE = words("""
    an old fisherman, a young violinist, a baker, a girl with braided hair, a boy in a raincoat, a
    dancer, a blacksmith, a mountaineer, a nurse, a street musician, a farmer, a scientist in a
    lab coat, two friends, a father and his daughter, a potter, a cyclist, a sailor, an astronaut,
    a gardener, a chess player
""")
DOING = words("""
    reading a letter, mending a net, laughing, looking out of a window, carrying a basket of
    bread, tuning an instrument, walking a dog, drinking tea, painting a fence, waiting for a
    train, holding an umbrella, feeding pigeons, writing on a blackboard, repairing a clock,
    kneading dough, watching the sea, climbing a ladder, planting a tree, looking through a
    telescope, sleeping in a hammock
""")
SCENES = words("""
    a narrow alley with hanging laundry, a lighthouse on a cliff, a stone bridge over a river, a
    harbour full of fishing boats, a terraced rice field, a desert road with one gas station, a
    glacier and a small red hut, a canal with houseboats, a forest path covered in leaves, an old
    railway station, a greenhouse full of ferns, a waterfall behind a rainbow, a village square on
    market day, a windmill among tulips, a volcano above the clouds, a frozen lake with skaters, a
    castle in ruins, a coral reef, a savannah with acacia trees, a skyline behind a park, a
    monastery on a rock, a field of lavender, a subway platform, a treehouse with lanterns
""")
FOOD = words("""
    a bowl of ramen with a soft egg, a slice of lemon cake, a plate of grilled fish with herbs, a
    loaf of rye bread, a stack of pancakes with blueberries, a cheese board with grapes, a
    steaming pot of soup, a glass of iced tea with mint, a tray of sushi, a basket of plums, a
    tomato salad with basil, a wheel of cheese
""")
ROOMS = words("""
    a reading corner with a green armchair, a bathroom with blue tiles, an attic studio full of
    canvases, a kitchen with copper pans, a bedroom with white curtains, a hallway lined with
    mirrors, a workshop with tools on the wall, a cafe with round tables, a library with a rolling
    ladder, a nursery with paper stars
""")
WORDS = words("""
    OPEN, BAKERY, HELLO, EXIT, CAFE 12, SUMMER, NORTH, TEA, BOOKS, STOP, MUSEUM, JUNE
""")
ENDINGS = words("""
    sharp focus, muted colours, vivid colours, shallow depth of field, wide angle, seen from
    above, seen from below, symmetrical composition, much empty space, fine grain, high contrast,
    pastel tones
""")
PLURAL = {
    "glass": "glasses", "bus": "buses", "sheep": "sheep", "fox": "foxes", "starfish": "starfish",
    "butterfly": "butterflies", "strawberry": "strawberries", "tortoise": "tortoises",
    "cactus": "cactuses",
}  # fmt: skip
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven"}


def a(phrase: str) -> str:
    """With its article."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def many(thing: str) -> str:
    """More than one of it."""
    return PLURAL.get(thing, thing + "s")


def counting(r: random.Random) -> str:
    """So many of one thing."""
    things = r.choice([""] * 2 + [c + " " for c in COLOURS]) + many(r.choice(COUNTED))
    number, place = r.choice(list(NUMBERS.values())), r.choice(PLACES)
    return r.choice([
        f"{number} {things} {place}",
        f"a photo of {number} {things}",
        f"exactly {number} {things} {place}, {r.choice(LIGHT)}",
    ])  # fmt: skip


def counting_two(r: random.Random) -> str:
    """So many of one thing, and so many of another."""
    x, y = r.sample(COUNTED, 2)
    m = r.choice([1, 2, 3])
    second = a(y) if m == 1 else f"{NUMBERS[m]} {many(y)}"
    return f"{r.choice(list(NUMBERS.values()))} {many(x)} and {second} {r.choice(PLACES)}"


def position(r: random.Random) -> str:
    """One thing beside another, on a side that is said."""
    x, y = (r.choice(["", r.choice(COLOURS) + " "]) + t for t in r.sample(COUNTED, 2))
    start, end = r.choice(["", "a photo of "]), r.choice(["", f", {r.choice(LIGHT)}"])
    return f"{start}{a(x)} {r.choice(RELATIONS)} {a(y)}{end}"


def attribution(r: random.Random) -> str:
    """Two things, each with a colour of its own."""
    x, y = (f"{c} {t}" for c, t in zip(r.sample(COLOURS, 2), r.sample(COUNTED, 2), strict=True))
    return r.choice([
        f"{a(x)} and {a(y)}",
        f"{a(x)} beside {a(y)} {r.choice(PLACES)}",
        f"{a(r.choice(SIZES) + ' ' + x)} and {a(r.choice(SIZES) + ' ' + y)}",
    ])  # fmt: skip


def material(r: random.Random) -> str:
    """What things are made of."""
    x, y = (f"{m} {t}" for m, t in zip(r.sample(MATERIALS, 2), r.sample(COUNTED, 2), strict=True))
    return r.choice([f"{a(x)} {r.choice(PLACES)}", f"{a(x)} and {a(y)}, {r.choice(LIGHT)}"])


def person(r: random.Random) -> str:
    """Somebody who does something."""
    return f"{r.choice(PEOPLE)} {r.choice(DOING)} {r.choice(PLACES)}, {r.choice(LIGHT)}"


def scene(r: random.Random) -> str:
    """A place in some light."""
    return f"{r.choice(SCENES)} {r.choice(LIGHT)}, {r.choice(ENDINGS)}"


def style(r: random.Random) -> str:
    """Anything, drawn or made in some way."""
    thing = a(f"{r.choice(COLOURS)} {r.choice(COUNTED)}")
    someone = f"{r.choice(PEOPLE)} {r.choice(DOING)}"
    return f"{r.choice(STYLES)} {r.choice([*SCENES, *ROOMS, *FOOD, thing, someone])}"


def indoors(r: random.Random) -> str:
    """A room or something to eat."""
    return f"{r.choice([*ROOMS, *FOOD])}, {r.choice(LIGHT)}, {r.choice(ENDINGS)}"


def writing(r: random.Random) -> str:
    """A word to be read in the picture."""
    return f'a {r.choice(COLOURS)} sign with the word "{r.choice(WORDS)}" {r.choice(PLACES)}'


def long(r: random.Random) -> str:
    """Several sentences."""
    x, y, z = r.sample(COUNTED, 3)
    return (
        f"{r.choice(SCENES)} {r.choice(LIGHT)}. In front, {r.choice(PEOPLE)} {r.choice(DOING)}; "
        f"on the left {a(r.choice(COLOURS) + ' ' + x)}, on the right "
        f"{NUMBERS[r.choice([2, 3])]} {r.choice(MATERIALS)} {many(y)}, and in the distance {a(z)}. "
        f"{r.choice(ENDINGS).capitalize()}."
    )


KINDS: tuple[tuple[Callable[[random.Random], str], int], ...] = (
    (counting, 420), (counting_two, 200), (position, 420), (attribution, 320), (material, 160),
    (person, 220), (scene, 200), (style, 260), (indoors, 140), (writing, 60), (long, 200),
)  # fmt: skip


def prompts(seed: int = 0) -> list[str]:
    """Every kind as often as KINDS says, no line twice, shuffled."""
    r, unique = random.Random(seed), {}
    for kind, n in KINDS:
        enough = len(unique) + n
        while len(unique) < enough:
            unique.setdefault(kind(r))
    lines = list(unique)
    r.shuffle(lines)
    return lines


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
def main(path: Path) -> None:
    """Write the file."""
    path.write_text("\n".join(prompts()) + "\n")


if __name__ == "__main__":
    main()
