"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 30, CHIPS = 12;
const form = document.getElementById("filters");
const two = data.systems.length > 1;
let chosen = null, matching = [], drawn = 0; // chosen: a confusion, as the kind and words of a step

const node = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "onclick") made.onclick = value; else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
};
const last = name => name.split(/[\\/]/).at(-1);
const percent = (errors, words) => words ? (100 * errors / words).toFixed(1) + " %" : errors ? "nothing was said" : "0 %";
const number = value => value.toLocaleString("en");
const sum = (clips, of) => clips.reduce((total, clip) => total + of(clip), 0);
const errorsOf = clip => sum(clip.systems, system => system.errors);
const rateOf = clip => errorsOf(clip) / Math.max(clip.words, 1);
const gapOf = clip => clip.systems[1].errors - clip.systems[0].errors;
const wordsOf = clip => [clip.said, ...clip.systems.map(system => system.steps.map(step => step.slice(1).join(" ")).join(" "))]
  .join(" ").toLowerCase();

const orders = {
  ...(two ? {
    "where they differ most": (a, b) => Math.abs(gapOf(b)) - Math.abs(gapOf(a)) || errorsOf(b) - errorsOf(a),
    [data.systems[0] + " better"]: (a, b) => gapOf(b) - gapOf(a),
    [data.systems[1] + " better"]: (a, b) => gapOf(a) - gapOf(b),
  } : {}),
  "most errors first": (a, b) => errorsOf(b) - errorsOf(a) || rateOf(b) - rateOf(a),
  "highest WER first": (a, b) => rateOf(b) - rateOf(a) || errorsOf(b) - errorsOf(a),
  "longest first": (a, b) => (b.seconds ?? 0) - (a.seconds ?? 0),
  "as in the set": (a, b) => a.number - b.number,
};
const has = kind => clip => clip.systems.some(system => system.steps.some(step => step[0] === kind));
const noted = note => clip => clip.systems.some(system => system.notes.includes(note));
const kinds = {
  "any, or none": () => true,
  "some error": clip => errorsOf(clip) > 0,
  "no error": clip => errorsOf(clip) === 0,
  "substitutions": has("s"), "insertions": has("i"), "deletions": has("d"),
  "empty": noted("empty"), "looping": noted("loop"), "far too long": noted("runaway"),
  "cut off": noted("limit"), "without speech": noted("no_speech"),
  "could not be read": clip => clip.systems.some(system => !system.read),
};

function fill(name, values, all) {
  const list = form.elements[name];
  if (all) list.append(new Option(all, ""));
  for (const value of values) list.append(new Option(value, value));
  const label = list.closest("label");
  if (label.classList.contains("choice") && values.length < 2) label.hidden = true;
}
const distinct = of => [...new Set(data.clips.map(of).filter(value => value !== null))]
  .sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
fill("order", Object.keys(orders));
fill("set", distinct(clip => clip.set), "all");
fill("speaker", distinct(clip => clip.speaker), "all");
fill("error", Object.keys(kinds).filter(kind => data.clips.some(kinds[kind])));
if (data.clips.every(clip => clip.seconds === null)) form.elements.length.closest("label").hidden = true;

const same = (step, other) => other && step.length === other.length && step.every((part, i) => part === other[i]);
const holds = clip => !chosen || clip.systems.some(system => system.steps.some(step => same(step, chosen)));

function update() {
  const { order, set, speaker, length, error, word } = Object.fromEntries(new FormData(form));
  const [low, high] = length ? length.split("-") : [];
  const sought = word.trim().toLowerCase();
  const filtered = data.clips.filter(clip =>
    (!set || clip.set === set) && (!speaker || clip.speaker === speaker) && kinds[error](clip)
    && (!length || (clip.seconds !== null && clip.seconds >= +low && (!high || clip.seconds < +high)))
    && (!sought || wordsOf(clip).includes(sought)));
  matching = filtered.filter(holds).sort(orders[order]);
  const words = sum(matching, clip => clip.words);
  const rates = data.systems.map((name, i) =>
    (two ? name + " " : "") + "WER " + percent(sum(matching, clip => clip.systems[i].errors), words));
  document.getElementById("count").textContent =
    `${number(matching.length)} of ${number(data.clips.length)} clips, ${number(words)} words: ${rates.join(", ")} (${data.rule})`;
  confusions(filtered);
  document.getElementById("clips").replaceChildren();
  drawn = 0;
  more(sought);
}

function confusions(clips) {
  const counts = new Map();
  for (const clip of clips) for (const system of clip.systems) for (const step of system.steps) {
    if (step[0] !== "=") counts.set(step.join("\0"), (counts.get(step.join("\0")) ?? 0) + 1);
  }
  const ranked = [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).map(([key, count]) => [key.split("\0"), count]);
  const rows = [["s", "substituted"], ["d", "deleted"], ["i", "inserted"]].map(([kind, name]) => {
    const found = ranked.filter(([step]) => step[0] === kind);
    const often = found.filter(([step, count]) => count > 1 || same(step, chosen));
    const chips = (often.length > 2 ? often : found).slice(0, CHIPS).map(([step, count]) => node("button", {
      type: "button", class: "chip" + (same(step, chosen) ? " chosen" : ""), "aria-pressed": String(Boolean(same(step, chosen))),
      onclick: () => { chosen = same(step, chosen) ? null : step; update(); },
    }, step.slice(1).join(" \u2192 "), " ", node("small", {}, number(count))));
    return node("div", { class: "chips" }, node("b", {}, name), ...(chips.length ? chips : ["none"]));
  });
  document.querySelector("#confusions div").replaceChildren(...rows);
}

function marked(text, sought) {
  const place = sought ? text.toLowerCase().indexOf(sought) : -1;
  if (place < 0) return [text];
  const end = place + sought.length;
  return [text.slice(0, place), node("mark", {}, text.slice(place, end)), ...marked(text.slice(end), sought)];
}

function drawStep(step, sought) {
  if (step[0] === "=") return node("span", {}, ...marked(step[1], sought));
  const made = node("span", { class: "step " + step[0] });
  if (step[0] !== "i") made.append(node("del", {}, ...marked(step[1], sought)));
  if (step[0] === "s") made.append(" ");
  if (step[0] !== "d") made.append(node("ins", {}, ...marked(step.at(-1), sought)));
  return made;
}

function drawClip(clip, sought) {
  const facts = [clip.set !== clip.name && data.clips.some(other => other.set !== clip.set) ? clip.set : null,
    clip.speaker === null ? null : "speaker " + clip.speaker,
    clip.seconds === null ? null : clip.seconds.toFixed(1) + " s"].filter(Boolean);
  const head = node("header", {}, node("b", { title: clip.name }, last(clip.name)), ...facts.map(fact => node("span", {}, fact)));
  const made = node("article", { class: "clip" }, head);
  if (data.audio[clip.number]) {
    made.append(node("audio", { controls: "", preload: "none", src: "data:audio/mpeg;base64," + data.audio[clip.number] }));
  }
  clip.systems.forEach((system, i) => {
    const label = (two ? data.systems[i] + ": " : "")
      + `${number(system.errors)} error${system.errors === 1 ? "" : "s"} in ${number(clip.words)} words, ${percent(system.errors, clip.words)} `;
    const line = node("div", { class: "text" }, node("span", { class: "system" }, label,
      ...system.notes.flatMap(note => [node("span", { class: "tag" }, note), " "])));
    system.steps.forEach((step, n) => line.append(n ? " " : "", drawStep(step, sought)));
    made.append(line);
  });
  const normalized = clip.systems[0].steps.filter(step => step[0] !== "i").map(step => step[1]).join(" ");
  if (normalized !== clip.said.toLowerCase()) {
    made.append(node("p", { class: "raw" }, "transcript: ", ...marked(clip.said || "(empty)", sought)));
  }
  return made;
}

function more(sought = form.elements.word.value.trim().toLowerCase()) {
  const next = matching.slice(drawn, drawn + PAGE);
  document.getElementById("clips").append(...next.map(clip => drawClip(clip, sought)));
  drawn += next.length;
  const button = document.getElementById("more");
  button.hidden = drawn >= matching.length;
  button.textContent = `Show more (${number(matching.length - drawn)} left)`;
}

const details = document.getElementById("confusions");
details.open = innerWidth > 640;
if (two) details.querySelector("summary").textContent += ", by both together";
form.addEventListener("input", update);
form.addEventListener("submit", event => event.preventDefault());
form.addEventListener("reset", () => { chosen = null; setTimeout(update); });
document.getElementById("more").onclick = () => more();
update();
