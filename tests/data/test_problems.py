"""Problems of one kind become one line, with their number and a few places."""

from __future__ import annotations

from qa_lightning.data.problems import EXAMPLES, grouped


def test_one_kind_is_one_line() -> None:
    problems = [
        f'f.json: question "q{n}", answers[{n % 3}]: "text" must be a string, but is {n}'
        for n in range(1380)
    ]
    (told,) = grouped(problems, "f.json")
    places = ", ".join(f'question "q{n}"' for n in range(1, 1 + EXAMPLES))
    assert told == f"{problems[0]} (the same at 1,379 more places, for instance {places})"


def test_kinds_stay_apart_in_the_order_of_their_first() -> None:
    problems = [
        r'a: b.json: question "odd: \" id": an empty text',
        'a: b.json: data[0].paragraphs[2]: the key "qas" is missing',
        'a: b.json: question "2": an empty text',
        'a: b.json: line 7: the key "qas" is missing',
        "a: b.json: not valid JSON at line 9, column 1: Expecting value",
        "a: b.json: not valid JSON at line 19, column 1: Expecting value",
    ]
    told = grouped(problems, "a: b.json")
    assert told == [
        problems[0] + ' (the same at 1 more place: question "2")',
        problems[1] + " (the same at 1 more place: line 7)",
        *problems[4:],
    ]
    assert grouped([], "f.json") == []
