"""Where the repository is, and made-up questions about made-up towns."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]

WORDS = """the a of in was is by to and who what when where which how many river city king queen
bridge museum built founded north south east west born died wrote painted year century people
small large old new first last paris rome berlin oslo lima cairo delhi kyoto quito dakar
##s ##ed ##ing ##er ##land ##town
1 2 3 4 5 6 7 8 9 0 ##1 ##2 ##3 ##4 ##5 ##6 ##7 ##8 ##9 ##0 . , ? ! ' - ( ) : ;""".split()

TINY_VOCABULARY = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *WORDS,
    *(letter for letter in "abcdefghijklmnopqrstuvwxyz" if letter not in WORDS),
    *("##" + letter for letter in "abcdefghijklmnopqrstuvwxyz"),
]


PLACES = ("paris", "rome", "berlin", "oslo", "lima", "cairo", "delhi", "kyoto", "quito", "dakar")


def squad_data(paragraphs: int = 12, seed: int = 0, answers: bool = True) -> dict[str, Any]:
    """SQuAD 2.0-shaped data about made-up towns: four questions a paragraph, one unanswerable."""
    draw = random.Random(seed)
    articles = []
    for number in range(paragraphs):
        town, other = draw.sample(PLACES, 2)
        year = str(draw.randrange(1000, 2000))
        context = (
            f"the city of {town} was founded in {year}. "
            + "people built a small old bridge in the north. " * draw.randrange(6)
            + f"the museum of {other} is large."
        )
        asked = [
            (f"when was {town} founded?", year, None),
            ("which city is old?", town, None),
            (f"where is the museum {number}?", other, None),
            (f"when was {other} founded?", None, year),
        ]
        qas = []
        for index, (question, answer, plausible) in enumerate(asked):
            qa: dict[str, Any] = {"id": f"{seed}-{number}-{index}", "question": question}
            if answers:
                given = [answer] if answer else []
                qa["answers"] = [{"text": t, "answer_start": context.index(t)} for t in given]
                qa["is_impossible"] = answer is None
                if plausible:
                    start = context.index(plausible)
                    qa["plausible_answers"] = [{"text": plausible, "answer_start": start}]
            qas.append(qa)
        articles.append({"title": f"t{number}", "paragraphs": [{"context": context, "qas": qas}]})
    return {"version": "v2.0", "data": articles}
