"""Windows and labels equal those of the usual slow way; the decoded label is the answer."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from qa_lightning.data.batches import WindowDataset
from qa_lightning.data.squad import read_squad
from qa_lightning.data.tables import CONTEXTS, NO_PLACE, QUESTIONS, ReadReport, SquadTables
from qa_lightning.data.tokens import Ragged, tokens_of_characters
from qa_lightning.data.window_settings import SPECIAL_TOKENS, WindowSettings
from qa_lightning.data.windows import IGNORED, NO_ANSWER_HERE, Windows, make_windows
from qa_lightning.errors import UserError
from tests.helpers.data import REPOSITORY
from tests.helpers.tokens import with_dropped_characters

Span = tuple[int, int]
"""First character and one past the last."""

Asked = tuple[str, list[Span] | None]
"""A question, and where its answers stand: [] if it is unanswerable, None if nobody knows."""

LONGEST_QUESTION = 8


def tables(*paragraphs: tuple[str, list[Asked]]) -> SquadTables:
    """Contexts, each with questions."""
    contexts = [{"article": 0, "title": "", "text": text} for text, _ in paragraphs]
    questions = []
    for row, (context, asked) in enumerate(paragraphs):
        for text, spans in asked:
            answers = [{"text": context[a:b], "start": a} for a, b in spans or []]
            questions.append(
                {
                    "id": str(len(questions)),
                    "context": row,
                    "text": text,
                    "labelled": spans is not None,
                    "answers": answers,
                    "plausible_answers": [],
                }
            )
    return SquadTables(
        pa.Table.from_pylist(contexts, CONTEXTS),
        pa.Table.from_pylist(questions, QUESTIONS),
        ReadReport(0, 0, 0, 0, 0, 0),
    )


@pytest.fixture(scope="module")
def tokenizer(tiny_encoder: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(tiny_encoder)


def room_for(room: int, overlap: int = 0, **more: Any) -> WindowSettings:
    """Windows in which at least `room` context tokens stand beside the question."""
    window = LONGEST_QUESTION + SPECIAL_TOKENS + room
    return WindowSettings(window, overlap, LONGEST_QUESTION, **more)


def one_context(
    tokenizer: PreTrainedTokenizerFast, context: str, *asked: Asked, **more: Any
) -> Windows:
    return make_windows(tables((context, list(asked))), tokenizer, room_for(**more))


def labels(windows: Windows) -> list[Span]:
    return list(zip(windows.label_start.tolist(), windows.label_end.tolist(), strict=True))


def decoded(windows: Windows, row: int) -> str:
    """The context's text from the label's first to its last token."""
    batch = WindowDataset(windows, with_offsets=True)[[row]]
    assert batch.offsets is not None
    begin = int(batch.offsets[0, batch.label_start[0], 0])
    end = int(batch.offsets[0, batch.label_end[0], 1])
    assert begin >= 0 and end >= 0
    return windows.contexts["text"][int(windows.context[row])].as_py()[begin:end]


def place(context: str, text: str) -> Span:
    return context.index(text), context.index(text) + len(text)


# ---- the usual way


def usual_windows(
    tokenizer: PreTrainedTokenizerFast,
    question: str,
    context: str,
    answer: Span | None,
    window: int,
    overlap: int,
) -> list[tuple[list[int], list[Span], Span]]:
    """Ids, context offsets and label of every window of one question, in plain Python loops."""
    encoded = tokenizer(
        question,
        context,
        truncation="only_second",
        max_length=window,
        stride=overlap,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    whole = tokenizer(context, add_special_tokens=False, return_offsets_mapping=True)
    whole_offsets = with_dropped_characters(context, whole["offset_mapping"])
    end_of = dict(whole_offsets)  # by the first character; tokens of one share its end
    result = []
    for encoding, ids, offsets in zip(
        encoded.encodings, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        owner = encoding.sequence_ids
        offsets = [
            (begin, max(end, end_of[begin])) if owner[token] == 1 else (begin, end)
            for token, (begin, end) in enumerate(offsets)
        ]
        span = (NO_ANSWER_HERE, NO_ANSWER_HERE)
        if answer is not None:
            touching = [
                token
                for token, (begin, end) in enumerate(offsets)
                if owner[token] == 1 and begin < answer[1] and end > answer[0]
            ]
            wanted = [
                token
                for token, (begin, end) in enumerate(whole_offsets)
                if begin < answer[1] and end > answer[0]
            ]
            if not wanted:
                span = (IGNORED, IGNORED)
            elif len(touching) == len(wanted):
                span = (touching[0], touching[-1])
        characters = [
            tuple(pair) if owner[token] == 1 else (-1, -1) for token, pair in enumerate(offsets)
        ]
        result.append((ids, characters, span))
    return result


def assert_as_usual(
    windows: Windows, tokenizer: PreTrainedTokenizerFast, data: SquadTables, window: int, over: int
) -> None:
    contexts = data.contexts["text"].to_pylist()
    dataset = WindowDataset(windows, with_offsets=True)
    row = 0
    for number, question in enumerate(data.questions.to_pylist()):
        answers = [(a["start"], a["start"] + len(a["text"])) for a in question["answers"]]
        expected = usual_windows(
            tokenizer,
            question["text"],
            contexts[question["context"]],
            answers[0] if answers else None,
            window,
            over,
        )
        for nth, (ids, offsets, label) in enumerate(expected):
            batch = dataset[[row]]
            assert batch.offsets is not None
            used = int(windows.lengths[row])
            assert batch.input_ids[0, :used].tolist() == ids
            assert [tuple(pair) for pair in batch.offsets[0, :used].tolist()] == offsets
            assert (int(batch.label_start), int(batch.label_end)) == label
            assert batch.key.tolist() == [[number, nth]]
            row += 1
    assert row == len(windows)


LETTERS = st.sampled_from(
    list("aaabcd    .,-'1é北京\u0301😀\u200d🏽שלعﬁİß한\u3000\t\u00a0\u0007\u0000")
)
CHARACTERS = st.one_of(LETTERS, LETTERS, LETTERS, st.characters(exclude_categories=["Cs"]))
# transformers takes an empty context for none at all, and leaves the second [SEP] out.
TEXTS = st.text(CHARACTERS, min_size=1, max_size=80)
# The tiny vocabulary makes one token at most of a character.
SHORT_QUESTIONS = st.text(st.sampled_from(list("ab ?é😀")), max_size=LONGEST_QUESTION)


@st.composite
def paragraphs(draw: st.DrawFn) -> tuple[str, list[Asked]]:
    context = draw(TEXTS)
    asked: list[Asked] = []
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(0, len(context) - 1))
        end = draw(st.integers(begin + 1, begin + 12))
        spans = [(begin, min(end, len(context)))] if draw(st.booleans()) else []
        asked.append((draw(SHORT_QUESTIONS), spans))
    return context, asked


@settings(max_examples=120, deadline=None)
@given(
    data=st.lists(paragraphs(), min_size=1, max_size=3),
    sizes=st.integers(1, 20).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))),
)
@example(data=[("a b c d e f g h", [("a", [(14, 15)])])], sizes=(1, 0))
@example(data=[("a b", [("", [(0, 3)])]), ("c", [("c", [(0, 1)])])], sizes=(2, 1))
def test_equal_to_the_usual_way(
    tokenizer: PreTrainedTokenizerFast,
    data: list[tuple[str, list[Asked]]],
    sizes: tuple[int, int],
) -> None:
    room, overlap = sizes
    made = tables(*data)
    window = room_for(room, overlap=overlap)
    windows = make_windows(made, tokenizer, window)
    assert_as_usual(windows, tokenizer, made, window.window, overlap)
    assert windows.untokenizable_answers == len(
        set(windows.question[windows.label_start == IGNORED].tolist())
    )


@pytest.mark.parametrize(("window", "overlap"), [(384, 128), (128, 32)])
def test_equal_to_the_usual_way_on_real_data(shared: Path, window: int, overlap: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared / "encoders/minilm-l6")
    articles = json.loads((shared / "squad2/dev-v2.0.json").read_text(encoding="utf-8"))["data"]
    every = [paragraph for article in articles for paragraph in article["paragraphs"]]
    chosen = []
    for paragraph in random.Random(0).sample(every, 300):
        context = paragraph["context"]
        asked: list[Asked] = []
        for qa in paragraph["qas"][:2]:
            spans = [(a["answer_start"], a["answer_start"] + len(a["text"])) for a in qa["answers"]]
            asked.append((qa["question"], spans))
        chosen.append((context, asked))
    data = tables(*chosen)
    windows = make_windows(data, tokenizer, WindowSettings(window, overlap))
    assert_as_usual(windows, tokenizer, data, window, overlap)
    assert windows.untokenizable_answers == 0


def test_settings_left_in_the_tokenizer_do_not_matter(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    data = tables(("the old bridge of paris " * 10, [("who built the bridge?", [(4, 7)])]))
    clean = make_windows(data, tokenizer, room_for(12))
    # A fast tokenizer keeps the truncation and padding of its last call.
    tokenizer(["a b c d"], truncation=True, max_length=3, padding="max_length")
    after = make_windows(data, tokenizer, room_for(12))
    assert after.context_ids.values.tolist() == clean.context_ids.values.tolist()
    assert after.question_ids.values.tolist() == clean.question_ids.values.tolist()


def test_importing_the_module_alone_is_enough() -> None:
    """Arrow's compute functions are there without a module that happens to import them."""
    code = "import qa_lightning.data.windows as w; w.pc.utf8_length"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- the decoded label is the answer

UNICODE = {
    "plain": "the city of paris was founded.",
    "one token": "paris",
    "accents": "Été à Orléans, où naît Zoë.",
    "combining marks": "E\u0301te\u0301 a\u0300 Orle\u0301ans, ou\u0300.",
    "mark first and last": "\u0301a b\u0301",
    "chinese": "北京是中国的首都。",
    "japanese and latin": "東京tower は1958年、高さ333m",
    "korean": "서울은 대한민국의 수도이다.",
    "emoji": "paris 😀 👩🏽\u200d🚀 rome🇫🇷!",
    "right to left": "ירושלים היא עיר, القاهرة مدينة (lima).",
    "right to left mark": "\u202epariscairo\u202c a \u200fb",
    "ligatures": "ﬁne ofﬁce İstanbul ß ǆ ½",
    "white space": "  a\tb\u00a0c\u3000d \n",
    "controls": "\u0000a\u0007b c\u200bd\ufeff",
    "beyond the basic plane": "\U0001d504\U0001d505 𐍈 a𠀀b",
}


def check_every_span(
    tokenizer: PreTrainedTokenizerFast, context: str, most: int, settings: WindowSettings
) -> None:
    """Ask for every span of `most` tokens at most, the first and last token included."""
    encoded = tokenizer(context, add_special_tokens=False, return_offsets_mapping=True)
    offsets = with_dropped_characters(context, encoded["offset_mapping"])
    answers = [
        (offsets[first][0], offsets[last][1])
        for first in range(len(offsets))
        for last in range(first, min(first + most, len(offsets)))
    ]
    data = tables((context, [("where?", [answer]) for answer in answers]))
    windows = make_windows(data, tokenizer, settings)
    assert windows.untokenizable_answers == 0
    for row, question in enumerate(windows.question.tolist()):
        begin, end = answers[question]
        # Where one character is several tokens, its answer is all of them.
        touching = [token for token, (a, b) in enumerate(offsets) if a < end and b > begin]
        if (
            windows.context_start[row] <= touching[0]
            and touching[-1] < windows.context_start[row] + windows.context_length[row]
        ):
            assert decoded(windows, row) == context[begin:end]
        else:
            assert labels(windows)[row] == (NO_ANSWER_HERE, NO_ANSWER_HERE)
    if len(offsets) < settings.window / 2:
        assert (windows.label_start > 0).all()


@pytest.mark.parametrize("context", UNICODE.values(), ids=UNICODE)
@pytest.mark.parametrize("context_first", [False, True])
def test_decoded_label_is_the_answer(
    tokenizer: PreTrainedTokenizerFast, context: str, context_first: bool
) -> None:
    check_every_span(tokenizer, context, 3, room_for(80, context_first=context_first))
    check_every_span(tokenizer, context, 3, room_for(4, overlap=2, context_first=context_first))


def test_decoded_label_is_the_answer_with_a_real_vocabulary(shared: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared / "encoders/minilm-l6")
    for context in UNICODE.values():
        check_every_span(tokenizer, context, 3, room_for(80))
        check_every_span(tokenizer, context, 3, room_for(5, overlap=3))


@settings(max_examples=60, deadline=None)
@given(context=st.text(CHARACTERS, max_size=25), context_first=st.booleans())
def test_decoded_label_is_the_answer_whatever_the_text(
    tokenizer: PreTrainedTokenizerFast, context: str, context_first: bool
) -> None:
    check_every_span(tokenizer, context, 4, room_for(6, overlap=3, context_first=context_first))


def test_an_answer_inside_a_word_is_labelled_with_the_tokens_that_touch_it() -> None:
    # Two contexts; tokens at characters 0-4, 4-6, 8-9 and 0-2.
    starts = Ragged(np.array([0, 4, 8, 0], np.int32), np.array([0, 3, 4]))
    ends = Ragged(np.array([4, 6, 9, 2], np.int32), np.array([0, 3, 4]))
    spans = [(0, 1, 2, 0, 0), (0, 3, 5, 0, 1), (0, 4, 9, 1, 2), (0, 5, 8, 1, 1), (1, 1, 5, 0, 0)]
    context, begin, end, first, last = map(np.array, zip(*spans, strict=True))
    found = tokens_of_characters(starts, ends, context, begin, end)
    assert found[0].tolist() == first.tolist()
    assert found[1].tolist() == last.tolist()
    # Characters 6 and 7 are between tokens.
    (first_token,), (last_token,) = tokens_of_characters(
        starts, ends, np.array([0]), np.array([6]), np.array([8])
    )
    assert first_token > last_token


# ---- which windows hold a label

ALPHABET = "a b c d e f g h"
FIVE = WindowSettings(window=1 + SPECIAL_TOKENS + 5, overlap=3, max_question_tokens=1)
"""Five context tokens beside a question of one: windows of ALPHABET are a-e, c-g and e-h."""

NONE, UNKNOWN = (NO_ANSWER_HERE, NO_ANSWER_HERE), (IGNORED, IGNORED)


def alphabet_labels(
    tokenizer: PreTrainedTokenizerFast, settings: WindowSettings, *answers: str | None
) -> list[list[Span]]:
    """Labels of the windows of ALPHABET for each answer ("": unanswerable, None: unlabelled)."""
    asked: list[Asked] = []
    for answer in answers:
        asked.append(("x", [place(ALPHABET, answer)] if answer else None if answer is None else []))
    windows = make_windows(tables((ALPHABET, asked)), tokenizer, settings)
    of_question: list[list[Span]] = [[] for _ in answers]
    for question, label in zip(windows.question.tolist(), labels(windows), strict=True):
        of_question[question].append(label)
    return of_question


def test_a_window_holds_the_label_only_with_the_whole_answer(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    answers = ("c d", "b c d e", "d e f", "b c d e f g h", "a", "h", "", None)
    assert alphabet_labels(tokenizer, FIVE, *answers) == [
        [(5, 6), (3, 4), NONE],
        [(4, 7), NONE, NONE],
        [NONE, (4, 6), NONE],
        [NONE, NONE, NONE],
        [(3, 3), NONE, NONE],
        [NONE, NONE, (6, 6)],
        [NONE, NONE, NONE],
        [UNKNOWN, UNKNOWN, UNKNOWN],
    ]


def test_context_first_moves_the_labels(tokenizer: PreTrainedTokenizerFast) -> None:
    settings = replace(FIVE, context_first=True)
    found = alphabet_labels(tokenizer, settings, "c d", "h", "")
    assert found == [[(3, 4), (1, 2), NONE], [NONE, NONE, (4, 4)], [NONE, NONE, NONE]]


def test_first_window_only_ignores_answers_cut_away(tokenizer: PreTrainedTokenizerFast) -> None:
    settings = replace(FIVE, first_window_only=True)
    found = alphabet_labels(tokenizer, settings, "a", "d e", "e f", "h", "", None)
    assert found == [[(3, 3)], [(6, 7)], [UNKNOWN], [UNKNOWN], [NONE], [UNKNOWN]]


@pytest.mark.parametrize("first_window_only", [False, True])
def test_an_answer_without_a_token_is_ignored_and_counted(
    tokenizer: PreTrainedTokenizerFast, first_window_only: bool
) -> None:
    context = "a b \u0007 c d e f g"
    asked: list[Asked] = [
        ("x", [(1, 2)]),
        ("x", [(3, 6)]),  # white space and a control character
        ("x", [place(context, "b \u0007 c")]),
        ("x", []),
    ]
    settings = replace(FIVE, first_window_only=first_window_only)
    windows = make_windows(tables((context, asked)), tokenizer, settings)
    assert windows.untokenizable_answers == 2
    for question, first in ((0, UNKNOWN), (1, UNKNOWN), (2, (4, 5)), (3, NONE)):
        of_question = [
            label
            for owner, label in zip(windows.question.tolist(), labels(windows), strict=True)
            if owner == question
        ]
        assert of_question[0] == first
        assert len(of_question) == (1 if first_window_only else 2)
        if first == UNKNOWN:
            assert set(of_question) == {UNKNOWN}


def test_every_answer_has_windows_of_its_own(tokenizer: PreTrainedTokenizerFast) -> None:
    asked: list[Asked] = [
        ("a", [place(ALPHABET, text) for text in ("a", "c d", "h")]),
        ("b", []),
        ("c", None),
        ("d", [place(ALPHABET, "b")]),
    ]
    data = tables((ALPHABET, asked), ("a b", [("e", [(0, 1), (2, 3), (0, 3), (0, 1)])]))
    settings = replace(FIVE, every_answer=True)
    windows = make_windows(data, tokenizer, settings)
    keys = list(zip(windows.question.tolist(), windows.index.tolist(), strict=True))
    assert keys == [(q, n) for q, count in enumerate((9, 3, 3, 3, 4)) for n in range(count)]
    assert windows.context_start.tolist() == [0, 2, 4] * 6 + [0] * 4
    texts = [
        [
            decoded(windows, row)
            for row in range(len(windows))
            if keys[row][0] == question and windows.label_start[row] > 0
        ]
        for question in range(5)
    ]
    assert texts == [["a", "c d", "c d", "h"], [], [], ["b"], ["a", "b", "a b", "a"]]

    windows = make_windows(data, tokenizer, FIVE)
    keys = list(zip(windows.question.tolist(), windows.index.tolist(), strict=True))
    assert keys == [(q, n) for q, count in enumerate((3, 3, 3, 3, 1)) for n in range(count)]


# ---- how windows lie


@settings(max_examples=100, deadline=None)
@given(
    tokens=st.lists(st.integers(0, 60), min_size=1, max_size=4),
    question=st.integers(0, LONGEST_QUESTION + 3),
    sizes=st.integers(1, 20).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))),
    context_first=st.booleans(),
)
def test_windows_cover_the_context_and_overlap_exactly(
    tokenizer: PreTrainedTokenizerFast,
    tokens: list[int],
    question: int,
    sizes: tuple[int, int],
    context_first: bool,
) -> None:
    room, overlap = sizes
    window = room_for(room, overlap=overlap, context_first=context_first)
    data = tables(*(("a " * count, [("b " * question, [])]) for count in tokens))
    windows = make_windows(data, tokenizer, window)
    assert windows.lengths.max() <= window.window
    capacity = window.window - SPECIAL_TOKENS - min(question, LONGEST_QUESTION)
    for row, count in enumerate(tokens):
        mine = windows.question == row
        assert (windows.context[mine] == row).all()
        first, size = windows.context_start[mine], windows.context_length[mine]
        assert first[0] == 0 and first[-1] + size[-1] == count
        assert (size[:-1] == capacity).all()  # only the last window has room left
        assert (first[:-1] + size[:-1] - first[1:] == overlap).all()
        assert (size[1:] > overlap).all()  # every window brings something new
        assert windows.index[mine].tolist() == list(range(int(mine.sum())))


def test_both_layouts(tokenizer: PreTrainedTokenizerFast) -> None:
    for context_first, text in (
        (False, "[CLS] who was king ? [SEP] paris is old . [SEP]"),
        (True, "[CLS] paris is old . [SEP] who was king ? [SEP]"),
    ):
        windows = one_context(
            tokenizer,
            "Paris is old.",
            ("Who was king?", [(0, 5)]),
            room=10,
            overlap=0,
            context_first=context_first,
        )
        batch = WindowDataset(windows, with_offsets=True)[[0]]
        tokens = tokenizer.convert_ids_to_tokens(batch.input_ids[0, :11].tolist())
        assert " ".join(tokens) == text
        assert decoded(windows, 0) == "Paris"
        ids = tokenizer("Who was king?", "Paris is old.")["input_ids"]
        assert (batch.input_ids[0, :11].tolist() == ids) is not context_first


def test_questions_are_capped(tokenizer: PreTrainedTokenizerFast) -> None:
    context = "paris rome"
    asked: list[Asked] = [("king " * 30, [(6, 10)]), ("queen " * 8, []), ("", []), ("  who", [])]
    windows = one_context(tokenizer, context, *asked, room=4, overlap=1)
    assert windows.question_ids.lengths.tolist() == [8, 8, 0, 1]
    assert set(windows.question_ids.values[:8].tolist()) == {
        tokenizer.convert_tokens_to_ids("king")
    }
    assert decoded(windows, 0) == "rome"


def test_a_long_question_keeps_both_ends(tokenizer: PreTrainedTokenizerFast) -> None:
    letters = "a b c d e f g h i j"
    for most, kept in ((10, letters), (5, "a b c i j"), (2, "a j"), (1, "a")):
        settings = WindowSettings(window=32, overlap=1, max_question_tokens=most)
        windows = make_windows(tables(("paris", [(letters, []), ("a", [])])), tokenizer, settings)
        first = windows.question_ids.values[: windows.question_ids.bounds[1]]
        assert tokenizer.convert_ids_to_tokens(first.tolist()) == kept.split()
        assert windows.question_tokens.tolist() == [10, 1]
        assert windows.cut_questions.tolist() == [most < 10, False]


def test_white_space_before_a_question_is_dropped() -> None:
    # A tokenizer that, unlike BERT's, keeps spaces as tokens.
    vocabulary = {"[CLS]": 0, "[SEP]": 1, "[PAD]": 2, " ": 3, "a": 4, "b": 5}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[PAD]"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    backend.post_processor = processors.BertProcessing(("[SEP]", 1), ("[CLS]", 0))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]"
    )
    context = " a b"
    asked: list[Asked] = [(" \t\n" * 9 + "a b", [(1, 2)])]
    windows = one_context(tokenizer, context, *asked, room=10, overlap=0)
    assert windows.question_ids.values.tolist() == [4, 3, 5]
    assert windows.context_ids.values.tolist() == [3, 4, 3, 5]  # contexts stay as they are
    assert decoded(windows, 0) == "a"


@pytest.mark.parametrize(
    ("window", "overlap", "question"),
    [(20, 9, 8), (20, 50, 8), (11, 0, 8), (5, 0, 64), (384, 320, 61), (20, -1, 8), (20, 0, 0)],
)
def test_sizes_that_cannot_advance_are_refused(window: int, overlap: int, question: int) -> None:
    with pytest.raises(UserError, match="overlap") as refusal:
        WindowSettings(window=window, overlap=overlap, max_question_tokens=question)
    assert str(overlap) in str(refusal.value)


def test_the_largest_overlap_allowed_advances(tokenizer: PreTrainedTokenizerFast) -> None:
    sizes = WindowSettings(window=20, overlap=8, max_question_tokens=8)
    windows = make_windows(tables(("a " * 30, [("b " * 99, [])])), tokenizer, sizes)
    assert windows.context_start.tolist() == list(range(22))


@pytest.mark.parametrize("room", [1, 20])
def test_texts_without_a_token(tokenizer: PreTrainedTokenizerFast, room: int) -> None:
    controls = "\u0007\u0000 \u200b"
    data = tables(
        ("paris", [("a", [(0, 5)])]),
        (controls, [(controls, [(0, 1)]), ("a b", []), ("", None)]),
        ("rome", [(controls, [(0, 4)])]),
        (controls, [("a", [])]),
    )
    windows = make_windows(data, tokenizer, room_for(room, overlap=0))
    assert windows.context_length.tolist() == [1, 0, 0, 0, 1, 0]
    assert windows.lengths.tolist() == [5, 3, 5, 3, 4, 4]
    assert labels(windows) == [(3, 3), UNKNOWN, NONE, UNKNOWN, (2, 2), NONE]
    assert windows.untokenizable_answers == 1
    batch = WindowDataset(windows, with_offsets=True)[[0, 1, 2, 3, 4, 5]]
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert batch.input_ids[1, :3].tolist() == [cls, sep, sep]
    assert batch.offsets is not None
    assert (batch.offsets[..., 0] >= 0).sum(1).tolist() == windows.context_length.tolist()
    only = make_windows(tables((controls, [(controls, [])])), tokenizer, room_for(room, overlap=0))
    assert only.lengths.tolist() == [3]
    assert len(WindowDataset(only, with_offsets=True)[[0]].input_ids) == 1


def test_each_text_is_tokenised_once_and_told(tokenizer: PreTrainedTokenizerFast) -> None:
    done: list[int] = []
    data = tables(*((f"paris {n} rome", [("a", [(0, 5)]), (f"b {n}", [])]) for n in range(1200)))
    windows = make_windows(data, tokenizer, room_for(8, overlap=0), done.append)
    assert sum(done) == 1200 + 2400
    assert len(done) > 2  # a bar that moves
    assert len(windows.context_ids.lengths) == 1200
    assert len(windows.question_ids.lengths) == 2400
    assert {decoded(windows, row) for row in (0, 998, 2000, 2002, 2398)} == {"paris"}


def test_columns_in_pieces(tokenizer: PreTrainedTokenizerFast) -> None:
    """Tables that were filtered or joined have sliced columns of several chunks."""
    asked: list[Asked] = [("a", []), ("b", [place(ALPHABET, "c d")]), ("c", [(0, 1)]), ("d", None)]
    whole = tables((ALPHABET, asked))
    pieces = pa.concat_tables([whole.questions.slice(1, 1), whole.questions.slice(2, 2)])
    expected = labels(make_windows(whole, tokenizer, FIVE))[3:]
    found = make_windows(SquadTables(whole.contexts, pieces, whole.report), tokenizer, FIVE)
    assert labels(found) == expected
    sliced = whole.questions.slice(1)
    found = make_windows(SquadTables(whole.contexts, sliced, whole.report), tokenizer, FIVE)
    assert labels(found) == expected


def test_words_begin_where_the_tokenizer_says(tokenizer: PreTrainedTokenizerFast) -> None:
    contexts = ["museums, kinged!", "\u0007", *UNICODE.values()]
    windows = make_windows(tables(*((text, [("a", [])]) for text in contexts)), tokenizer, FIVE)
    flags = np.split(windows.word_starts.values, windows.word_starts.bounds[1:-1])
    found = [row.astype(bool).tolist() for row in flags]
    for row, text in enumerate(contexts):
        words = tokenizer(text, add_special_tokens=False).word_ids()
        begins = [n == 0 or word != words[n - 1] for n, word in enumerate(words)]
        assert found[row] == begins
    # museum ##s , king ##ed !
    assert found[0] == [True, False, True, True, False, True]


@pytest.mark.parametrize("title", ["decomposed", "emoji", "hindi", "arabic"])
def test_an_answer_with_marks_behind_its_last_letter_is_labelled_whole(
    shared: Path, title: str
) -> None:
    """The real vocabulary strips accents, and with them vowel signs and variation selectors."""
    data = read_squad(REPOSITORY / "tests/cases/passages.json")
    windows = make_windows(data, AutoTokenizer.from_pretrained(shared / "encoders/minilm-l6"), ROOM)
    titles, answers = data.contexts["title"].to_pylist(), data.questions["answers"].to_pylist()
    rows = [row for row in range(len(windows)) if titles[int(windows.context[row])] == title]
    gold = [answers[int(windows.question[row])][0]["text"] for row in rows]
    assert len(gold) >= 4 and [decoded(windows, row) for row in rows] == gold


ROOM = WindowSettings(384, 0)
WORDS = st.text(st.sampled_from("aéñçôab\u0301\u0308िั️"), min_size=1, max_size=5).map("a".__add__)


@settings(max_examples=60, deadline=None)
@given(
    words=st.lists(WORDS, min_size=1, max_size=8),
    form=st.sampled_from(["NFC", "NFD"]),
    chosen=st.tuples(st.integers(0, 7), st.integers(0, 7)),
)
def test_a_label_of_whole_words_decodes_to_them_composed_and_decomposed(
    tokenizer: PreTrainedTokenizerFast,
    words: list[str],
    form: Literal["NFC", "NFD"],
    chosen: tuple[int, int],
) -> None:
    words = [unicodedata.normalize(form, word) for word in words]
    first, last = sorted(min(place, len(words) - 1) for place in chosen)
    context = " ".join(words)
    begin = len(" ".join([*words[:first], ""]))
    end = begin + len(" ".join(words[first : last + 1]))
    windows = make_windows(tables((context, [("?", [(begin, end)])])), tokenizer, ROOM)
    assert decoded(windows, 0) == context[begin:end] == " ".join(words[first : last + 1])


def test_answers_without_a_place_are_not_learnt_as_unanswerable(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    data = tables((ALPHABET, [("a", [place(ALPHABET, "c"), place(ALPHABET, "e")]), ("b", [])]))
    rows = data.questions.to_pylist()
    for lost, expected in ((1, (7, 7)), (2, UNKNOWN)):
        for answer in rows[0]["answers"][:lost]:
            answer["start"] = NO_PLACE
        changed = replace(data, questions=pa.Table.from_pylist(rows, QUESTIONS))
        for every_answer in (False, True):
            windows = make_windows(changed, tokenizer, replace(ROOM, every_answer=every_answer))
            assert labels(windows) == [expected, NONE]


def test_answers_may_begin_at_any_token_if_asked(tokenizer: PreTrainedTokenizerFast) -> None:
    data = tables(("300crowns", [("?", [(0, 3)])]))
    starts = [
        make_windows(data, tokenizer, replace(ROOM, answer_boundaries=unit)).word_starts.values
        for unit in ("word", "token")
    ]
    assert [int(each.sum()) for each in starts] == [1, len(starts[0])]
