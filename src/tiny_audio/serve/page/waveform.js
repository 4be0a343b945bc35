// A recording drawn as bars, which is also a slider: the played part and the word being said are highlighted.

const BAR = 3; // CSS pixels, the gap included
const STEP_SECONDS = 5;

export class Waveform {
  // `seek` is called with the chosen second.
  constructor(canvas, seek) {
    this.canvas = canvas;
    this.samples = new Float32Array(0);
    this.seconds = 0;
    this.time = 0;
    this.word = null;
    canvas.addEventListener("pointerdown", (event) => {
      const box = canvas.getBoundingClientRect();
      seek((event.clientX - box.left) / box.width * this.seconds);
    });
    canvas.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -STEP_SECONDS, ArrowRight: STEP_SECONDS, Home: -Infinity, End: Infinity }[event.key];
      if (move === undefined) return;
      event.preventDefault();
      seek(Math.min(Math.max(this.time + move, 0), this.seconds));
    });
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  // Show samples (an array of -1 to 1) of a recording of `seconds`.
  show(samples, seconds) {
    Object.assign(this, { samples, seconds, time: 0, word: null });
    this.canvas.setAttribute("aria-valuemax", seconds.toFixed(1));
    this.at(0, null);
  }

  // Show the played position, and the word that is said there: {start, end} or null.
  at(time, word) {
    Object.assign(this, { time, word });
    this.canvas.setAttribute("aria-valuenow", time.toFixed(1));
    this.canvas.setAttribute("aria-valuetext", `${time.toFixed(1)} of ${this.seconds.toFixed(1)} seconds`);
    this.draw();
  }

  draw() {
    const { width, height } = this.canvas.getBoundingClientRect();
    const scale = devicePixelRatio;
    this.canvas.width = width * scale;
    this.canvas.height = height * scale;
    const context = this.canvas.getContext("2d");
    context.scale(scale, scale);
    const style = getComputedStyle(this.canvas);
    const color = (name) => style.getPropertyValue(`--${name}`);
    const count = Math.floor(width / BAR);
    if (this.word && this.seconds) {
      context.fillStyle = color("lit");
      const [left, right] = [this.word.start, this.word.end].map((second) => second / this.seconds * width);
      context.fillRect(left, 0, Math.max(right - left, 2), height);
    }
    const loudest = this.samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0.05);
    for (let bar = 0; bar < count; bar += 1) {
      const from = Math.floor(bar / count * this.samples.length);
      const to = Math.max(Math.floor((bar + 1) / count * this.samples.length), from + 1);
      let peak = 0;
      for (let at = from; at < Math.min(to, this.samples.length); at += 1) {
        peak = Math.max(peak, Math.abs(this.samples[at]));
      }
      const tall = Math.max(peak / loudest * height * 0.94, 2);
      context.fillStyle = color(this.seconds && bar / count < this.time / this.seconds ? "accent" : "wave");
      context.fillRect(bar * BAR, (height - tall) / 2, BAR - 1, tall);
    }
  }
}
