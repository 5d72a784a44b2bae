"""SQuAD-format data becomes checked tables, or is refused with file, question and cause."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_lightning.data import squad
from qa_lightning.data.download import OFFICIAL, sha256_of
from qa_lightning.data.squad import (
    CONTEXTS,
    QUESTIONS,
    ReadReport,
    Source,
    SquadTables,
    read_squad,
    resolve_source,
    select,
    split_articles,
)
from qa_lightning.errors import UserError

CONTEXT = "Zoë plays the cello in Gent. 😀 Ana plays the oboe."
Write = Callable[..., Path]


def answer(text: str, start: int | None = None) -> dict[str, Any]:
    return {"text": text, "answer_start": CONTEXT.index(text) if start is None else start}


def question(name: str, *answers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": name, "question": f"What about {name}?", "answers": list(answers), **more}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write questions about CONTEXT (or whole articles) as a SQuAD-format file."""

    def write(*questions: Any, articles: Any = None, context: str = CONTEXT) -> Path:
        paragraphs = [{"context": context, "qas": list(questions)}]
        data = [{"title": "Music", "paragraphs": paragraphs}] if articles is None else articles
        path = tmp_path / "f.json"
        path.write_text(json.dumps({"version": "v2.0", "data": data}))
        return path

    return write


def many(count: int) -> list[dict[str, Any]]:
    """Faultless questions, so that a fault in one more is below the limit."""
    return [question(f"good{n}", answer("cello")) for n in range(count)]


def check(tables: SquadTables) -> None:
    """What holds of any tables: schemas, counts, unique ids, every answer in its place."""
    assert tables.contexts.schema == CONTEXTS
    assert tables.questions.schema == QUESTIONS
    rows = tables.questions.to_pylist()
    texts = tables.contexts["text"].to_pylist()
    report = tables.report
    assert len({row["id"] for row in rows}) == len(rows) == report.questions > 0
    assert sorted({row["context"] for row in rows}) == list(range(report.contexts))
    assert report.contexts == len(texts)
    assert report.articles == len(set(tables.contexts["article"].to_pylist()))
    assert report.answers == sum(len(row["answers"]) for row in rows)
    assert report.unanswerable == sum(row["labelled"] and not row["answers"] for row in rows)
    assert report.unlabelled == sum(not row["labelled"] for row in rows)
    for row in rows:
        for one in row["answers"] + row["plausible_answers"]:
            assert texts[row["context"]].startswith(one["text"], one["start"]) and one["text"]


# --- what is read ------------------------------------------------------------------------------


def test_a_squad_2_file_row_by_row(write: Write) -> None:
    other = {"context": "It rains.", "qas": [question("c", is_impossible=True)]}
    path = write(
        articles=[
            {
                "title": "Music",
                "paragraphs": [
                    {
                        "context": CONTEXT,
                        "qas": [
                            question("a", answer("oboe"), answer("Ana"), is_impossible=False),
                            question("b", is_impossible=True, plausible_answers=[answer("Gent")]),
                        ],
                    },
                    {"context": "Nobody asks about this.", "qas": []},
                ],
            },
            {"paragraphs": [other]},  # no title
        ]
    )
    tables = read_squad(path)
    check(tables)
    assert tables.contexts.to_pylist() == [
        {"article": 0, "title": "Music", "text": CONTEXT},
        {"article": 1, "title": "", "text": "It rains."},
    ]
    a, b, c = tables.questions.to_pylist()
    assert a == {
        "id": "a",
        "context": 0,
        "text": "What about a?",
        "labelled": True,
        # code points: the emoji counts one
        "answers": [{"text": "oboe", "start": 45}, {"text": "Ana", "start": 31}],
        "plausible_answers": [],
    }
    assert (b["answers"], b["plausible_answers"]) == ([], [{"text": "Gent", "start": 23}])
    assert b["labelled"] and c["labelled"] and c["context"] == 1
    assert tables.report == squad.ReadReport(
        articles=2, contexts=2, questions=3, unanswerable=2, unlabelled=0, answers=2
    )


def test_which_questions_are_labelled(write: Write) -> None:
    """The official evaluator goes by the answers; only what it could not know has no label."""
    without = {"id": "no key", "question": "?"}
    tables = read_squad(
        write(
            question("squad 1.1", answer("cello")),
            question("false", answer("cello"), is_impossible=False),
            question("empty"),
            question("empty, true", is_impossible=True),
            question("empty, false", is_impossible=False),
            without,
        )
    )
    labelled = dict(
        zip(
            tables.questions["id"].to_pylist(),
            tables.questions["labelled"].to_pylist(),
            strict=True,
        )
    )
    assert labelled == {
        "squad 1.1": True,
        "false": True,
        "empty": True,
        "empty, true": True,
        "empty, false": False,
        "no key": False,
    }
    assert (tables.report.unanswerable, tables.report.unlabelled) == (2, 2)


def test_gzipped_or_not_is_the_same(write: Write, tmp_path: Path) -> None:
    path = write(question("a", answer("oboe")))
    packed = tmp_path / "f.json.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_squad(packed).questions == read_squad(path).questions


def test_late_answer_starts_are_put_right(write: Write) -> None:
    start = CONTEXT.index("cello")
    tables = read_squad(
        write(
            *(question(f"{late}", answer("cello", start + late)) for late in (0, 1, 2)),
            question("at 0", answer("Zoë", 1)),
            question("plausible", plausible_answers=[answer("Gent", 25)]),
        )
    )
    check(tables)
    starts = [row[0]["start"] for row in tables.questions["answers"].to_pylist()[:4]]
    assert starts == [start, start, start, 0]
    assert tables.report.shifted_answers == 3
    assert tables.report.misplaced_answers == 0


def test_misplaced_answers_are_left_out_and_counted(write: Write) -> None:
    start = CONTEXT.index("cello")
    tables = read_squad(
        write(
            *many(100),
            question("one of two", answer("cello", start - 1), answer("oboe")),
            question("all", answer("cello", start + 3), answer("tuba", 10**30)),
            question("none", plausible_answers=[answer("tuba", 3), answer("Ana")]),
        )
    )
    check(tables)
    rows = {row["id"]: row for row in tables.questions.to_pylist()}
    assert rows["one of two"]["answers"] == [{"text": "oboe", "start": CONTEXT.index("oboe")}]
    assert "all" not in rows  # never turned into an unanswerable question
    assert rows["none"]["plausible_answers"] == [{"text": "Ana", "start": CONTEXT.index("Ana")}]
    report = tables.report
    assert (report.misplaced_answers, report.misplaced_questions) == (3, 2)
    assert (report.dropped_questions, report.misplaced_plausible_answers) == (1, 1)
    assert report.misplaced_ids == ("one of two", "all")


def test_too_many_misplaced_answers_stop_the_reading(write: Write) -> None:
    bad = [question(f"bad{n}", answer("tuba", 0)) for n in range(3)]
    unanswerable = [question(f"none{n}") for n in range(100)]  # they do not dilute the share
    assert read_squad(write(*many(97), *bad, *unanswerable)).report.dropped_questions == 3
    with pytest.raises(UserError, match=r'f\.json: 3 of 99 questions .*"bad0", "bad1", "bad2"'):
        read_squad(write(*many(96), *bad, *unanswerable))


def test_only_the_first_misplaced_ids_are_kept(write: Write) -> None:
    bad = [question(f"bad{n}", answer("tuba", 0)) for n in range(25)]
    report = read_squad(write(*many(1000), *bad)).report
    assert report.misplaced_questions == 25
    assert report.misplaced_ids == tuple(f"bad{n}" for n in range(20))


def test_tables_of_several_batches_are_whole(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(*many(10), question("last", answer("oboe")))
    expected = read_squad(path)
    monkeypatch.setattr(squad, "_BATCH", 3)
    found = read_squad(path)
    assert found.questions == expected.questions and found.contexts == expected.contexts


@pytest.mark.parametrize(
    ("file", "articles", "questions", "unanswerable"),
    [
        ("train-v2.0.json.gz", 442, 104_294, 17_295),
        ("dev-v2.0.json", 24, 8_316, 4_189),
        ("train-8k.json", 279, 8_002, 2_311),
        ("dev-2k.json", 24, 2_002, 1_017),
    ],
)
def test_the_real_data(
    shared: Path, file: str, articles: int, questions: int, unanswerable: int
) -> None:
    report = read_squad(shared / "squad2" / file).report
    assert (report.articles, report.questions) == (articles, questions)
    assert (report.unanswerable, report.unlabelled) == (unanswerable, 0)
    assert (report.misplaced_answers, report.shifted_answers) == (0, 0)


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (question("a", answer("cello"), is_impossible=True), 'question "a": "is_impossible" is tr'),
        (question("a", is_impossible="no"), 'question "a": "is_impossible" must be true or false'),
        (question("a", is_impossible=None), "must be true or false, but is null"),
        (question("a", answer("cello", -1)), r'question "a", answers\[0\]: .* negative'),
        (question("a", {"text": "Zoë", "answer_start": True}), "must be a whole number, but is tr"),
        (question("a", {"text": "Zoë", "answer_start": 0.0}), "must be a whole number, but is 0.0"),
        (question("a", {"text": "Zoë"}), r'question "a", answers\[0\]: the key "answer_start"'),
        (question("a", {"text": 3, "answer_start": 0}), '"text" must be a string, but is 3'),
        (question("a", answer("", 0)), "an empty text"),
        (question("a", answer(" ", 3)), "an empty text"),
        (question("a", answer("\ud83d", 3)), "surrogate"),
        (question("a") | {"answers": {"text": []}}, '"answers" must be a list, but is an object'),
        (question("a") | {"answers": None}, '"answers" must be a list, but is null'),
        (question("a", plausible_answers=[7]), r"plausible_answers\[0\]: expected an object"),
        (question("a") | {"question": "\ud800?"}, r'question "a": "question" holds half'),
        ({"id": "a"}, 'question "a": the key "question" is missing'),
        ({"question": "?"}, r'f\.json: data\[0\]\.paragraphs\[0\]\.qas\[1\]: the key "id"'),
        (question("a") | {"id": 7}, r'qas\[1\]: "id" must be a string, but is 7'),
        (question("x\udc00"), r'qas\[1\]: "id" holds half of a surrogate pair'),
        ([], r"qas\[1\]: expected an object, found a list"),
        (question("first"), 'question "first": this id appears more than once'),
    ],
)
def test_bad_questions(write: Write, bad: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read_squad(write(question("first", answer("cello")), bad))
    assert "f.json: " in str(error.value)


@pytest.mark.parametrize(
    ("articles", "message"),
    [
        ([], "no questions"),
        ([{"title": "t", "paragraphs": []}], "no questions"),
        ([3], r"data\[0\]: expected an object, found 3"),
        ([{}], r'data\[0\]: the key "paragraphs" is missing'),
        ([{"title": 3, "paragraphs": []}], '"title" must be a string, but is 3'),
        ([{"title": "\udfff", "paragraphs": []}], "surrogate"),
        ([{"paragraphs": {}}], '"paragraphs" must be a list, but is an object'),
        ([{"paragraphs": [None]}], r"paragraphs\[0\]: expected an object, found null"),
        ([{"paragraphs": [{"qas": []}]}], 'the key "context" is missing'),
        ([{"paragraphs": [{"context": "c"}]}], 'the key "qas" is missing'),
        ([{"paragraphs": [{"context": "\ud800", "qas": []}]}], "surrogate"),
        ([{"paragraphs": [{"context": " \n", "qas": [question("a")]}]}], '"a": its context is em'),
    ],
)
def test_bad_files(write: Write, articles: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read_squad(write(articles=articles))
    assert "f.json: " in str(error.value)


SCALARS = st.none() | st.booleans() | st.integers(-2, 60) | st.floats() | st.text(max_size=3)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


def shaped(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Objects of the right shape mostly, with a key missing or of another type now and then."""
    keys = st.fixed_dictionaries({}, optional=fields)
    return st.fixed_dictionaries(fields) | keys | st.one_of(ANYTHING)


ODD_TEXT = st.text(st.characters(codec=None), max_size=4)  # surrogates too
ANY_ANSWERS = st.lists(
    shaped(
        text=st.sampled_from(["cello", "Zoë", "😀", "tuba", ""]) | ODD_TEXT,
        answer_start=st.sampled_from([0, 14, 15, 29, 10**20]) | SCALARS,
    ),
    max_size=2,
)
ANY_FILE = shaped(
    data=st.lists(
        shaped(
            title=ODD_TEXT,
            paragraphs=st.lists(
                shaped(
                    context=st.just(CONTEXT) | ODD_TEXT,
                    qas=st.lists(
                        shaped(
                            id=ODD_TEXT,
                            question=ODD_TEXT,
                            answers=ANY_ANSWERS,
                            is_impossible=st.booleans() | SCALARS,
                            plausible_answers=ANY_ANSWERS,
                        ),
                        max_size=2,
                    ),
                ),
                max_size=2,
            ),
        ),
        max_size=2,
    )
)


@settings(max_examples=300, deadline=None)
@given(content=ANY_FILE)
def test_any_json_gives_sound_tables_or_a_user_error(
    tmp_path_factory: pytest.TempPathFactory, content: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(content))
    try:
        tables = read_squad(path)
    except UserError as error:
        assert str(error).startswith(f"{path}: ")
        str(error).encode()  # can be printed
    else:
        check(tables)


# --- choosing ----------------------------------------------------------------------------------


@pytest.fixture(params=["in memory", "on disk"])
def chosen_from(write: Write, request: pytest.FixtureRequest, tmp_path: Path) -> SquadTables:
    """40 paragraphs in 10 articles; each has 5 questions, of which 2 have no answer."""
    articles = [
        {
            "title": f"t{a}",
            "paragraphs": [
                {
                    "context": f"{CONTEXT} {a}.{p}",
                    "qas": [
                        question(f"{a}.{p}.0", answer("cello")),
                        question(f"{a}.{p}.1", is_impossible=True),
                        question(f"{a}.{p}.2", answer("oboe"), answer("Ana")),
                        question(f"{a}.{p}.3", plausible_answers=[answer("Gent")]),
                        {"id": f"{a}.{p}.4", "question": "?"},
                    ],
                }
                for p in range(4)
            ],
        }
        for a in range(10)
    ]
    return read_squad(write(articles=articles), tmp_path if request.param == "on disk" else None)


def kept(tables: SquadTables) -> list[str]:
    return [name.rpartition(".")[2] for name in tables.questions["id"].to_pylist()]


def test_everything_is_kept_unless_asked(chosen_from: SquadTables) -> None:
    assert select(chosen_from) == chosen_from


def test_unanswerable_questions_dropped(chosen_from: SquadTables) -> None:
    tables = select(chosen_from, unanswerable="drop")
    check(tables)
    assert kept(tables) == ["0", "2", "4"] * 40
    assert tables.report.unanswerable == 0


def test_plausible_answers_taken_for_answers(chosen_from: SquadTables) -> None:
    tables = select(chosen_from, unanswerable="plausible")
    check(tables)
    assert kept(tables) == ["0", "2", "3", "4"] * 40
    assert tables.questions["answers"][2].as_py() == [{"text": "Gent", "start": 23}]
    assert tables.questions["labelled"].to_pylist() == [True, True, True, False] * 40


@pytest.mark.parametrize("most", [1, 2, 5, 37, 199, 200, 1000])
def test_a_sample_is_whole_paragraphs_in_the_files_order(
    chosen_from: SquadTables, most: int
) -> None:
    tables = select(chosen_from, max_questions=most)
    check(tables)
    ids = tables.questions["id"].to_pylist()
    assert len(ids) == min(most, 200)
    everything = chosen_from.questions["id"].to_pylist()
    assert ids == [name for name in everything if name in set(ids)]
    per_paragraph = np.bincount(tables.questions["context"].to_numpy())
    assert sorted(per_paragraph)[1:] == [5] * (len(per_paragraph) - 1)
    # each question still has the context it had
    texts = tables.contexts["text"].to_pylist()
    for row in tables.questions.to_pylist():
        paragraph = row["id"].rpartition(".")[0]
        assert texts[row["context"]] == f"{CONTEXT} {paragraph}"


def test_a_sample_depends_on_the_seed_alone(chosen_from: SquadTables) -> None:
    def sample(seed: int) -> list[str]:
        return list(select(chosen_from, max_questions=40, seed=seed).questions["id"].to_pylist())

    assert sample(1) == sample(1) != sample(2)


def test_a_larger_sample_holds_the_smaller_one(chosen_from: SquadTables) -> None:
    small = select(chosen_from, max_questions=33).questions["id"].to_pylist()
    large = select(chosen_from, max_questions=90).questions["id"].to_pylist()
    assert set(small) < set(large)


def test_nothing_left_is_an_error(write: Write, chosen_from: SquadTables) -> None:
    with pytest.raises(UserError, match="at least 1, but is 0"):
        select(chosen_from, max_questions=0)
    none = read_squad(write(question("a"), question("b")))
    with pytest.raises(UserError, match="all 2 are unanswerable"):
        select(none, unanswerable="plausible")


# --- where data comes from ---------------------------------------------------------------------


def test_local_files_are_known_by_their_content(write: Write, tmp_path: Path) -> None:
    path = write(question("a", answer("oboe")))
    source = resolve_source(str(path), "dev", tmp_path / "downloads")
    assert source == Source(str(path), path, sha256_of(path), split="train")
    assert read_squad(source).report.questions == 1
    assert not (tmp_path / "downloads").exists()


def test_nothing_means_the_official_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def download(url: str, folder: Path, *, sha256: str | None = None) -> Path:
        asked.append((url, folder, sha256))
        return folder / "there.json"

    monkeypatch.setattr(squad, "download", download)
    source = resolve_source(None, "dev", tmp_path)
    official = OFFICIAL["dev"]
    assert asked == [(official.url, tmp_path, official.sha256)]
    assert source == Source("dev-v2.0.json", tmp_path / "there.json", official.sha256)


@pytest.mark.parametrize(
    "absent", ["absent.json", "some/absent.json.gz", "/a/b/c", "../x", "a b", "x\0.json"]
)
def test_a_missing_file_is_said_so(tmp_path: Path, absent: str) -> None:
    with pytest.raises(UserError, match=r"no such file|cannot be read"):
        resolve_source(absent, "train", tmp_path)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    for folder in (str(tmp_path), ""):
        with pytest.raises(UserError, match="is a folder"):
            resolve_source(folder, "train", tmp_path)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], None]:
    """Put columns on a hub that answers without a network."""
    squad._hub_split.cache_clear()
    monkeypatch.setattr(squad, "reachable", lambda url: True)

    def put(columns: dict[str, Any]) -> None:
        def load(name: str, split: str) -> datasets.Dataset:
            assert (name, split) == ("org/name", "validation")
            return datasets.Dataset.from_dict(columns)

        monkeypatch.setattr(datasets, "load_dataset", load)
        squad._hub_split.cache_clear()

    return put


def columns() -> dict[str, Any]:
    return {
        "id": ["a", "b", "c", "d"],
        "title": ["Music", "Rain", "Music", "Music"],
        "context": [CONTEXT, "It rains.", CONTEXT, CONTEXT],
        "question": ["1?", "2?", "3?", "4?"],
        "answers": [
            {"text": ["oboe", "Ana"], "answer_start": [45, 32]},
            {"text": [], "answer_start": []},
            {"text": ["cello"], "answer_start": [14]},
            None,
        ],
    }


def test_a_hub_dataset(hub: Callable[[dict[str, Any]], None], tmp_path: Path) -> None:
    hub(columns())
    source = resolve_source("org/name", "dev", tmp_path)
    assert (source.path, source.hub) == (None, "org/name")
    tables = read_squad(source)
    check(tables)
    assert tables.contexts.to_pylist() == [
        {"article": 0, "title": "Music", "text": CONTEXT},
        {"article": 1, "title": "Rain", "text": "It rains."},
    ]
    assert tables.questions["context"].to_pylist() == [0, 1, 0, 0]
    assert tables.questions["labelled"].to_pylist() == [True, True, True, False]
    assert tables.questions["answers"][0].as_py() == [
        {"text": "oboe", "start": 45},
        {"text": "Ana", "start": 31},
    ]
    assert tables.report.shifted_answers == 1

    sampled = select(tables, max_questions=1, seed=0)  # the rows of a context are not neighbours
    check(sampled)

    hub(columns())
    assert resolve_source("org/name", "dev", tmp_path) == source
    hub(columns() | {"question": ["1?", "2?", "3?", "4!"]})
    assert resolve_source("org/name", "dev", tmp_path).digest != source.digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": [1, 2, 3, 4]}, 'org/name: row 0: "id" must be a string, but is 1'),
        ({"question": ["1?", None, "3?", "4?"]}, 'question "b": the key "question" is missing'),
        ({"context": [CONTEXT, None, CONTEXT, ""]}, 'row 1: the key "context" is missing'),
        (
            {"answers": [{"text": ["oboe"], "answer_start": []}] * 4},
            "row 0: 1 answer texts but 0 answer starts",
        ),
        ({"answers": [3, 4, 5, 6]}, '"answers" must be a list, but is 3'),
    ],
)
def test_bad_hub_datasets(
    hub: Callable[[dict[str, Any]], None], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    hub(columns() | change)
    with pytest.raises(UserError, match=message):
        read_squad(resolve_source("org/name", "dev", tmp_path))


def test_a_hub_dataset_without_squads_columns(
    hub: Callable[[dict[str, Any]], None], tmp_path: Path
) -> None:
    hub({"text": ["a"], "id": ["1"]})
    with pytest.raises(UserError, match="has no column context, question"):
        resolve_source("org/name", "dev", tmp_path)


def test_a_hub_out_of_reach_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(squad, "reachable", lambda url: False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    with pytest.raises(
        UserError, match=r"no such file, and the hub dataset of that name .* quickstart"
    ):
        resolve_source("org/absent", "dev", tmp_path)
    assert datasets.config.HF_HUB_OFFLINE is False


# ---- holding articles out


def articles_of(tables: SquadTables) -> set[tuple[int, str]]:
    rows = tables.contexts.select(["article", "title"]).to_pylist()
    return {(row["article"], row["title"]) for row in rows}


@given(
    titles=st.lists(st.sampled_from(["", "a", "b", "c", "d"]), min_size=2, max_size=12),
    share=st.floats(0.001, 0.999),
    seed=st.integers(0, 2**32),
)
def test_no_held_out_article_stays(titles: list[str], share: float, seed: int) -> None:
    contexts = pa.Table.from_pylist(
        [
            {"article": number, "title": title, "text": f"text {number} {paragraph}"}
            for number, title in enumerate(titles)
            for paragraph in range(2)
        ],
        CONTEXTS,
    )
    rows = [
        {
            "id": f"{context} {nth}",
            "context": context,
            "text": "who?",
            "labelled": True,
            "answers": [],
            "plausible_answers": [],
        }
        for context in range(contexts.num_rows)
        for nth in range(2)
    ]
    questions = pa.Table.from_pylist(rows, QUESTIONS)
    counts = dict.fromkeys(["articles", "contexts", "questions", "unanswerable"], 0)
    tables = SquadTables(contexts, questions, ReadReport(**counts, unlabelled=0, answers=0))
    named = {title or number for number, title in enumerate(titles)}
    if len(named) < 2:
        with pytest.raises(UserError, match="at least two"):
            split_articles(tables, share, seed)
        return
    stays, held = split_articles(tables, share, seed)
    check(stays)
    check(held)
    ids = [*stays.questions["id"].to_pylist(), *held.questions["id"].to_pylist()]
    assert sorted(ids) == sorted(row["id"] for row in rows)
    names = [{title or number for number, title in articles_of(part)} for part in (stays, held)]
    assert names[0] and names[1] and not names[0] & names[1]
    assert abs(len(names[1]) - share * len(named)) <= 1
    again = split_articles(tables, share, seed)
    assert again[1].questions.equals(held.questions)
