"""Claim: the tokens that an answer is learnt as decode to its text, in any script.

Labels every question of the files in one long window, decodes the label to characters of the
context, and compares with the gold text: for labels as they are, and for answers as they can be
given with `--data.answer_boundaries word` and `token`.

    python benchmarks/labels.py train-v2.0.json.gz tests/cases/passages.json --encoder minilm-l6
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from report import record

from qa_lightning.data.squad import read_squad
from qa_lightning.data.token_checks import answers_never_given
from qa_lightning.data.window_settings import MAX_ANSWER_TOKENS, WindowSettings
from qa_lightning.data.windows import IGNORED, NO_ANSWER_HERE, make_windows
from qa_lightning.model.tokenizer import load_tokenizer

WHOLE = {"window": 100_000, "max_question_tokens": 10_000, "overlap": 0}


def counted(file: Path, tokenizer: str) -> dict[str, Counter[str]]:
    """For each article whose name is a script's, or all of a file: what became of its answers."""
    tables, counts = read_squad(file), defaultdict[str, Counter[str]](Counter)
    for boundaries in ("word", "token"):
        settings = WindowSettings(**WHOLE, answer_boundaries=boundaries)  # type: ignore[arg-type]
        windows = make_windows(tables, load_tokenizer(tokenizer), settings)
        titles = tables.contexts["title"].to_pylist()
        name_of = titles if len(set(titles)) < 10 else [file.name] * len(titles)
        kinds = {one.kind: set(one.ids) for one in answers_never_given(windows, MAX_ANSWER_TOKENS)}
        lead = 2 + windows.question_ids.lengths[windows.question]
        base = windows.context_ids.bounds[windows.context] - lead
        begin, end = base + windows.label_start, base + windows.label_end
        texts = windows.contexts["text"].to_pylist()
        rows = windows.questions.to_pylist()
        for window in np.flatnonzero(windows.label_start > NO_ANSWER_HERE).tolist():
            row, context = rows[windows.question[window]], int(windows.context[window])
            count = counts[name_of[context]]
            count[f"inside a {boundaries}"] += row["id"] in kinds.get("answers_inside_words", ())
            if boundaries == "word":
                label = slice(
                    windows.char_starts.values[begin[window]], windows.char_ends.values[end[window]]
                )
                count["answers"] += 1
                count["exact"] += texts[context][label] == row["answers"][0]["text"]
        counts[file.name]["ignored"] += int((windows.label_start == IGNORED).sum())
    return {name: count for name, count in counts.items() if count["answers"]}


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--encoder", required=True, help="where the tokenizer comes from")
    parser.add_argument("--record", action="store_true", help="append the table to RESULTS.md")
    options = parser.parse_args()
    rows = []
    for file in options.files:
        for name, count in counted(file, options.encoder).items():
            total = count["answers"]
            rows.append(
                {
                    "questions": name,
                    "labels": f"{total:,}",
                    "decode to the gold text": f"{100 * count['exact'] / total:.2f} %",
                    "never given at whole words": f"{count['inside a word']:,}",
                    "never given at any token": f"{count['inside a token']:,}",
                }
            )
    record("Labels decode to the gold text", rows, to_file=options.record)


if __name__ == "__main__":
    main()
