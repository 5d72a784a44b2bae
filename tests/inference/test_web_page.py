"""The page, in a real browser: paste a text, ask, look."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="needs the optional extra serve")
pytest.importorskip("uvicorn", reason="needs the optional extra serve")

from qa_lightning.inference.batcher import Batcher
from qa_lightning.inference.defaults import Limits
from qa_lightning.inference.service import create_app
from tests.helpers.browser import Page, find_browser, open_page
from tests.helpers.serving import LastWord, running

pytestmark = pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed")

TEXT = (
    "The raft 🚣 left Callao in April.\n\nIt was built in Callao <b>by hand</b> & named Kon-Tiki."
)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with Batcher(LastWord()) as batcher, running(create_app(batcher, Limits(context=200))) as where:
        yield where


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_page(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(browser: Page, address: str) -> Page:
    browser.screen(1100, 800)
    browser.open(f"{address}/")
    browser.wait("document.activeElement.id === 'context'")
    return browser


def ask(page: Page, text: str, question: str) -> None:
    page.paste("#context", text)
    page.paste("#question", question)
    page.press("Enter", 13, "\r")
    page.wait("!document.querySelector('#ask').disabled")
    page.wait(
        "document.querySelector('#result').checkVisibility()"
        " || document.querySelector('#error').checkVisibility()"
    )


def marked(page: Page) -> list[tuple[str, str]]:
    """What is marked in the text, each with the text before it."""
    return [
        (found, before)
        for found, before in page.value(
            "[...document.querySelectorAll('#reader mark')].map(m => {"
            "const range = document.createRange(); range.setStart(reader, 0);"
            "range.setEndBefore(m); return [m.textContent, range.toString()]; })"
        )
    ]


def test_the_answer_is_marked_in_its_place(page: Page) -> None:
    ask(page, TEXT, "Is it from Callao?")
    assert page.text("#answer") == "Callao"
    assert page.text("#sure") == "Probability 45 %, score 4.50"
    assert page.text("#figures") == "Null odds -3.00; above 0.00, there is no answer."
    assert page.text("#reader").replace("\n\n", "\n") == TEXT.replace("\n\n", "\n")
    assert marked(page) == [("Callao", TEXT[: TEXT.index("Callao")])]
    assert not page.visible("#context") and not page.visible("#error")


def test_a_runner_up_is_marked_when_it_is_chosen(page: Page) -> None:
    ask(page, TEXT, "Is it from Callao?")
    assert [row.split("\n") for row in page.texts("#candidates button")] == [
        ["Callao", "45 %"],
        ["no answer", "32 %"],
        ["Callao", "23 %"],
    ]
    page.click("#candidates button", 2)
    assert marked(page) == [("Callao", TEXT[: TEXT.rindex("Callao")])]
    page.click("#candidates button", 1)
    assert marked(page) == []
    pressed = "[...document.querySelectorAll('#candidates button')].map(b => b.ariaPressed)"
    assert page.value(pressed) == ["false", "true", "false"]


def test_no_answer_is_said_and_nothing_is_marked(page: Page) -> None:
    ask(page, TEXT, "Who was the captain?")
    assert page.text("#answer") == "The text has no answer"
    assert page.text("#sure").startswith("Probability 90 %")
    assert marked(page) == []
    assert page.text("#reader").startswith("The raft")


def test_a_question_that_was_cut_is_told(page: Page) -> None:
    ask(page, TEXT, "please " * 20 + "is it from Callao?")
    assert page.text("#cut") == "The question is long: 4 tokens in its middle were not read."
    ask(page, TEXT, "Is it from Callao?")
    assert not page.visible("#cut")


def test_a_text_that_is_too_long_is_refused_with_a_message(page: Page) -> None:
    ask(page, "x" * 201, "Is it x?")
    assert page.text("#error") == (
        "The context has 201 characters, more than the 200 that this service takes: "
        "send a shorter one"
    )
    assert not page.visible("#result")
    assert page.visible("#context"), "the text can be made shorter at once"
    ask(page, "x" * 200, "Is it x?")
    assert not page.visible("#error") and page.text("#answer") == "x"


def test_markup_in_a_text_stays_text(page: Page) -> None:
    text = 'A <img src=x onerror="document.title=1"> &amp; <script>document.title=2</script> end'
    ask(page, text, "Is it </script>?")
    assert page.text("#reader") == text
    assert page.text("#answer") == "</script>"
    assert page.value("document.title") == "Ask a text"
    assert page.value("document.querySelectorAll('img, main script').length") == 0


def test_it_is_used_with_the_keyboard_alone(page: Page) -> None:
    page.call("Input.insertText", text=TEXT)
    page.press("Enter", 13, "\r", modifiers=2)  # no question yet: it is asked for
    page.wait("document.activeElement.id === 'question'")
    page.call("Input.insertText", text="How is it named Kon-Tiki?")
    page.press("Enter", 13, "\r")
    page.wait("document.querySelector('#result').checkVisibility()")
    assert page.text("#answer") == "Kon-Tiki"
    page.call("Input.insertText", text="x")  # the next question is typed where the last one was
    assert page.value("document.activeElement.id") == "question"
    page.click("#change")
    assert page.value("document.activeElement.id") == "context"
    assert page.value("document.querySelector('#context').value") == TEXT


def test_the_example_and_a_service_that_is_gone(browser: Page) -> None:
    with Batcher(LastWord()) as batcher, running(create_app(batcher)) as address:
        browser.open(f"{address}/")
        browser.click("#example")
        assert browser.value("document.querySelector('#question').value").endswith("?")
    browser.press("Enter", 13, "\r")
    browser.wait("document.querySelector('#error').checkVisibility()")
    assert "cannot be reached" in browser.text("#error")


@pytest.mark.parametrize("width", [360, 1100])
def test_nothing_is_wider_than_the_window(page: Page, width: int) -> None:
    page.screen(width, 700)
    ask(page, "Callao " + "w" * 150, "Is it from Callao?")
    assert page.value("document.documentElement.scrollWidth") <= width


def test_nothing_is_fetched_from_elsewhere(page: Page, address: str) -> None:
    page.requested.clear()
    page.open(f"{address}/docs")
    page.wait("document.querySelectorAll('article').length > 3")
    shown = page.text("main")
    assert "POST /answer" in shown and "GET /health" in shown and "no_answer_probability" in shown
    page.open(f"{address}/")
    assert page.requested
    assert all(one.startswith(f"{address}/") for one in page.requested)
