"""Write the quickstart's sample: invented encyclopedia passages with questions, as SQuAD 2.0 files.

    python scripts/make_sample.py            write qa_lightning/data/sample/{train,dev}.json
    python scripts/make_sample.py --check    exit with 1 unless they are what would be written

The facts and the questions are worded in sample_domains.toml. An article is about one invented
entity; each of its passages states a few facts about it and about two others of the same kind. An
article has more facts than any of its passages states, so a question is answerable on one passage
and not on the next: neither the question's words nor the passage alone give it away. Every question
form is as often unanswerable as the others.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SEED = 2
VERSION = "qa_lightning sample 1"
DOMAINS = Path(__file__).with_name("sample_domains.toml")
FOLDER = Path(__file__).resolve().parents[1] / "qa_lightning" / "data" / "sample"

ARTICLES = {"train": 12, "dev": 3}  # a domain
QUESTIONS = 6  # a passage
UNANSWERABLE = 2  # of them
SHARE = UNANSWERABLE / QUESTIONS

# Frames around the predicates. {a} is the article's entity, {b} a peer, {who} its relative pronoun,
# {peer} its description, {p} and {q} predicates. The last one of each list is for validation.
CONTRAST = [  # {p} is of {a}, {q} of {b}
    "unlike {b}, {who} {q}, {a} {p}.",
    "while {b} {q}, {a} {p}.",
    "{a} {p}, whereas {b} {q}.",
    "{b} {q}; {a}, by contrast, {p}.",
    "{b} {q}, but {a} {p}.",
]
MAIN = ["{a} {p}.", "as far as is known, {a} {p}.", "by most accounts, {a} {p}."]
PEER_ONE = [
    "{b}{peer} {p}.",
    "{b} {p}.",
    "it is recorded that {b} {p}.",
    "also worth a mention is {b}, {who} {p}.",
]
PEER_TWO = ["{b}{peer} {p} and {q}.", "{b} {p} and {q}.", "{b}, {who} {p}, {q}."]


@dataclass(frozen=True)
class Attribute:
    """Something a domain's entities have: its values, how it is said and how it is asked."""

    value: str | tuple[str, ...]
    says: tuple[str, ...]
    asks: tuple[str, ...]

    @property
    def kind(self) -> str:
        """Attributes of one kind have values that can be mistaken for each other's."""
        if isinstance(self.value, tuple):
            return self.value[0]
        return re.sub(r"^(year|number) [0-9-]+ ?", r"\1 ", self.value)


@dataclass(frozen=True)
class Domain:
    """A kind of invented thing, as sample_domains.toml describes it."""

    name: str
    names: tuple[str, ...]
    subjects: tuple[str, ...]
    peer: str
    intros: tuple[str, ...]
    remarks: tuple[str, ...]
    attributes: tuple[Attribute, ...]


@dataclass(frozen=True)
class Entity:
    """An invented thing or person; `subjects` may stand for it, `again` names it once more."""

    name: str
    again: str
    subjects: tuple[str, ...]
    who: str


@dataclass(frozen=True)
class Fact:
    """That an entity's attribute has a value."""

    entity: Entity
    attribute: Attribute
    value: str


def read_domains(tables: Sequence[dict[str, Any]]) -> list[Domain]:
    """The domains of the sample, from the [[domain]] tables of the file."""
    domains = []
    for table in tables:
        attributes = tuple(
            Attribute(
                value if isinstance(value := row["value"], str) else tuple(value),
                tuple(row["says"]),
                tuple(row["asks"]),
            )
            for row in table["attribute"]
        )
        domains.append(
            Domain(
                table["name"],
                tuple(table.get("names", ())),
                tuple(table.get("subjects", ())),
                table["peer"],
                tuple(table["intros"]),
                tuple(table["remarks"]),
                attributes,
            )
        )
    return domains


class Names:
    """Invented names; none is used twice, so train and dev share none.

    Args:
        words: The [names] table of the file.
        rng: Fixes the order in which names are used.
    """

    def __init__(self, words: dict[str, str], rng: random.Random) -> None:
        lists = {key: text.split() for key, text in words.items()}
        self._roots = [a + b for a in lists["root_starts"] for b in lists["root_ends"]]
        self._surnames = [a + b for a in lists["surname_starts"] for b in lists["surname_ends"]]
        rng.shuffle(self._roots)
        rng.shuffle(self._surnames)
        self._first_names = {"she": lists["women"], "he": lists["men"]}

    def place(self) -> str:
        """A place's name, which is also the root of other names."""
        return self._roots.pop()

    def surname(self) -> str:
        """A person's last name."""
        return self._surnames.pop()

    def first_names(self, part: str) -> list[tuple[str, str]]:
        """First names with their pronouns; the parts have names of their own."""
        share = slice(20) if part == "train" else slice(20, None)
        return [(name, who) for who, names in self._first_names.items() for name in names[share]]


@dataclass
class World:
    """An article's entities and what is true of them; facts are made up when first needed."""

    domain: Domain
    part: str
    names: Names
    rng: random.Random
    entities: list[Entity] = field(default_factory=list)
    _facts: dict[tuple[Entity, Attribute], Fact] = field(default_factory=dict)
    _first_names: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        starts: set[str] = set()
        while len(self.entities) < 4:
            entity = self._new_entity()
            root = max(entity.again.split(), key=len)
            if root[:3] not in starts:  # names that look alike would only confuse
                starts.add(root[:3])
                self.entities.append(entity)

    def _new_entity(self) -> Entity:
        if not self.domain.names:
            first, surname, pronoun = self._person()
            return Entity(f"{first} {surname}", surname, (pronoun, surname), "who")
        name = self.rng.choice(self.domain.names).format(self.names.place())
        return Entity(name, name, self.domain.subjects, "which")

    def _person(self) -> tuple[str, str, str]:
        """First name, surname and pronoun."""
        if not self._first_names:
            self._first_names = self.names.first_names(self.part)
            self.rng.shuffle(self._first_names)
        first, pronoun = self._first_names.pop()
        return first, self.names.surname(), pronoun

    def fact(self, entity: Entity, attribute: Attribute) -> Fact:
        """The fact about this attribute of this entity; no other fact has the same value."""
        key = (entity, attribute)
        if key not in self._facts:
            taken = {fact.value for fact in self._facts.values()}
            value = next(v for v in self._values(attribute) if v not in taken)
            self._facts[key] = Fact(entity, attribute, value)
        return self._facts[key]

    def _values(self, attribute: Attribute) -> Iterator[str]:
        while True:
            if isinstance(attribute.value, tuple):
                yield self.rng.choice(attribute.value)
            elif attribute.value == "person":
                first, surname, _ = self._person()
                yield f"{first} {surname}"
            elif attribute.value == "place":
                yield self.names.place()
            else:
                kind, bounds, *unit = attribute.value.split()
                number = self.rng.randint(*map(int, bounds.split("-")))
                if kind == "year":
                    yield str(number)
                else:
                    step = 100 if number >= 10_000 else 10 if number >= 1_000 else 1
                    yield " ".join([f"{number // step * step:,}", *unit])


@dataclass
class Balance:
    """How often each question form was answerable and not, to keep both in proportion."""

    answerable: Counter[str] = field(default_factory=Counter)
    unanswerable: Counter[str] = field(default_factory=Counter)

    def need(self, key: str, impossible: bool) -> float:
        """How much another question of this kind would help the key's balance (see SHARE)."""
        no, yes = self.unanswerable[key], self.answerable[key]
        surplus = no / SHARE - yes / (1 - SHARE)
        return (-surplus if impossible else surplus) - (no + yes) / 2  # rare keys come first

    def count(self, key: str, impossible: bool) -> None:
        """Note that a question was asked."""
        (self.unanswerable if impossible else self.answerable)[key] += 1


def capitalised(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[0].upper() + text[1:]


class Writer:
    """Writes one passage: which facts it states and in which words.

    Args:
        world: All facts of the article.
        peers: The two other entities that the passage mentions.
    """

    def __init__(self, world: World, peers: Sequence[Entity]) -> None:
        self.world = world
        self.rng = world.rng
        self.main = world.entities[0]
        self.peers = peers
        self.facts: list[Fact] = []
        self.used: set[str] = set()

    def _pick(self, variants: Sequence[str]) -> str:
        """One of the wordings, not one used before if possible; the last is for validation."""
        allowed = variants if self.world.part == "dev" else variants[:-1]
        wording = self.rng.choice([v for v in allowed if v not in self.used] or list(allowed))
        self.used.add(wording)
        return wording

    def _say(self, entity: Entity, attribute: Attribute) -> str:
        fact = self.world.fact(entity, attribute)
        self.facts.append(fact)
        return self._pick(attribute.says).format(v=fact.value)

    def context(self, mine: Sequence[Attribute], intro: str) -> str:
        """The passage: `mine` are the attributes stated of the article's entity.

        Each of the two is also stated of a peer, and each peer has one more: so an answer is never
        right for its type alone.
        """
        others = [a for a in self.world.domain.attributes if a not in mine]
        self.rng.shuffle(others)
        (one, two), rng = self.peers, self.rng
        contrasted, second = mine
        frame = self._pick(CONTRAST)
        p, q = self._say(self.main, contrasted), self._say(one, contrasted)
        sentences: list[tuple[Entity | None, str]] = [  # the one entity it is about, the sentence
            (None, frame.format(a=self.main.again, b=one.name, who=one.who, p=p, q=q)),
            (one, self._of_peer(one, others[:1])),
        ]
        shared = [second, others[1]]
        rng.shuffle(shared)
        if rng.random() < 0.5:
            sentences.append((two, self._of_peer(two, shared)))
        else:
            sentences += [(two, self._of_peer(two, [attribute])) for attribute in shared]
        said = self._say(self.main, second)
        sentences.append((self.main, self._pick(MAIN).format(a="{a}", p=said)))
        for remark in rng.sample(self.world.domain.remarks, rng.choice([1, 2])):
            sentences.append((self.main, f"{{a}} {remark}."))
        rng.shuffle(sentences)
        return self._join(intro, sentences)

    def _of_peer(self, peer: Entity, attributes: Sequence[Attribute]) -> str:
        frame = self._pick(PEER_ONE if len(attributes) == 1 else PEER_TWO)
        said = [self._say(peer, attribute) for attribute in attributes]
        return frame.format(b=peer.name, who=peer.who, peer="{peer}", p=said[0], q=said[-1])

    def _join(self, intro: str, sentences: Sequence[tuple[Entity | None, str]]) -> str:
        """One text: pronouns only where they are clear, a peer described where it comes in."""
        text = [intro.format(a=self.main.name, b=self.peers[0].name, c=self.peers[1].name)]
        before: Entity | None = None
        for about, sentence in sentences:
            if about is self.main:
                again = before is self.main and self.rng.random() < 0.75
                subject = self.rng.choice(self.main.subjects) if again else self.main.again
                sentence = sentence.replace("{a}", subject)
            elif about is not None:
                known = any(about.name in earlier for earlier in text[1:])
                description = "" if known else f", {self.world.domain.peer},"
                sentence = sentence.replace("{peer}", description)
            text.append(sentence)
            before = about
        return " ".join(map(capitalised, text))


def golds(context: str, fact: Fact, part: str) -> list[dict[str, Any]]:
    """The answer; in validation also the shorter forms that people would give."""
    texts = [fact.value]
    if part == "dev" and fact.attribute.value == "person":
        texts.append(fact.value.split()[-1])
    if part == "dev" and fact.value[0].isdigit() and " " in fact.value:
        texts.append(fact.value.split()[0])
    start = context.index(fact.value)
    return [{"text": t, "answer_start": start + fact.value.index(t)} for t in texts]


def plausible(facts: Sequence[Fact], entity: Entity, attribute: Attribute) -> Fact | None:
    """What a hasty reader would answer: the value of another entity, or of a like attribute."""
    if any(f.entity is entity and f.attribute is attribute for f in facts):
        return None
    same_attribute = [f for f in facts if f.attribute is attribute]
    same_entity = [f for f in facts if f.entity is entity and f.attribute.kind == attribute.kind]
    return next(iter(same_attribute + same_entity), None)


def ask(writer: Writer, context: str, forms: Balance, roles: Balance) -> list[dict[str, Any]]:
    """The questions of a passage, answerable and not."""
    part, rng = writer.world.part, writer.rng
    entities = [writer.main, *writer.peers]
    candidates: dict[bool, list[Fact]] = {False: list(writer.facts), True: []}
    sources: dict[Fact, Fact] = {}  # unanswerable question -> what its plausible answer states
    for entity in entities:
        for attribute in writer.world.domain.attributes:
            if source := plausible(writer.facts, entity, attribute):
                wanted = Fact(entity, attribute, "")
                sources[wanted] = source
                candidates[True].append(wanted)
    questions = []
    for kind in [True] * UNANSWERABLE + [False] * (QUESTIONS - UNANSWERABLE):

        def worth(choice: tuple[Fact, str], kind: bool = kind) -> float:
            role = "main" if choice[0].entity is writer.main else "peer"
            return forms.need(choice[1], kind) + roles.need(role, kind) / 4 + rng.random()

        options = [(fact, form) for fact in candidates[kind] for form in fact.attribute.asks]
        fact, form = max(options, key=worth)
        candidates[kind].remove(fact)
        forms.count(form, kind)
        roles.count("main" if fact.entity is writer.main else "peer", kind)
        question = capitalised(form.format(e=fact.entity.name))
        identity = hashlib.sha256(f"{context}\n{question}".encode()).hexdigest()[:24]
        row: dict[str, Any] = {"id": identity, "question": question, "answers": []}
        if kind:
            row["plausible_answers"] = golds(context, sources[fact], "train")
        else:
            row["answers"] = golds(context, fact, part)
        questions.append(row | {"is_impossible": kind})
    rng.shuffle(questions)
    return questions


def unmistakable(context: str, facts: Sequence[Fact]) -> bool:
    """Whether each stated value stands in the passage once, so that one span is right."""
    return all(len(re.findall(rf"\b{re.escape(f.value)}\b", context, re.I)) == 1 for f in facts)


def make_part(part: str, domains: Sequence[Domain], names: Names) -> list[dict[str, Any]]:
    """The articles of `train` or `dev`."""
    rng = random.Random(f"{SEED} {part}")
    forms, roles = Balance(), Balance()
    articles = []
    for domain in list(domains) * ARTICLES[part]:
        world = World(domain, part, names, rng)
        main, one, two, three = world.entities
        attributes = rng.sample(domain.attributes, len(domain.attributes))
        shares = [attributes[:2], attributes[2:4], attributes[4:]]
        intros = rng.sample(domain.intros, len(domain.intros))
        paragraphs = []
        for mine, peers, intro in zip(
            shares, [(one, two), (three, one), (two, three)], intros, strict=True
        ):
            while True:
                writer = Writer(world, peers)
                context = writer.context(mine, intro)
                if unmistakable(context, writer.facts):
                    break
            qas = ask(writer, context, forms, roles)
            paragraphs.append({"context": context, "qas": qas})
        articles.append({"title": capitalised(main.name), "paragraphs": paragraphs})
    return articles


def dump(articles: Sequence[dict[str, Any]]) -> str:
    """The articles as JSON, one passage a line."""
    blocks = []
    for article in articles:
        lines = ",\n".join(json.dumps(p, ensure_ascii=False) for p in article["paragraphs"])
        blocks.append(f'{{"title": {json.dumps(article["title"])}, "paragraphs": [\n{lines}\n]}}')
    body = ",\n".join(blocks)
    return f'{{"version": {json.dumps(VERSION)}, "data": [\n{body}\n]}}\n'


def make_sample() -> dict[str, str]:
    """The sample's files: name -> text, the same for the same seed."""
    tables = tomllib.loads(DOMAINS.read_text(encoding="utf-8"))
    domains = read_domains(tables["domain"])
    names = Names(tables["names"], random.Random(SEED))
    return {f"{part}.json": dump(make_part(part, domains, names)) for part in ARTICLES}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the sample, or compare it with the files there; returns the exit status."""
    parser = argparse.ArgumentParser(description="Write the quickstart's sample.")
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the files are")
    options = parser.parse_args(arguments)
    stale = []
    for name, text in make_sample().items():
        path = options.folder / name
        if not options.check:
            path.write_text(text, encoding="utf-8", newline="\n")
        elif not path.is_file() or path.read_bytes() != text.encode():
            stale.append(str(path))
    if stale:
        print(f"not what {Path(__file__).name} writes: {', '.join(stale)}", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
