"use strict";

const CANDIDATES = 4;
const EXAMPLE = {
  context:
    "In 1947 the Norwegian explorer Thor Heyerdahl set out to show that people from South America " +
    "could have reached Polynesia on rafts. He had a raft built of nine balsa trunks, tied together " +
    "with hemp rope, and named it Kon-Tiki. With a crew of five men and a parrot he left the harbour " +
    "of Callao in Peru on 28 April. A navy tug towed the raft out to sea; from there on, only wind " +
    "and current moved it.\n\n" +
    "On 7 August, after 101 days and about 6,900 kilometres, Kon-Tiki struck a reef at the atoll of " +
    "Raroia. All six men waded ashore unhurt. Heyerdahl’s book about the voyage was translated into " +
    "some seventy languages, and his film about it won an Academy Award. The raft itself stands in " +
    "a museum in Oslo.",
  question: "What was the raft built of?",
};

const $ = (id) => document.getElementById(id);
const form = $("form");
const context = $("context");
const reader = $("reader");
const question = $("question");

/* The text on show, as a list of characters: the service counts characters, where a string of
   JavaScript counts some of them twice. */
let characters = [];

const percent = (share) => (share > 0 && share < 0.005 ? "< 1 %" : `${Math.round(100 * share)} %`);

function showError(message) {
  $("error").textContent = message;
  $("error").hidden = !message;
}

/* Show the text for reading, with the characters from start to end marked; none if start is null. */
function mark(start, end) {
  context.hidden = true;
  $("example").hidden = true;
  $("change").hidden = false;
  reader.hidden = false;
  if (start === null) {
    reader.replaceChildren(characters.join(""));
    return;
  }
  const found = document.createElement("mark");
  found.textContent = characters.slice(start, end).join("");
  const before = characters.slice(0, start).join("");
  reader.replaceChildren(before, found, characters.slice(end).join(""));
  const below = found.offsetTop + found.offsetHeight > reader.scrollTop + reader.clientHeight;
  if (below || found.offsetTop < reader.scrollTop) {
    reader.scrollTop = found.offsetTop - reader.clientHeight / 3;
  }
}

/* Show the text for writing. */
function change() {
  reader.hidden = true;
  $("change").hidden = true;
  $("example").hidden = false;
  context.hidden = false;
  $("result").hidden = true;
  context.focus();
}

function candidateButton(candidate, isVerdict) {
  const none = candidate.start === null;
  const text = document.createElement("span");
  text.textContent = none ? "no answer" : candidate.text;
  text.classList.toggle("none", none);
  const meter = document.createElement("meter");
  meter.value = candidate.probability;
  meter.ariaHidden = "true";
  const share = document.createElement("b");
  share.textContent = percent(candidate.probability);
  const button = document.createElement("button");
  button.type = "button";
  button.title = none ? "Mark nothing" : "Mark it in the text";
  button.ariaPressed = String(isVerdict);
  button.append(text, meter, share);
  button.addEventListener("click", () => {
    for (const other of $("candidates").querySelectorAll("button")) other.ariaPressed = "false";
    button.ariaPressed = "true";
    mark(candidate.start, candidate.end);
  });
  const item = document.createElement("li");
  item.append(button);
  return item;
}

function showAnswer(reply) {
  const none = reply.start === null;
  mark(reply.start, reply.end);
  $("verdict").classList.toggle("none", none);
  $("answer").textContent = none ? "The text has no answer" : reply.text;
  $("sure").textContent =
    `Probability ${percent(reply.probability)}, score ${reply.score.toFixed(2)}`;
  const nothing = { start: null, end: null, probability: reply.no_answer_probability };
  const all = [...reply.candidates, nothing].sort((a, b) => b.probability - a.probability);
  $("candidates").replaceChildren(
    ...all.map((one) => candidateButton(one, one.start === reply.start && one.end === reply.end)),
  );
  $("figures").textContent =
    `Null odds ${reply.null_odds.toFixed(2)}; above ${reply.threshold.toFixed(2)}, ` +
    "there is no answer.";
  $("cut").textContent =
    `The question is long: ${reply.question_tokens_cut} tokens in its middle were not read.`;
  $("cut").hidden = !reply.question_tokens_cut;
  $("result").hidden = false;
}

async function ask() {
  const text = context.value;
  const response = await fetch("answer", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ question: question.value, context: text, top_k: CANDIDATES }),
  });
  const reply = await response.json();
  if (!response.ok) throw new Error(reply.error);
  characters = Array.from(text);
  showAnswer(reply);
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if ($("ask").disabled) return;
  $("ask").disabled = true;
  context.readOnly = true; // what is marked must be what was sent
  showError("");
  try {
    await ask();
  } catch (error) {
    $("result").hidden = true;
    if (!reader.hidden) mark(null, null);
    const lost = error instanceof TypeError || error instanceof SyntaxError;
    const message = lost ? "The service cannot be reached. Is it still running?" : error.message;
    showError(message.charAt(0).toUpperCase() + message.slice(1));
  } finally {
    $("ask").disabled = false;
    context.readOnly = false;
  }
});

context.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});

$("change").addEventListener("click", change);

$("example").addEventListener("click", () => {
  context.value = EXAMPLE.context;
  question.value = EXAMPLE.question;
  question.focus();
});
