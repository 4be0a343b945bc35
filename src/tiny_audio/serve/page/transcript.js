// The words of the transcript as they arrive; each has a place in the recording. All text is set as plain text.

// Words are marked if their confidence is low, and among the lowest in the recording. If the CTC head was trained for
// only a few hundred steps, all its confidences are low, so words can only be compared with each other.
const DOUBT = 0.5;
const DOUBT_SHARE = 0.2;
const LINGER = 0.5; // seconds that a word stays lit at least: the model tells where it is recognized, not all of it

export class Transcript {
  // `seek` is called with the second at which the chosen word begins.
  constructor(container, seek) {
    this.container = container;
    this.places = [];
    container.addEventListener("click", (event) => {
      const place = this.places.find((one) => one.element === event.target);
      if (place) this.choose(place, seek);
    });
    container.addEventListener("keydown", (event) => {
      const at = this.places.findIndex((one) => one.element === event.target);
      if (at < 0) return;
      const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: this.places.length - 1 }[event.key];
      if (event.key === "Enter" || event.key === " ") this.choose(this.places[at], seek);
      else if (next === undefined) return;
      else this.focus(this.places[next]);
      event.preventDefault();
    });
  }

  clear() {
    this.container.replaceChildren();
    this.places = [];
  }

  get hasDoubts() {
    return this.places.some((place) => place.element.classList.contains("doubtful"));
  }

  // Add a segment {start, end, text, words}; without words it is one place.
  add(segment) {
    const words = segment.words ?? [{ word: segment.text, start: segment.start, end: segment.end, confidence: 1 }];
    for (const { word, start, end, confidence } of words) {
      if (!word.trim()) continue;
      const element = document.createElement("span");
      element.className = "word";
      element.textContent = word;
      element.setAttribute("role", "button");
      element.tabIndex = this.places.length ? -1 : 0;
      this.container.append(element, " ");
      this.places.push({ element, start, end, confidence });
    }
    this.mark();
  }

  mark() {
    const sorted = this.places.map((place) => place.confidence).sort((one, other) => one - other);
    const limit = sorted[Math.ceil(DOUBT_SHARE * sorted.length) - 1];
    for (const { element, confidence } of this.places) {
      const is = confidence < DOUBT && confidence <= limit;
      element.classList.toggle("doubtful", is);
      element.title = is ? `confidence ${confidence.toFixed(3)}` : "";
      element.setAttribute("aria-label", is ? `${element.textContent}, may be wrong` : element.textContent);
    }
  }

  // Highlight the word that is said at a time, and return its place {start, end}; null between words.
  light(time) {
    const last = this.places.findLast((place) => place.start <= time);
    const end = last && Math.max(last.end, last.start + LINGER);
    const said = last && time < end ? last : null;
    for (const place of this.places) place.element.classList.toggle("lit", place === said);
    return said && { start: said.start, end };
  }

  choose(place, seek) {
    this.focus(place);
    seek(place.start);
  }

  focus(place) {
    if (!place) return;
    for (const other of this.places) other.element.tabIndex = -1;
    place.element.tabIndex = 0;
    place.element.focus();
  }
}
