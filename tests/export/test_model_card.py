"""The model card: what is known stands in it, what is not is called so, and its code runs."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_lightning.data.download import OFFICIAL
from qa_lightning.data.window_settings import WindowSettings
from qa_lightning.export import model_card as module
from qa_lightning.export.model_card import CardFacts, CardMetadata, Variant, model_card
from qa_lightning.export.provenance import SQUAD, DataFile, Scores, Training
from qa_lightning.model.trained_model import InferenceSettings, TrainedModel

FIGURES = {
    "exact": 61.234,
    "f1": 64.0,
    "total": 200,
    "HasAns_exact": 50.0,
    "HasAns_f1": 55.532,
    "HasAns_total": 100,
    "NoAns_exact": 72.468,
    "NoAns_f1": 72.468,
    "NoAns_total": 100,
    "zero_exact": 60.5,
    "zero_f1": 63.25,
    "best_exact": 62.0,
    "best_f1": 65.0,
    "no_answer_rate": 57.5,
}
TRAINING = Training(
    model={"pretrained": "owner/encoder", "learning_rate": 2e-4, "unanswerable_share": 0.5},
    data={"holdout": 0.05, "max_train_questions": 28000, "batch_size": 16, "seed": 7},
    trainer={"max_epochs": 3, "precision": "bf16-mixed"},
    record={
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "data": {
            "train": {"name": "data/train.json", "sha256": "a" * 64, "questions": 27989},
            "val": {"name": "data/val.json", "sha256": "b" * 64},
        },
        "batch": {"effective": 64},
        "weights": {"sha256": "c" * 64},
    },
    starts=3,
    steps=1771,
    validations=4,
    scores=Scores(DataFile("data/val.json", "b" * 64, 200), "during training", FIGURES, 0.5),
)


@pytest.fixture(scope="module")
def trained(tiny_encoder: Path) -> TrainedModel:
    model = TrainedModel.load(tiny_encoder)
    return with_settings(model, WindowSettings(64, 16, 16), 0.25)


def with_settings(
    model: TrainedModel, windows: WindowSettings, null_threshold: float | None
) -> TrainedModel:
    settings = InferenceSettings(model.settings.tokenizer, windows, null_threshold)
    return TrainedModel(model.encoder, settings)


def rows(card: str, heading: str) -> list[list[str]]:
    """Cells of the table whose head begins with these words."""
    table = card[card.index(f"| {heading} |") :].split("\n\n")[0]
    return [line[2:-2].split(" | ") for line in table.splitlines()[2:]]


def test_what_the_hub_reads(trained: TrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_is_in_hub_cache", lambda name: name == "owner/encoder")
    stated = CardMetadata("owner/answers", license="mit", language="no")
    read = ModelCard(model_card(CardFacts(stated, trained, TRAINING))).data
    assert (read.license, read.language, read.base_model) == ("mit", "no", "owner/encoder")
    assert (read.library_name, read.pipeline_tag) == ("transformers", "question-answering")
    assert read.metrics == ["exact_match", "f1"]
    assert read.datasets is None  # files of one's own have no name on the hub
    figures = {one.metric_type: one.metric_value for one in read.eval_results}
    assert figures == {"exact_match": 61.23, "f1": 64.0}
    assert {one.dataset_name for one in read.eval_results} == {"val.json"}
    assert read.model_name == "owner/answers"


def test_official_data_are_known_by_their_content(trained: TrainedModel) -> None:
    record = {"data": {"train": {"name": "x/t.json", "sha256": OFFICIAL["train"].sha256}}}
    scores = Scores(DataFile("d.json", OFFICIAL["dev"].sha256), "at export", FIGURES, 0.5)
    training = Training(model={"learning_rate": 1.0}, record=record)
    read = ModelCard(model_card(CardFacts(CardMetadata("m"), trained, training, scores))).data
    assert (read.datasets, read.language) == ([SQUAD], "en")
    assert {(one.dataset_type, one.dataset_split) for one in read.eval_results} == {
        (SQUAD, "validation")
    }


def test_each_set_of_questions_has_its_own_figures(trained: TrainedModel) -> None:
    scores = Scores(DataFile("other.json"), "at export", {**FIGURES, "exact": 1.0, "f1": 2.0}, 0.5)
    text = model_card(CardFacts(CardMetadata("m"), trained, TRAINING, scores))
    (index,) = yaml.safe_load(text.split("\n---\n")[0].removeprefix("---"))["model-index"]
    assert {
        result["dataset"]["name"]: [metric["value"] for metric in result["metrics"]]
        for result in index["results"]
    } == {"other.json": [1.0, 2.0], "val.json": [61.23, 64.0]}


def test_what_is_known_of_the_training(trained: TrainedModel) -> None:
    metadata = CardMetadata("m", notes="Half of the data is *missing*.")
    text = model_card(CardFacts(metadata, trained, TRAINING))
    assert rows(text, "data") == [
        ["training", "train.json", "27,989", f"`{'a' * 64}`"],
        ["validation", "val.json", "200", f"`{'b' * 64}`"],
    ]
    recipe = dict(rows(text, "recipe"))
    assert recipe["peak learning rate"] == "0.0002"
    assert recipe["windows in a batch"] == "64"
    assert recipe["optimizer steps behind these weights"] == "1,771"
    assert recipe["times resumed"] == "2"
    assert recipe["precision"] == "bf16-mixed"
    assert recipe["seed of the data"] == "7"
    assert "None" not in recipe.values()
    assert "layer-wise decay of the learning rate" not in recipe  # it was off
    training = dataclasses.replace(TRAINING, model={"layer_decay": 0.8})
    card = model_card(CardFacts(metadata, trained, training))
    assert dict(rows(card, "recipe"))["layer-wise decay of the learning rate"] == "0.8"
    assert "At most 28,000 questions were drawn" in text
    assert "5 % of its articles were held out" in text
    assert "0.2500 (tuned on 5 % of the training articles" in text
    assert "Versions: python 3.11.7, torch 2.13.0." in text
    assert "## Notes of the publisher\n\nHalf of the data is *missing*.\n" in text


def test_scores_stand_beside_what_they_mean(trained: TrainedModel) -> None:
    text = model_card(CardFacts(CardMetadata("m"), trained, TRAINING))
    assert rows(text, "questions") == [
        ["all", "200", "61.23", "64.00"],
        ["HasAns", "100", "50.00", "55.53"],
        ["NoAns", "100", "72.47", "72.47"],
    ]
    zero, in_force, best = rows(text[text.index("## Scores") :], "null threshold")
    assert zero == ["0", "60.50", "63.25"]
    assert in_force == ["**0.5, in force**", "61.23", "64.00"]
    assert "an oracle" in best[0] and best[1:] == ["62.00", "65.00"]
    assert '57.5 % of the questions were answered with "no answer"' in text
    assert "answering nothing at all would score 50.00" in text
    assert "The best of 4 checkpoints was chosen by exact match on this file" in text
    for word in ("**EM**", "**F1**", "**HasAns**", "**Null threshold**"):
        assert f"- {word}" in text.replace("**, **NoAns**", "**")


def test_scores_on_what_was_trained_on_say_so(trained: TrainedModel) -> None:
    scores = Scores(DataFile("again.json", "a" * 64, 200), "at export", FIGURES, 0.5)
    text = model_card(CardFacts(CardMetadata("m"), trained, TRAINING, scores))
    assert text.count("**The model was trained on questions of this file") == 1
    assert text.index("### again.json") < text.index("### val.json")
    # The file that was scored at export is not shown a second time with the figures of training.
    scores = Scores(DataFile("copy.json", "b" * 64, 200), "at export", FIGURES, 0.5)
    text = model_card(CardFacts(CardMetadata("m"), trained, TRAINING, scores))
    assert "### copy.json" in text and "### val.json" not in text


def test_what_is_not_known_is_said_not_to_be(trained: TrainedModel) -> None:
    bare = with_settings(trained, trained.settings.windows, None)
    text = model_card(CardFacts(CardMetadata("m"), bare, Training()))
    for key in ("license", "language", "base_model", "datasets", "model-index"):
        assert f"\n{key}:" not in text.split("\n---\n")[0]
    known = dict(rows(text, ""))
    assert known["trained from"] == known["language"] == "not known"
    assert known["null threshold"] == "0: none was tuned"
    assert "## Scores\n\nNot known: no score came with the model" in text
    assert "## Training\n\nNot known:" in text
    assert "The model: not stated" in text
    assert "None" not in re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def test_a_name_that_is_no_hub_model_is_not_called_one(trained: TrainedModel) -> None:
    text = model_card(CardFacts(CardMetadata("m"), trained, TRAINING))
    assert "base_model" not in text
    assert "`encoder`, as the run's settings name it; which model that is, is not known" in text
    metadata = CardMetadata("m", base_model="owner/encoder")
    given = model_card(CardFacts(metadata, trained, TRAINING))
    assert "base_model: owner/encoder" in given
    random = Training(model=TRAINING.model, random_weights=True)
    text = model_card(CardFacts(CardMetadata("m"), trained, random))
    assert "random weights: no pretrained encoder" in text


SECRET = "somebody"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (f"/home/{SECRET}/train.json", "train.json"),
        (f"C:\\{SECRET}\\train.json", "train.json"),
        (f"../{SECRET}/train.json.gz", "train.json.gz"),
        (f"https://{SECRET}:word@host.example/a/t.json?token={SECRET}#{SECRET}", "t.json"),
    ],
)
def test_what_concerns_nobody_else_stays_out(trained: TrainedModel, name: str, shown: str) -> None:
    record = {"data": {"train": {"name": name}, "val": {"name": name}}, "command": f"fit {SECRET}"}
    training = Training(
        model={"pretrained": f"/home/{SECRET}/encoder"}, record=record, data={"cache_dir": SECRET}
    )
    scores = Scores(DataFile(name), "at export", FIGURES, 0.5)
    text = model_card(CardFacts(CardMetadata("m"), trained, training, scores))
    assert SECRET not in text
    assert rows(text, "data")[0][1].endswith(shown)


PRINTABLE = st.characters(codec="utf-8", categories=["L", "N", "P", "S"])


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30), st.text(PRINTABLE, max_size=30))
def test_odd_names_break_neither_front_matter_nor_tables(
    trained: TrainedModel, name: str, license: str
) -> None:
    scores = Scores(DataFile(f"{name}.json", "a" * 64, 200), "at export", FIGURES, 0.5)
    variants = [Variant(f"{name}|", "weights", 1)]
    stated = CardMetadata("m", license=license)
    text = model_card(CardFacts(stated, trained, TRAINING, scores, variants))
    read = ModelCard(text).data
    assert (read.license or "") == license
    assert len(read.eval_results) in (2, 4)  # 2 if the names are equal
    for heading, cells in (("data", 4), ("file", 3)):
        table = text[text.index(f"| {heading} |") :].split("\n\n")[0]
        for line in table.split("\n"):
            assert len(re.findall(r"(?<!\\)\|", line)) == cells + 1


# ---- Its code


def code_of(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def printed(code: str, capsys: pytest.CaptureFixture[str]) -> str:
    exec(compile(code, "card", "exec"), {})
    return capsys.readouterr().out.strip()


@pytest.mark.parametrize("context_first", [False, True])
@pytest.mark.parametrize("threshold", [-1000.0, 1000.0])
def test_its_code_runs_and_answers(
    trained: TrainedModel,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    threshold: float,
    context_first: bool,
) -> None:
    windows = WindowSettings(64, 16, 16, context_first=context_first)
    model = with_settings(trained, windows, threshold)
    model.save(tmp_path / "model")
    card = model_card(CardFacts(CardMetadata(str(tmp_path / "model")), model, Training()))
    with_package, alone = code_of(card)
    said = printed(with_package, capsys)
    question, context = "Who wrote it?", "It was written by Ada Lovelace in 1843."
    if threshold < 0:
        assert said.startswith("no answer ") and printed(alone, capsys) == "no answer"
        return
    assert context.count(said.rsplit(" ", 2)[0]) >= 1
    assert printed(alone, capsys) == best_span(model, question, context, context_first)


def best_span(model: TrainedModel, question: str, context: str, context_first: bool) -> str:
    """The best span of at most 30 tokens, found by trying all."""
    texts = (context, question) if context_first else (question, context)
    given: Any = model.settings.tokenizer(*texts, return_offsets_mapping=True)
    with torch.inference_mode():
        found = model.encoder.eval()(torch.tensor([given["input_ids"]]))
    start, end = found.start_logits[0].tolist(), found.end_logits[0].tolist()
    part = 0 if context_first else 1
    inside = [row for row, one in enumerate(given.sequence_ids(0)) if one == part]
    scores = {
        (first, last): start[first] + end[last]
        for first in inside
        for last in inside
        if first <= last < first + 30
    }
    first, last = max(scores, key=lambda span: scores[span])
    characters = given["offset_mapping"]
    return context[characters[first][0] : characters[last][1]]


def test_forms_are_listed_with_their_scores(trained: TrainedModel) -> None:
    scores = Scores(DataFile("dev.json", "d" * 64, 200), "at export", FIGURES, 0.5)
    variants = [
        Variant("model.safetensors", "weights", 90_273_680, FIGURES),
        Variant("model.onnx", "ONNX", 91_001_813, FIGURES, 200),
        Variant("model_int8.onnx", "int8", 23_433_681, {"exact": 60.9, "f1": 63.9}, 191),
    ]
    text = model_card(CardFacts(CardMetadata("m"), trained, TRAINING, scores, variants))
    forms = text[text.index("### ONNX beside the original, on dev.json") :]
    assert rows(forms, "file") == [
        ["`model.safetensors`", "weights", "61.23", "64.00", ""],
        ["`model.onnx`", "ONNX", "61.23", "64.00", "200"],
        ["`model_int8.onnx`", "int8", "60.90", "63.90", "191"],
    ]
    sizes = rows(text[text.index("## Files") :], "file")
    assert [row[2] for row in sizes[:3]] == ["90.3 MB", "91.0 MB", "23.4 MB"]
    assert "`model.onnx` and `model_int8.onnx` take `input_ids`" in text
