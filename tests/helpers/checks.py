"""SQuAD files with a few questions that a check has something to say about."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


def paragraph(context: str, *qas: Json) -> Json:
    return {"context": context, "qas": list(qas)}


def question(identity: str, text: str, *answers: tuple[str, int], **more: Any) -> Json:
    given = [{"text": answer, "answer_start": start} for answer, start in answers]
    return {"id": identity, "question": text, "answers": given, **more}


def file_of(*paragraphs: Json) -> Json:
    """One article; and one more, of a hundred good questions, so that few mistakes are few."""
    good = [question(f"good{n}", f"who was born {n}?", ("ana", 0)) for n in range(100)]
    return {
        "data": [
            {"title": "one", "paragraphs": list(paragraphs)},
            {"title": "good", "paragraphs": [paragraph("ana was born in rome.", *good)]},
        ]
    }
