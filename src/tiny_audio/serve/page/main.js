// The page: from a recording to its transcript, played word by word.

import { modelName, Refused, rememberKey, transcribe } from "./api.js";
import { Recorder } from "./recorder.js";
import { Transcript } from "./transcript.js";
import { Waveform } from "./waveform.js";

const $ = (id) => document.getElementById(id);
const audio = $("audio");
const waveform = new Waveform($("waveform"), seek);
const transcript = new Transcript($("transcript"), (seconds) => { seek(seconds); play(); });
const LIVE = 400; // levels that are drawn while it records
let recorder = null;
let sending = null;
let texts = {};
let name = "";

$("record").addEventListener("click", () => (recorder ? stopRecording() : startRecording()));
$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  if (file) take(file, file.name);
  $("file").value = "";
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dropping", kind === "dragover");
  });
}
document.addEventListener("drop", (event) => {
  const [file] = event.dataTransfer.files;
  if (file && !recorder) take(file, file.name);
});
$("play").addEventListener("click", () => (audio.paused ? play() : audio.pause()));
audio.addEventListener("play", () => { $("play").textContent = "Pause"; follow(); });
audio.addEventListener("pause", () => { $("play").textContent = "Play"; });
audio.addEventListener("seeked", showPlace);
audio.addEventListener("loadeddata", () => { $("play").disabled = false; });
$("copy").addEventListener("click", copy);
for (const button of document.querySelectorAll(".download")) {
  button.addEventListener("click", () => download(button.dataset.form));
}
modelName().then((found) => { $("model").textContent = found; }, () => fail("The server cannot be reached."));

async function startRecording() {
  begin("Recording; press Stop when you are done.");
  const levels = [];
  try {
    recorder = await Recorder.start((level, seconds) => {
      levels.push(level);
      $("time").textContent = clock(seconds);
      waveform.show(Float32Array.from(levels.slice(-LIVE)), seconds);
    });
  } catch (error) {
    fail(error.message);
    return;
  }
  $("player").hidden = false;
  setRecording(true);
}

async function stopRecording() {
  const { blob, name: called } = await recorder.stop();
  recorder = null;
  setRecording(false);
  take(blob, called);
}

function setRecording(is) {
  $("record").classList.toggle("recording", is);
  $("record-label").textContent = is ? "Stop" : "Record";
  $("choose").disabled = is;
  $("play").hidden = is;
}

// Clear the recording and its transcript.
function begin(status) {
  sending?.abort();
  audio.pause();
  transcript.clear();
  texts = {};
  $("status").textContent = status;
  $("error").hidden = true;
  $("spoken").textContent = "";
  $("legend").hidden = $("warnings").hidden = $("result").hidden = $("player").hidden = true;
  for (const button of document.querySelectorAll("#play, #copy, .download")) button.disabled = true;
}

// Show a recording, and have it transcribed.
async function take(blob, called) {
  begin("Sending the recording");
  name = called.replace(/\.[^.]*$/, "") || "recording";
  if (audio.src) URL.revokeObjectURL(audio.src);
  audio.src = URL.createObjectURL(blob);
  $("player").hidden = false;
  $("time").textContent = "";
  const own = sending = new AbortController();
  try {
    await Promise.all([draw(blob, own.signal), write(blob, called, own.signal)]);
  } catch (error) {
    if (own.signal.aborted) return;
    own.abort();
    if (error instanceof Refused && error.status === 401) askKey(blob, called);
    else fail(error instanceof Refused ? error.message : "The page failed; the browser's console says how.");
    if (!(error instanceof Refused)) throw error;
  }
}

async function draw(blob, signal) {
  waveform.show(new Float32Array(0), 0);
  const context = new AudioContext();
  try {
    const decoded = await context.decodeAudioData(await blob.arrayBuffer());
    if (signal.aborted) return;
    waveform.show(decoded.getChannelData(0), decoded.duration);
    showPlace();
  } catch {
    $("time").textContent = "This browser cannot play the recording; the server may be able to read it.";
  } finally {
    await context.close();
  }
}

async function write(blob, called, signal) {
  for await (const event of transcribe(blob, called, signal)) {
    $("result").hidden = false;
    if (event.type === "transcript.text.delta") {
      $("status").textContent = "Writing";
      event.segments.forEach((segment) => transcript.add(segment));
      $("spoken").append(event.delta);
      $("legend").hidden = !transcript.hasDoubts;
      continue;
    }
    texts = { text: `${event.text}\n`, ...event.subtitles };
    $("status").textContent = event.text ? "Done" : "Nothing was said in it.";
    $("warnings").replaceChildren(...event.warnings.map((line) => {
      const item = document.createElement("li");
      item.textContent = line;
      return item;
    }));
    $("warnings").hidden = !event.warnings.length;
    for (const button of document.querySelectorAll("#copy, .download")) button.disabled = !event.text;
  }
}

function askKey(blob, called) {
  $("status").textContent = "";
  $("key-form").onsubmit = () => {
    rememberKey($("key").value);
    take(blob, called);
  };
  $("key-dialog").showModal();
}

function fail(message) {
  $("status").textContent = "";
  $("error").textContent = message;
  $("error").hidden = false;
}

function seek(seconds) {
  if (Number.isFinite(seconds)) audio.currentTime = seconds;
}

function play() {
  audio.play().catch(() => {}); // a recording that cannot be played is told of when it is drawn
}

function follow() {
  showPlace();
  if (!audio.paused) requestAnimationFrame(follow);
}

function showPlace() {
  const time = audio.currentTime;
  waveform.at(time, transcript.light(time));
  if (waveform.seconds) $("time").textContent = `${clock(time)} / ${clock(waveform.seconds)}`;
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

async function copy() {
  try {
    await navigator.clipboard.writeText(texts.text.trim());
    $("status").textContent = "Copied";
  } catch {
    getSelection().selectAllChildren($("transcript"));
    $("status").textContent = "The browser did not allow it; the text is selected, copy it yourself.";
  }
}

function download(form) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([texts[form]], { type: "text/plain;charset=utf-8" }));
  link.download = `${name}.${form === "text" ? "txt" : form}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
