"""Whatever the file, it is refused in one clear message, or every label in it is right.

Some files of every kind are tried each time. To try many, and to see how many were refused:

    pytest tests/data/test_hostile_files.py --hypothesis-profile=many --hypothesis-show-statistics
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from qa_lightning.data import windows as windows_module
from qa_lightning.data.batches import WindowDataset
from qa_lightning.data.squad import MAX_SHIFT, read_squad
from qa_lightning.data.tables import NO_PLACE, SquadTables
from qa_lightning.data.window_settings import WindowSettings
from qa_lightning.data.windows import IGNORED, NO_ANSWER_HERE, Windows, make_windows
from qa_lightning.errors import UserError
from tests.helpers.data import squad_data
from tests.helpers.hostile import KINDS, REFUSED, files, questions
from tests.helpers.tokens import with_dropped_characters

SETTINGS = st.sampled_from([4, 16, 64]).flatmap(
    lambda question: st.builds(
        WindowSettings,
        window=st.sampled_from([question + room for room in (10, 60, 300)]),
        overlap=st.sampled_from([0, 5]),
        max_question_tokens=st.just(question),
        context_first=st.booleans(),
        first_window_only=st.booleans(),
        every_answer=st.booleans(),
    )
)


@pytest.fixture(scope="module")
def tokenizer(tiny_encoder: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(tiny_encoder)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data(), sizes=SETTINGS)
@settings(
    max_examples=settings().max_examples // 10,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_a_file_is_refused_clearly_or_labelled_rightly(
    kind: str,
    data: st.DataObject,
    sizes: WindowSettings,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    content = data.draw(files(kind))
    path = tmp_path / "hostile.json"
    path.write_bytes(content)
    try:
        tables = read_squad(path)
    except UserError as error:
        event("refused")
        message = str(error)
        assert message.startswith(f"{path}: ")
        assert message.isprintable() and len(message) < 1000  # one line
        if '"answer_start"' in message:
            assert 'question "' in message
        assert kind != "wild text"
        return
    event("accepted")
    assert kind not in REFUSED
    check_tables(content, tables)
    check_labels(make_windows(tables, tokenizer, sizes), tokenizer)


@given(content=files("wild text"), sizes=SETTINGS)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_wild_text_with_a_real_vocabulary(
    shared: Path, tmp_path: Path, content: bytes, sizes: WindowSettings
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared / "encoders" / "minilm-l6")
    path = tmp_path / "hostile.json"
    path.write_bytes(content)
    check_labels(make_windows(read_squad(path), tokenizer, sizes), tokenizer)


def test_a_wrong_label_would_be_seen(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "good.json"
    path.write_text(json.dumps(squad_data(3)))
    tables = read_squad(path)
    settings = WindowSettings(60, 5, 16)
    assert check_labels(make_windows(tables, tokenizer, settings), tokenizer) > 5
    right = windows_module.tokens_of_characters

    def one_late(*arguments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first, last = right(*arguments)
        return first + 1, last + 1

    monkeypatch.setattr(windows_module, "tokens_of_characters", one_late)
    with pytest.raises(AssertionError):
        check_labels(make_windows(tables, tokenizer, settings), tokenizer)


# --- what must hold ----------------------------------------------------------------------------


def check_tables(content: bytes, tables: SquadTables) -> None:
    """Compare with the plainest way to read the file."""
    plain = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    expected = []
    lost = 0
    for paragraph, question in questions(json.loads(plain.decode("utf-8-sig"))):
        question = {key: value for key, value in question.items() if value is not None}
        context = paragraph["context"]
        if not (question["question"].strip() and context.strip()):
            continue
        answers, plausible = (
            [
                {
                    "text": given["text"],
                    "start": standing_at(context, given["text"], given.get("answer_start")),
                }
                for given in question.get(key, [])
            ]
            for key in ("answers", "plausible_answers")
        )
        lost += any(one["start"] == NO_PLACE for one in answers)
        row = {"id": str(question["id"]), "text": question["question"], "context": context}
        row |= {"answers": answers}
        row |= {"plausible_answers": [one for one in plausible if one["start"] != NO_PLACE]}
        row["labelled"] = "answers" in question and (
            bool(question["answers"]) or question.get("is_impossible", True)
        )
        expected.append(row)
    found = tables.questions.to_pylist()
    contexts = tables.contexts["text"].to_pylist()
    assert [{**row, "context": contexts[row["context"]]} for row in found] == expected
    assert len(set(tables.report.misplaced)) == lost


def standing_at(context: str, wanted: str, start: int | None) -> int:
    """Where an answer stands: at its start, or a little before."""
    start = NO_PLACE if start is None else start  # null is as good as absent
    for place in range(start, start - MAX_SHIFT - 1, -1):
        if place >= 0 and context[place : place + len(wanted)] == wanted:
            return place
    return NO_PLACE


def check_labels(windows: Windows, tokenizer: PreTrainedTokenizerFast) -> int:
    """Check the labels of all windows; returns how many answers were checked.

    The labelled tokens must be exactly those that share a character with the answer, and the text
    from the first one's first character to the last one's last must hold the answer, but for
    characters at its ends that no token has.
    """
    answers = windows.questions["answers"].to_pylist()
    placed = [[one for one in given if one["start"] != NO_PLACE] for given in answers]
    labelled = windows.questions["labelled"].to_pylist()
    encoded = []
    for text in windows.contexts["text"].to_pylist():
        encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        offsets = with_dropped_characters(text, encoding.offsets)
        chars = np.array(offsets, np.int64).reshape(-1, 2)
        encoded.append((np.array(encoding.ids), chars))
    dataset = WindowDataset(windows, with_offsets=True)
    checked, nth = 0, -1
    for row in range(len(windows)):
        question, context = int(windows.question[row]), int(windows.context[row])
        first, size = int(windows.context_start[row]), int(windows.context_length[row])
        nth = 0 if windows.index[row] == 0 else nth + (first == 0)  # which answer of the question
        label = int(windows.label_start[row]), int(windows.label_end[row])
        missing = NO_ANSWER_HERE if labelled[question] else IGNORED
        if answers[question] and not placed[question]:
            missing = IGNORED
        elif answers[question]:
            start = placed[question][nth]["start"]
            end = start + len(placed[question][nth]["text"])
            ids, chars = encoded[context]
            shares = np.flatnonzero((chars[:, 0] < end) & (chars[:, 1] > start))
            if len(shares) and first <= shares[0] and shares[-1] < first + size:
                lead = 1
                if not windows.settings.context_first:
                    lead = 2 + int(windows.question_ids.lengths[question])
                assert label == (shares[0] - first + lead, shares[-1] - first + lead)
                assert (np.diff(shares) == 1).all(), "the answer's tokens do not stand together"
                inside = np.arange(start, end)[:, None]
                covered = ((chars[:, 0] <= inside) & (chars[:, 1] > inside)).any(1).nonzero()[0]
                batch = dataset[[row]]
                tokens = slice(label[0], label[1] + 1)
                assert (batch.input_ids[0, tokens].numpy() == ids[shares]).all()
                assert batch.offsets is not None
                spans = batch.offsets[0, tokens].numpy()
                assert spans[0, 0] <= start + covered[0] and start + covered[-1] < spans[-1, 1]
                checked += 1
                continue
            if len(shares) == 0 or windows.settings.first_window_only:
                missing = IGNORED
        assert label == (missing, missing)
    return checked
