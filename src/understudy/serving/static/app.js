"use strict";
const el = (id) => document.getElementById(id);
const token = new URLSearchParams(location.hash.slice(1)).get("token");
const Source = window.ManagedMediaSource || window.MediaSource;
const video = el("video"), canvas = el("canvas");
const KEPT = 30; // seconds kept for saving
let socket, playing = false, mp4 = true, queue = [], buffer = null, waiting = null, form = null;
let header = null, kept = [], frames = 0, asked = 0, began = 0;

const say = (text) => { el("status").textContent = text; }; // text only: a prompt can never become markup
const send = (message) => { if (socket.readyState === 1) socket.send(JSON.stringify(message)); };

function connect() {
  const protocols = ["understudy.v1"].concat(token ? ["token." + token] : []);
  socket = new WebSocket(location.origin.replace(/^http/, "ws") + "/stream", protocols);
  socket.binaryType = "arraybuffer";
  socket.onmessage = (event) => typeof event.data === "string" ? hear(JSON.parse(event.data)) : take(event.data);
  socket.onclose = () => { over("Disconnected; trying again"); setTimeout(connect, 2000); };
}

function hear(message) {
  if (message.type === "welcome") {
    for (const select of [el("student"), el("other")]) {
      if (select.dataset.filled) continue;
      for (const name of message.students) select.add(new Option(name));
      select.dataset.filled = "1";
    }
    el("prompt").maxLength = message.prompt_chars;
    say("Ready");
  } else if (message.type === "queued") {
    el("queue").textContent = message.position ? String(message.position) : "your turn";
  } else if (message.type === "started") {
    form = message; waiting = "header"; began = performance.now();
    mp4 = message.mime !== "image/jpeg";
    video.hidden = !mp4; canvas.hidden = mp4;
    if (mp4) openSource(message.mime); else { waiting = null; canvas.width = form.width; canvas.height = form.height; }
    el("first").textContent = Math.round(began - asked) + " ms";
    say("Playing: " + el("prompt").value);
  } else if (message.type === "block") {
    waiting = message; frames += message.frames;
    el("fps").textContent = (frames / Math.max(0.5, (performance.now() - began) / 1000)).toFixed(1);
    el("cache").textContent = (message.cache_bytes / 1024).toFixed(0) + " KiB";
  } else if (message.type === "ended") {
    over("Ended: " + message.reason + (message.detail ? ", " + message.detail : ""));
  } else if (message.type === "error") {
    say("Refused: " + message.detail);
    if (!form) over(el("status").textContent);
  }
}

function take(data) {
  if (!form) return; // it came after the end
  const block = waiting;
  if (block === "header") { header = data; queue.push(data); return append(); }
  if (mp4) {
    kept.push(data);
    while (kept.length > KEPT * form.fps / block.frames) kept.shift();
    el("save").disabled = false;
    queue.push(data); append();
  } else draw(data, block.sizes, form.fps);
  acknowledge(block.block);
}

function acknowledge(number) { // not while much is unseen: the server waits with us
  const ahead = mp4 && video.buffered.length ? video.buffered.end(video.buffered.length - 1) - video.currentTime : 0;
  if (ahead > 5 && playing) setTimeout(acknowledge, 500, number); else send({ type: "ack", block: number });
}

function openSource(mime) {
  const source = new Source();
  video.disableRemotePlayback = true;
  video.src = URL.createObjectURL(source);
  source.addEventListener("sourceopen", () => {
    URL.revokeObjectURL(video.src);
    buffer = source.addSourceBuffer(mime);
    buffer.addEventListener("updateend", append);
    append();
  }, { once: true });
  video.play().catch(() => say("Press play on the video"));
}

function append() {
  if (!buffer || buffer.updating) return;
  if (video.currentTime > 40) { // what has been seen is let go
    const start = video.buffered.length ? video.buffered.start(0) : 0;
    if (video.currentTime - start > 40) return buffer.remove(start, video.currentTime - 20);
  }
  if (queue.length) buffer.appendBuffer(queue.shift());
}

async function draw(data, sizes, fps) {
  let at = 0;
  for (const size of sizes) {
    const picture = await createImageBitmap(new Blob([data.slice(at, at += size)], { type: "image/jpeg" }));
    canvas.getContext("2d").drawImage(picture, 0, 0);
    await new Promise((done) => setTimeout(done, 900 / fps));
  }
}

function over(text) {
  playing = false; form = null;
  el("stop").disabled = true; el("play").textContent = "Play";
  say(text);
}

el("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const prompt = el("prompt").value;
  if (playing) { say("Turning to: " + prompt); return send({ type: "prompt", prompt }); }
  playing = true; queue = []; buffer = null; kept = []; frames = 0; asked = performance.now();
  el("stop").disabled = false; el("play").textContent = "Change prompt"; el("save").disabled = true;
  const students = [el("student").value].concat(el("other").value || []);
  const supported = Source && Source.isTypeSupported('video/mp4; codecs="avc1.42c00a"') && !location.search.includes("jpeg");
  send({ type: "open", prompt, seed: Number(el("seed").value), seconds: Number(el("seconds").value) || null, students,
         format: supported ? "mp4" : "jpeg" });
});
el("stop").addEventListener("click", () => send({ type: "stop" }));
el("save").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([header, ...kept], { type: "video/mp4" }));
  link.download = "understudy.mp4";
  link.click();
});
connect();
