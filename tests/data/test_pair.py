"""Windows of every family of tokenizers are the tokenizer's own pairs, with exact characters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_lightning.data.batches import WindowDataset
from qa_lightning.data.pair import PairLayout
from qa_lightning.data.tables import tables_from_texts
from qa_lightning.data.window_settings import WindowSettings
from qa_lightning.data.windows import Windows, make_windows
from qa_lightning.errors import UserError
from tests.helpers.families import FAMILIES, tokenizer_of

LETTERS = st.sampled_from(list("abcde  .,-'1é“”\u0301東😀½\u3000\t\u00a0İ"))
WILD = st.text(LETTERS | st.characters(exclude_categories=["Cs", "Cc", "Co"]), max_size=40)
WORDS = st.lists(st.sampled_from("the city of paris, was founded in 1234. it's old".split()))
TEXTS = (WILD | WORDS.map(" ".join)).map("x".__add__)
WINDOW = WindowSettings(100, 0, 40)


def cleared(family: str) -> Any:
    tokenizer = tokenizer_of(family)
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25, deadline=None)
@given(
    question=TEXTS,
    context=TEXTS.map(lambda text: text * 2),
    overlap=st.integers(0, 4),
    context_first=st.booleans(),
)
def test_windows_are_the_tokenizers_own_pairs(
    family: str, question: str, context: str, overlap: int, context_first: bool
) -> None:
    tokenizer = cleared(family)
    size = len(tokenizer(question, add_special_tokens=False)["input_ids"])
    window = size + PairLayout.of(tokenizer).size + 8
    sizes = WindowSettings(window, overlap, size, context_first)
    windows = make_windows(tables_from_texts([question], [context]), tokenizer, sizes)
    pair = (context, question) if context_first else (question, context)
    expected = tokenizer(
        *pair,
        truncation="only_first" if context_first else "only_second",
        max_length=window,
        stride=overlap,
        return_overflowing_tokens=True,
        padding=True,
    )
    cleared(family)
    batch = WindowDataset(windows, with_offsets=True)[list(range(len(windows)))]
    width = len(expected["input_ids"][0])
    assert batch.input_ids[:, :width].tolist() == expected["input_ids"]
    # DeBERTa has no token types to embed; its tokenizer gives all windows but the first others.
    if family != "deberta" and "token_type_ids" in tokenizer.model_input_names:
        assert batch.token_type_ids is not None
        assert batch.token_type_ids[:, :width].tolist() == expected["token_type_ids"]
    assert (batch.token_type_ids is None) == ("token_type_ids" not in tokenizer.model_input_names)


def characters(windows: Windows) -> list[tuple[str, int, bool]]:
    """Text, first character and word start of the context's tokens that have characters."""
    text = windows.contexts["text"][0].as_py()
    spans = zip(
        windows.char_starts.values.tolist(),
        windows.char_ends.values.tolist(),
        windows.word_starts.values.tolist(),
        strict=True,
    )
    # Several tokens may be of one character: its bytes, or the space before it.
    once = {(a, b): word for a, b, word in sorted(spans, key=lambda span: span[2])}
    return [(text[a:b], a, bool(word)) for (a, b), word in sorted(once.items()) if b > a]


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_have_no_spaces_and_words_begin_as_with_bert(family: str) -> None:
    text = " the old  bridge, 12.5% (of paris) wasn't\u00a0red."
    tables = tables_from_texts(["?"], [text])
    tokens = characters(make_windows(tables, cleared(family), WINDOW))
    assert not any(char.isspace() for token, _, _ in tokens for char in token)
    bert = characters(make_windows(tables, cleared("bert"), WINDOW))
    assert [at for _, at, word in tokens if word] == [at for _, at, word in bert if word]
    assert "".join(token for token, _, _ in tokens) == "".join(text.split())


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25, deadline=None)
@given(words=st.lists(TEXTS.map(lambda text: "".join(text.split())), min_size=1, max_size=6))
def test_a_label_of_whole_words_decodes_to_them(family: str, words: list[str]) -> None:
    context = " ".join(words)
    for number, word in enumerate(words):
        begin = len(" ".join([*words[:number], ""]))
        tables = tables_from_texts(["?"], [context])
        row = tables.questions.to_pylist()[0]
        row |= {"labelled": True, "answers": [{"text": word, "start": begin}]}
        questions = tables.questions.from_pylist([row], tables.questions.schema)
        sizes = WindowSettings(2000, 0, 8)
        windows = make_windows(replace(tables, questions=questions), cleared(family), sizes)
        batch = WindowDataset(windows, with_offsets=True)[[0]]
        assert batch.offsets is not None and batch.word_starts is not None
        first, last = int(batch.label_start), int(batch.label_end)
        assert context[batch.offsets[0, first, 0] : batch.offsets[0, last, 1]] == word
        assert batch.word_starts[0, first]


def test_a_pair_that_does_not_begin_with_the_class_token_is_refused() -> None:
    import transformers

    tokenizer = cleared("bert")
    odd = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, cls_token="[SEP]", pad_token="[PAD]"
    )
    with pytest.raises(UserError, match="class token"):
        PairLayout.of(odd)
