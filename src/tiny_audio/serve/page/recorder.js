// The microphone, from a click to a recording.

const TYPES = ["audio/webm;codecs=opus", "audio/mp4", "audio/ogg;codecs=opus"];
const ENDINGS = { "audio/webm": "webm", "audio/mp4": "m4a", "audio/ogg": "ogg" };
const TICK = 50; // ms between two levels

export class Recorder {
  // `level` is called with the loudness, 0 to 1, and the seconds so far.
  static async start(level) {
    if (!navigator.mediaDevices) {
      throw new Error("The browser allows the microphone only on this machine (127.0.0.1) or over https.");
    }
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    } catch (error) {
      const denied = error.name === "NotAllowedError";
      throw new Error(denied ? "The browser was not allowed to use the microphone." : "No microphone was found.");
    }
    return new Recorder(stream, level);
  }

  constructor(stream, level) {
    const type = TYPES.find((one) => MediaRecorder.isTypeSupported(one));
    this.stream = stream;
    this.parts = [];
    this.recorder = new MediaRecorder(stream, type ? { mimeType: type } : {});
    this.recorder.ondataavailable = (event) => this.parts.push(event.data);
    this.recorder.start();
    this.context = new AudioContext();
    const analyser = this.context.createAnalyser();
    this.context.createMediaStreamSource(stream).connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    const started = performance.now();
    this.timer = setInterval(() => {
      analyser.getFloatTimeDomainData(samples);
      level(Math.max(...samples.map(Math.abs)), (performance.now() - started) / 1000);
    }, TICK);
  }

  // Return the recording as {blob, name}.
  async stop() {
    clearInterval(this.timer);
    const stopped = new Promise((resolve) => { this.recorder.onstop = resolve; });
    this.recorder.stop();
    await stopped;
    this.stream.getTracks().forEach((track) => track.stop());
    await this.context.close();
    const type = this.recorder.mimeType.split(";")[0];
    return { blob: new Blob(this.parts, { type }), name: `recording.${ENDINGS[type] ?? "webm"}` };
  }
}
