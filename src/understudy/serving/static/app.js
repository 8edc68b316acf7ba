"use strict";
const el = (id) => document.getElementById(id);
const token = new URLSearchParams(location.hash.slice(1)).get("token");
const Source = window.ManagedMediaSource || window.MediaSource;
const mp4 = Boolean(Source && Source.isTypeSupported('video/mp4; codecs="avc1.42c00a"')) && !location.search.includes("jpeg");
const video = el("video"), canvas = el("canvas");
const KEPT = 30; // seconds kept for saving
let socket = null, students = new Map(), limit = 0;
let clip = null; // what plays; null between clips

const say = (text) => { el("status").textContent = text; }; // text only: a prompt can never become markup
const send = (message) => { if (socket.readyState === 1) socket.send(JSON.stringify(message)); };
const number = (id) => el(id).value === "" ? null : Number(el(id).value);

function connect() {
  socket = new WebSocket(location.origin.replace(/^http/, "ws") + "/stream", ["understudy.v1"].concat(token ? ["token." + token] : []));
  socket.binaryType = "arraybuffer";
  let welcomed = false;
  socket.onmessage = (event) => {
    welcomed = true;
    if (typeof event.data === "string") hear(JSON.parse(event.data)); else if (clip) take(event.data);
  };
  socket.onclose = () => {
    end(welcomed ? "Disconnected; trying again" : "No connection; is the address whole, with its token? Trying again");
    setTimeout(connect, 2000);
  };
}

function hear(message) {
  const said = { welcome, queued, started, block, ended, error }[message.type];
  if (said) said(message);
}

function welcome(message) {
  limit = message.given_bytes;
  el("prompt").maxLength = message.prompt_chars;
  if (!students.size) {
    for (const one of message.students) {
      students.set(one.name, one);
      for (const select of [el("student"), el("other")]) select.add(new Option(one.name));
    }
    hint();
  }
  say("Ready");
}

function hint() { // the student's own settings stand in the empty fields
  const own = students.get(el("student").value);
  for (const id of ["block", "steps", "window", "sink"]) el(id).placeholder = own[id];
  el("block").max = el("window").max = own.span;
  el("seconds").placeholder = own.endless ? "endless" : "its longest";
}

function queued(message) { el("queue").textContent = message.position ? String(message.position) : "your turn"; }

function started(message) {
  if (!clip) return;
  Object.assign(clip, message, { expect: mp4 ? "header" : null });
  video.hidden = !mp4; canvas.hidden = mp4;
  if (mp4) openSource(); else { canvas.width = message.width; canvas.height = message.height; }
  el("names").replaceChildren(...clip.students.map((name) => Object.assign(document.createElement("span"), { textContent: name })));
  say("Playing: " + clip.prompts[0]);
}

function block(message) {
  if (!clip) return;
  const now = performance.now();
  clip.expect = message;
  clip.arrivals.push([now, message.frames]);
  while (clip.arrivals.length > 2 && now - clip.arrivals[0][0] > 3000) clip.arrivals.shift();
  const frames = clip.arrivals.slice(1).reduce((sum, one) => sum + one[1], 0), seconds = (now - clip.arrivals[0][0]) / 1000;
  if (seconds > 0.5) el("fps").textContent = (frames / seconds).toFixed(1);
  el("draw").textContent = message.milliseconds.toFixed(0) + " ms";
  el("cache").textContent = (message.cache_bytes / 1024).toFixed(0) + " KiB";
  if (message.prompt > clip.prompt) { clip.prompt = message.prompt; say("Playing: " + clip.prompts[clip.prompt]); }
}

function ended(message) { end("Ended: " + message.reason + (message.detail ? ", " + message.detail : "")); }

function error(message) {
  say("Refused: " + message.detail);
  if (!clip) return;
  if (clip.prompts.length > 1) clip.prompts.pop(); else if (!clip.mime) end("Refused: " + message.detail);
}

function take(data) {
  const told = clip.expect;
  if (told === "header") { clip.header = data; clip.queue.push(data); return append(clip); }
  if (!mp4) return draw(clip, told, data);
  clip.kept.push([told.frames, data]);
  for (let all = clip.kept.reduce((sum, one) => sum + one[0], 0); all - clip.kept[0][0] >= KEPT * clip.fps;) all -= clip.kept.shift()[0];
  el("save").disabled = false;
  clip.queue.push(data);
  append(clip);
  acknowledge(clip, told.block);
}

function acknowledge(one, number) { // not while much is unseen: the server waits with us
  if (one !== clip) return;
  const ahead = video.buffered.length ? video.buffered.end(video.buffered.length - 1) - video.currentTime : 0;
  if (ahead > 5) setTimeout(acknowledge, 250, one, number); else send({ type: "ack", block: number });
}

function openSource() {
  const source = new Source(), one = clip, url = URL.createObjectURL(source);
  source.addEventListener("sourceopen", () => {
    URL.revokeObjectURL(url);
    one.buffer = source.addSourceBuffer(one.mime);
    one.buffer.addEventListener("updateend", () => append(one));
    append(one);
  }, { once: true });
  one.source = source;
  video.disableRemotePlayback = true;
  video.src = url;
  if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(() => shown(one)); else video.addEventListener("loadeddata", () => shown(one), { once: true });
  video.play().catch(() => {}); // a new clip has taken its place
}

function append(one) {
  const buffer = one.buffer;
  if (!buffer || buffer.updating || one.source.readyState !== "open") return;
  const start = video.buffered.length ? video.buffered.start(0) : 0;
  if (one === clip && video.currentTime - start > 40) return buffer.remove(start, video.currentTime - 20); // what has been seen is let go
  if (one.queue.length) buffer.appendBuffer(one.queue.shift());
  else if (one.over) one.source.endOfStream();
}

function draw(one, told, data) { // pictures are shown one after the other, whenever they come
  one.drawn = one.drawn.then(async () => {
    let at = 0;
    for (const size of told.sizes) {
      if (one !== clip && !one.over) return;
      const picture = await createImageBitmap(new Blob([data.slice(at, at += size)], { type: "image/jpeg" }));
      const due = one.due ? Math.max(one.due, performance.now() - 1000) : performance.now();
      await new Promise((done) => setTimeout(done, due - performance.now()));
      canvas.getContext("2d").drawImage(picture, 0, 0);
      shown(one);
      one.due = due + 1000 / one.fps;
    }
    send({ type: "ack", block: told.block });
  });
}

function shown(one) {
  if (one.seen) return;
  one.seen = true;
  el("first").textContent = Math.round(performance.now() - one.asked) + " ms";
}

function end(text) {
  if (clip) { clip.over = true; append(clip); }
  clip = null;
  el("stop").disabled = true;
  el("play").textContent = "Play";
  for (const id of ["queue", "fps"]) el(id).textContent = "–";
  say(text);
}

async function play() {
  const file = el("given").files[0];
  if (file && file.size > limit) return say("Refused: a given file has at most " + limit + " bytes");
  const prompt = el("prompt").value, names = [el("student").value].concat(el("other").value || []);
  last = clip = {
    asked: performance.now(), students: names, prompts: [prompt], prompt: 0, mime: "", queue: [], kept: [], arrivals: [],
    header: null, buffer: null, source: null, expect: null, seen: false, over: false, drawn: Promise.resolve(), due: 0,
  };
  el("stop").disabled = false; el("save").disabled = true; el("play").textContent = "Change prompt";
  for (const id of ["fps", "first", "draw", "cache", "queue"]) el(id).textContent = "–";
  say("Asking");
  const given = file ? await file.arrayBuffer() : null;
  send({ type: "open", prompt, seed: number("seed") || 0, seconds: number("seconds"), students: names, block: number("block"),
         window: number("window"), sink: number("sink"), steps: number("steps"), given_bytes: given ? given.byteLength : 0,
         format: mp4 ? "mp4" : "jpeg" });
  if (given) socket.send(given);
}
let last = null; // the latest clip, for saving

el("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!clip) return play();
  clip.prompts.push(el("prompt").value);
  say("Turning to: " + el("prompt").value);
  send({ type: "prompt", prompt: el("prompt").value });
});
el("student").addEventListener("change", hint);
el("stop").addEventListener("click", () => { send({ type: "stop" }); el("prompt").focus(); });
el("save").addEventListener("click", () => {
  const link = document.createElement("a"), url = URL.createObjectURL(new Blob([last.header, ...last.kept.map((one) => one[1])], { type: "video/mp4" }));
  link.href = url;
  link.download = "understudy.video.mp4";
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
});
connect();
