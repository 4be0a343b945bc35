// The words as they come; each is a place in the recording. All text is set as text.

const DOUBT = 0.5; // confidence below which a word is marked

export class Transcript {
  // `seek` is told the second at which a word that was chosen begins.
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
    return this.places.some((place) => place.confidence < DOUBT);
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
      if (confidence < DOUBT) {
        element.classList.add("doubtful");
        element.title = `confidence ${Math.round(confidence * 100)} %`;
        element.setAttribute("aria-label", `${word}, may be wrong`);
      }
      this.container.append(element, " ");
      this.places.push({ element, start, end, confidence });
    }
  }

  // Light the word that is said at a time, and return its place; null between words.
  light(time) {
    let found = null;
    for (const place of this.places) {
      const is = time >= place.start && time < place.end;
      place.element.classList.toggle("lit", is);
      if (is) found = place;
    }
    return found;
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
