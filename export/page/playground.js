// The page of export.playground. It asks a model over TensorFlow Serving's REST interface, under the page's own address, and shows
// answers by the names of a signature's outputs. Texts are only ever set as textContent: what a model or a user says is no markup.
"use strict";

const MASK = "[MASK]";
const INPUTS = {
  text: ["Text", 3], text_pair: ["Second text", 2], question: ["Question", 1], context: ["Passage to answer from", 6],
};
const KINDS = [ // the first whose output is there
  ["tokens", "fill-mask", showMasks], ["labels", "classification", showLabels], ["score", "score", showScore],
  ["tags", "tagging", showTags], ["answers", "question answering", showAnswers],
];
const EXAMPLES = {
  "fill-mask": [{text: "The [MASK] of the file to read."}, {text: "Returns the [MASK] of elements in the [MASK]."},
    {text: "Raises an [MASK] if the value is not valid."}],
  classification: [{text: "My card has not arrived yet.", text_pair: "Where is the card that I ordered?"},
    {text: "What a wonderful evening!", text_pair: "It was a pleasant night."}],
  score: [{text: "A man is playing a guitar.", text_pair: "Someone plays an instrument."},
    {text: "A dog runs through the snow.", text_pair: "The stock market fell."}],
  tagging: [{text: "Ada Lovelace met Charles Babbage in London in 1833 ."}, {text: "play the new album by Björk on Spotify"}],
  "question answering": [{question: "When did two people walk on the Moon?",
    context: "In 1969 two people walked on the Moon for the first time. A third one stayed in orbit, naïve readers may think he was bored."}],
};
const $ = (id) => document.getElementById(id);
const times = [];
let model = null; // {name, kind, show, inputs, tokenizes}
let asked = 0;

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity));
  return node;
}

async function fetched(path, body) {
  const options = body && {method: "POST", body: JSON.stringify(body), headers: {"Content-Type": "application/json"}};
  let answer, text;
  try {
    answer = await fetch(path, options);
    text = await answer.text();
  } catch (e) {
    throw new Error("The playground does not answer. Was it stopped?");
  }
  let told;
  try { told = JSON.parse(text); } catch (e) { throw new Error(text.slice(0, 500) || `status ${answer.status}`); }
  if (!answer.ok) throw new Error(told.error || `status ${answer.status}`);
  return told;
}

async function predict(inputs, signature = "serving_default") {
  const told = await fetched(`${model.path}:predict`, {signature_name: signature, instances: [inputs]});
  const row = told.predictions[0];
  if (row !== null && typeof row === "object" && !Array.isArray(row)) return row;
  const outputs = Object.keys(model.signatures[signature].outputs); // the name of an only output is left out
  return {[outputs[0]]: row};
}

// Bytes of UTF-8 -> place in a JavaScript string, whose units are those of UTF-16.
function places(text) {
  const map = [];
  let unit = 0;
  for (const character of text) {
    const point = character.codePointAt(0);
    const bytes = point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
    for (let i = 0; i < bytes; i++) map.push(unit);
    unit += character.length;
  }
  map.push(unit);
  return (byte) => map[Math.min(Math.max(byte, 0), map.length - 1)];
}

const percent = (p) => p >= 0.0995 ? `${(100 * p).toFixed(0)} %` : p >= 0.00095 ? `${(100 * p).toFixed(1)} %` : "< 0.1 %";

function bars(rows, choose) {
  return make("div", {class: "bars"}, rows.map(([name, share, number], i) => [
    choose ? make("button", {class: "name", type: "button", "aria-pressed": i === 0, onclick: (e) => choose(i, e)}, name)
      : make("span", {class: "name"}, name),
    bar(share),
    make("span", {class: "number"}, number ?? percent(share)),
  ]));
}

function bar(share) {
  const fill = make("div", {class: "fill"});
  fill.style.width = `${100 * Math.min(Math.max(share, 0), 1)}%`;
  return make("div", {class: "track", "aria-hidden": "true"}, fill);
}

function showMasks(said, inputs) {
  const found = said.tokens.map((tokens, i) => ({tokens, probabilities: said.probabilities[i]}))
    .filter((_, i) => said.positions ? said.positions[i] >= 0 : said.tokens[i][0] !== "");
  if (!found.length) return [make("p", {class: "note"}, "Write ", make("b", {}, MASK), " where a word is to be guessed.")];
  const parts = inputs.text.split(MASK);
  const slots = found.map(({tokens}, i) => slot(tokens[0], i, found.length));
  const sentence = make("p", {class: "passage"}, parts.map((part, i) => [part, i < parts.length - 1 ? slots[i] ?? MASK : ""]));
  const lists = found.map(({tokens, probabilities}, mask) => {
    const list = make("div", {}, found.length > 1 ? make("h2", {}, `Mask ${mask + 1}`) : [],
      bars(tokens.map((token, i) => [token, probabilities[i]]), (i, event) => {
        slots[mask].firstChild.data = tokens[i];
        for (const button of list.querySelectorAll("button")) button.setAttribute("aria-pressed", button === event.currentTarget);
      }));
    return list;
  });
  const more = said.mask_count > found.length
    ? make("p", {class: "warn"}, `${said.mask_count - found.length} more masks were not answered.`) : [];
  return [more, sentence, make("div", {class: "masks"}, lists)].flat();
}

const slot = (token, i, count) => make("span", {class: "slot"}, token, count > 1 ? make("sup", {}, String(i + 1)) : []);

function showLabels(said) {
  return [bars(said.labels.map((label, i) => [label, said.probabilities[i]]))];
}

function showScore(said) {
  return [make("p", {class: "score"}, said.score.toFixed(3))];
}

function showTags(said) {
  const hues = new Map();
  const words = said.words.map((word, i) => {
    if (word === "" && said.starts && said.starts[i] < 0) return null;
    const tag = said.tags[i], name = tag.replace(/^[BIESLU]-/, "");
    const node = make("span", {class: "word", title: `${tag}, ${percent(said.probabilities[i])}`}, word);
    if (tag !== "O") {
      if (!hues.has(name)) hues.set(name, (210 + 137.5 * hues.size) % 360);
      node.dataset.hue = name;
      node.style.setProperty("--hue", hues.get(name));
      node.append(make("span", {}, tag));
    }
    return node;
  });
  return [make("div", {class: "tagged"}, words.filter(Boolean))];
}

function showAnswers(said, inputs) {
  const context = inputs.context, at = places(context);
  const spans = said.answers.map((answer, i) => ({answer, start: said.starts[i], end: said.ends[i], share: said.probabilities[i]}))
    .filter((span) => span.start >= 0 && span.end > span.start);
  const best = said.answer === "" ? null : spans[0];
  const edges = [...new Set(spans.flatMap((s) => [at(s.start), at(s.end)]).concat(0, context.length))].sort((a, b) => a - b);
  const passage = edges.slice(0, -1).map((from, i) => {
    const to = edges[i + 1], inside = spans.filter((s) => at(s.start) <= from && at(s.end) >= to);
    const text = context.slice(from, to);
    if (!inside.length) return text;
    const isBest = best && inside.includes(best);
    const mark = make("mark", {class: isBest ? "best" : "", title: inside.map((s) => `${s.answer}: ${percent(s.share)}`).join("\n")}, text);
    const share = isBest ? 1 : 0.3 + 0.7 * Math.max(...inside.map((s) => s.share));
    mark.style.background = `color-mix(in srgb, var(--mark) ${100 * share}%, transparent)`;
    return mark;
  });
  const answer = make("h2", {class: "answer"}, best ? best.answer : "No answer in this passage.");
  const ahead = said.null_odds < 0 ? "an answer is ahead of none" : "no answer is ahead of any";
  const odds = said.null_odds === undefined ? []
    : make("p", {class: "note"}, `${ahead} by ${Math.abs(said.null_odds).toFixed(2)} (log-odds)`);
  return [answer, make("p", {class: "passage"}, passage), bars(spans.map((s) => [s.answer, s.share])), odds].flat();
}

async function showPieces(inputs, number) {
  const rows = [];
  for (const name of model.inputs) {
    const said = await predict({text: inputs[name]}, "tokenize");
    const count = said.starts.findIndex((start) => start < 0);
    const pieces = said.tokens.slice(0, count < 0 ? undefined : count);
    let word = -1;
    rows.push(make("div", {class: "pieces", "aria-label": `Pieces of ${name}`}, pieces.map((token, i) => {
      const joined = token.startsWith("##") && i > 0;
      word += joined ? 0 : 1;
      return make("span", {class: `piece${joined ? " joined" : ""}${word % 2 ? " odd" : ""}`, title: `id ${said.ids[i]}`},
        make("b", {}, token), make("small", {}, `${said.starts[i]}–${said.ends[i]}`));
    })));
  }
  if (number !== asked) return;
  $("piece-rows").replaceChildren(...rows);
  $("pieces").hidden = false;
}

function showError(error) {
  const box = $("answer");
  box.classList.add("error");
  box.replaceChildren(make("h2", {}, "That did not work"), make("pre", {}, error.message));
  box.hidden = false;
  $("pieces").hidden = true;
}

async function ask() {
  if (!model) return;
  const number = ++asked;
  const inputs = Object.fromEntries(model.inputs.map((name) => [name, $(`input-${name}`).value]));
  $("ask").disabled = true;
  try {
    const start = performance.now();
    const said = await predict(inputs);
    const took = performance.now() - start;
    if (number !== asked) return;
    const box = $("answer");
    box.classList.remove("error");
    const cut = said.truncated ? [make("p", {class: "warn"}, "The text was longer than the model reads, and was cut.")] : [];
    box.replaceChildren(...cut, ...model.show(said, inputs));
    box.hidden = false;
    times.push(took);
    const middle = [...times].sort((a, b) => a - b)[Math.floor(times.length / 2)];
    $("latency").replaceChildren("answered in ", make("b", {}, `${took.toFixed(took < 10 ? 1 : 0)} ms`),
      times.length > 1 ? `, median of ${times.length}: ${middle.toFixed(middle < 10 ? 1 : 0)} ms` : "", ", over HTTP, in this page");
    if (model.tokenizes) await showPieces(inputs, number);
  } catch (e) {
    showError(e);
  } finally {
    $("ask").disabled = false;
  }
}

function begin(settings, metadata) {
  const signatures = metadata.metadata.signature_def.signature_def, main = signatures.serving_default;
  if (!main) throw new Error("The model has no signature serving_default.");
  const [, kind, show] = KINDS.find(([output]) => output in main.outputs) ?? ["", "other", raw];
  const order = Object.keys(INPUTS);
  const inputs = Object.keys(main.inputs).sort((a, b) => order.indexOf(a) - order.indexOf(b));
  const strange = inputs.filter((name) => !(name in INPUTS));
  if (strange.length) throw new Error(`The playground knows texts; this model asks for ${strange.join(", ")}.`);
  const tokenizes = "tokenize" in signatures;
  model = {path: settings.path, signatures, kind, show, inputs, tokenizes};
  $("fields").replaceChildren(...inputs.map((name) => {
    const [title, rows] = INPUTS[name];
    return make("label", {}, kind === "fill-mask" ? `${title} with ${MASK}` : title,
      make("textarea", {id: `input-${name}`, rows, spellcheck: "false", onkeydown: (e) => {
        if (e.key === "Enter" && (e.ctrlKey || e.metaKey || rows === 1)) { e.preventDefault(); ask(); }
      }}));
  }));
  $("examples").replaceChildren(...(EXAMPLES[kind] ?? []).map((example) => make("button", {type: "button", onclick: () => {
    for (const name of inputs) $(`input-${name}`).value = example[name] ?? "";
    ask();
  }}, example.question ?? example.text)));
  const facts = [["model", metadata.model_spec.name], ["version", metadata.model_spec.version], ["does", kind]];
  $("about").replaceChildren(...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  $("about").title = settings.source;
  $("ask").disabled = false;
  $(`input-${inputs[0]}`).focus();
}

const raw = (said) => [make("pre", {}, JSON.stringify(said, null, 2))];

$("form").addEventListener("submit", (e) => { e.preventDefault(); ask(); });
(async () => {
  try {
    const settings = await fetched("settings.json");
    begin(settings, await fetched(`${settings.path}/metadata`));
  } catch (e) {
    showError(e);
  }
})();
