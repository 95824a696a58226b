import { ServiceError, content, create, forget, read, remove, useKey } from "/api.js";
import { dots, looks, make, setText, stageOf, sync, twice } from "/parts.js";
import { download, isPlain, playBoth, sameness, show } from "/stage.js";

const get = (id) => document.getElementById(id);
const FIELDS = { prompt: "prompt", size: "size", frames: "frames", num_frames: "frames", seconds: "frames", num_inference_steps: "steps", seed: "seed", speedup: "speed" };
const PAGE = 100;
const LONGEST_WORD = 24; // characters of an unknown word that are shown
const OPEN = ["queued", "in_progress"];
let model = null;
let videos = [];
let older = [];
let chosen = null; // the id of the shown video
const wanted = new Set(); // the ids of videos to show when they are finished

// The form.

function say(error) {
  for (const field of get("ask").querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
  setText(get("error"), error?.message ?? "");
  if (error instanceof ServiceError && error.status === 401) {
    get("secret").hidden = false;
    get("key").focus();
  }
  const field = get(FIELDS[error?.param]);
  if (!field) return;
  field.setAttribute("aria-invalid", "true");
  field.focus();
}

async function attempt(action) {
  try {
    say(null);
    await action();
  } catch (error) {
    say(error);
  }
}

function number(text) {
  return /^\d+$/.test(text) && Number.isSafeInteger(Number(text)) ? Number(text) : text;
}

function goal() {
  return get("by-goal").checked ? model?.goals[Number(get("speed").value)] : undefined;
}

function asked() {
  const body = { prompt: get("prompt").value };
  if (get("size").value.trim()) body.size = get("size").value.trim().replace(/\s*[×x]\s*/, "x");
  for (const [id, name] of [["frames", "frames"], ["steps", "num_inference_steps"], ["seed", "seed"]]) {
    const text = get(id).value.trim();
    if (text) body[name] = number(text);
  }
  if (goal()) body.speedup = goal().speedup;
  if (get("no-cache").checked) body.cache = { name: "none" };
  return body;
}

async function order(body) {
  const video = await create(body);
  wanted.add(video.id);
  await refresh();
}

function drawGoal() {
  const steps = get("steps").value.trim();
  const fits = !steps || Number(steps) === model.defaults.steps;
  get("by-goal").disabled = model.goals.length === 0 || !fits;
  if (get("by-goal").disabled && get("by-goal").checked) get("as-configured").checked = true;
  const found = goal();
  get("goal").hidden = !found;
  if (found) {
    const quality = found.psnr === null ? "every frame equal" : `${found.psnr.toFixed(1)} dB PSNR`;
    setText(get("speedup"), `${found.speedup}×`);
    setText(get("psnr"), `${quality}, ${looks(found.psnr)}`);
    get("speed").setAttribute("aria-valuetext", `${found.speedup} times faster, ${quality}, ${looks(found.psnr)}`);
    get("curve").replaceChildren(...dots(model.goals, Number(get("speed").value)));
  }
  setText(get("goal-note"), note(found, fits));
}

function note(found, fits) {
  if (found) return "Predicted from the calibration of this model.";
  if (get("no-cache").checked) return "Every step is computed.";
  const measured = model.goals.length && !fits ? ` Speed-ups were measured at ${model.defaults.steps} steps.` : "";
  return `The server's own setting: ${model.defaults.cache}.${measured}`;
}

// The words of a tiny checkpoint.

function wordGroups(text) {
  const lines = text.split("\n").map((line) => line.split(": "));
  return new Map(lines.map(([name, values]) => [name, name === "captions" ? values : values.split(", ")]));
}

function unknownWords(prompt) {
  const text = (model.vocabulary ?? "").replace(/^\w+:/gm, "").replace(/\{\w+\}/g, "");
  const known = new Set(["an", ...(text.match(/[a-z]+/g) ?? [])]);
  return [...new Set(prompt.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [])].filter((word) => !known.has(word));
}

function drawUnknown() {
  const words = model?.vocabulary ? unknownWords(get("prompt").value) : [];
  get("unknown").hidden = words.length === 0;
  const some = words.slice(0, 6).map((word) => `“${word.length > LONGEST_WORD ? `${word.slice(0, LONGEST_WORD)}…` : word}”`).join(", ");
  setText(get("unknown"), words.length ? `This small model does not know ${some}${words.length > 6 ? " and more" : ""}.` : "");
}

function write(text) {
  get("prompt").value = text;
  drawUnknown();
}

// Inserts a word into the prompt, or replaces another word of its group.
function use(word, group, name) {
  const prompt = get("prompt").value;
  const old = group.find((other) => new RegExp(`\\b${other}\\b${name === "background" ? "(?= background)" : ""}`).test(prompt));
  const added = name === "background" ? `on a ${word} background` : word;
  const place = name === "background" ? new RegExp(`\\b${old}(?= background)`) : new RegExp(`\\b${old}\\b`);
  const text = old ? prompt.replace(place, word) : `${prompt.trim()} ${added}`.trim();
  write(text.replace(/\ban? (?=[aeiou])/g, "an ").replace(/\ban (?![aeiou])/g, "a "));
}

function drawWords() {
  get("words").hidden = !model.vocabulary;
  get("examples").replaceChildren(...model.examples.map((text) => make("button", { type: "button", class: "chip", onclick: () => write(text) }, text)));
  if (!model.vocabulary) return;
  const groups = wordGroups(model.vocabulary);
  setText(get("caption"), groups.get("captions"));
  groups.delete("captions");
  get("vocabulary").replaceChildren(...[...groups].map(([name, words]) => make("div", { role: "group", "aria-label": name }, make("span", { class: "note" }, name), make("span", {}, ...words.map((word) => make("button", { type: "button", class: "chip", onclick: () => use(word, words, name) }, word))))));
}

async function learn() {
  model = (await read("/v1/models")).data[0];
  const { defaults, goals } = model;
  setText(get("about"), model.id);
  get("size").placeholder = defaults.size;
  get("frames").placeholder = defaults.frames;
  get("steps").placeholder = defaults.steps;
  get("speed").max = Math.max(0, goals.length - 1);
  get("speed").value = Math.max(0, goals.findLastIndex((found) => found.psnr === null || found.psnr >= 40));
  get(goals.length ? "by-goal" : "as-configured").checked = true;
  drawWords();
  drawGoal();
  drawUnknown();
}

// The lists.

function waiting(video) {
  const cancel = make("button", { type: "button", onclick: () => attempt(() => drop(video)) }, "Cancel");
  return make("li", {}, make("p", { class: "prompt" }, video.prompt), make("progress", { max: 100, "aria-label": "Progress" }), make("div", { class: "row" }, make("span", { class: "note stage" }), cancel));
}

function drawWaiting(item, video) {
  const hasFailed = video.status === "failed";
  item.classList.toggle("failed", hasFailed);
  item.querySelector("progress").hidden = hasFailed;
  item.querySelector("progress").value = video.progress;
  setText(item.querySelector(".stage"), hasFailed ? video.error?.message ?? "failed" : stageOf(video));
  const action = hasFailed ? "Remove" : "Cancel";
  setText(item.querySelector("button"), action);
  item.querySelector("button").setAttribute("aria-label", `${action}: ${video.prompt}`);
}

function frame(video) {
  const image = make("img", { alt: "" });
  const [width, height] = video.size.split("x").map(Number);
  const count = Math.min(8, video.frames);
  const strip = make("span", { class: "film" }, image);
  strip.style.aspectRatio = `${width} / ${height}`;
  strip.style.setProperty("--frames", count);
  strip.style.setProperty("--still", `${(-100 * Math.floor(count / 2)) / count}%`);
  if (width < 256) strip.classList.add("pixels");
  content(video.id, "spritesheet").then((address) => { image.src = address; }).catch(() => {});
  const button = make("button", { type: "button", onclick: () => choose(video.id) }, strip, make("span", { class: "prompt" }, video.prompt), make("span", { class: "note" }, `seed ${video.seed}, ${isPlain(video, model.defaults.cache) ? "no cache" : video.cache?.split(",")[0] ?? ""}`));
  return make("li", {}, button);
}

function drawFrame(item, video) {
  if (video.id === chosen) item.firstChild.setAttribute("aria-current", "true");
  else item.firstChild.removeAttribute("aria-current");
}

function choose(id) {
  chosen = id;
  wanted.clear();
  draw();
  get("stage").scrollIntoView({ block: "nearest" });
  get("stage").focus({ preventScroll: true });
}

async function drop(video) {
  await remove(video.id);
  forget(video.id);
  older = older.filter((one) => one.id !== video.id);
  if (chosen === video.id) chosen = null;
  await refresh();
}

function buttons(video) {
  return [
    make("button", { type: "button", onclick: playBoth }, "Play from the start"),
    make("button", { type: "button", onclick: () => attempt(() => download(video)) }, "Download"),
    make("button", { type: "button", onclick: () => reuse(video) }, "Use these settings"),
    twice("Remove", "Remove it for good?", () => attempt(() => drop(video))),
  ];
}

function reuse(video) {
  write(video.prompt);
  get("size").value = video.size;
  get("frames").value = video.settings.num_frames ?? "";
  get("steps").value = video.settings.num_inference_steps ?? "";
  get("seed").value = video.seed;
  drawGoal();
  get("prompt").focus();
}

// The shown video: the chosen one, else the newest.
function onStage(done) {
  const ready = done.find((video) => wanted.has(video.id));
  if (ready) {
    const before = done.find((video) => video.id === chosen);
    // A video without a cache is shown next to the one that it was requested for.
    if (!before || sameness(before) !== sameness(ready) || !isPlain(ready, model.defaults.cache)) chosen = ready.id;
    wanted.delete(ready.id);
    setText(get("state"), "The video is finished");
  }
  return done.find((video) => video.id === chosen) ?? done[0];
}

function draw() {
  const all = [...videos, ...older.filter((one) => !videos.some((video) => video.id === one.id))];
  const done = all.filter((video) => video.status === "completed");
  const open = all.filter((video) => OPEN.includes(video.status)).reverse();
  const failed = all.filter((video) => video.status === "failed");
  const shown = onStage(done);
  chosen = shown?.id ?? null;
  sync(get("queue"), [...failed, ...open], waiting, drawWaiting);
  sync(get("sheet"), done, frame, drawFrame);
  get("idle").hidden = open.length + failed.length > 0;
  get("none-yet").hidden = done.length > 0;
  setText(get("open"), open.length ? String(open.length) : "");
  setText(get("done"), done.length ? String(done.length) : "");
  show(shown, all, model.defaults.cache, { create: (body) => attempt(() => order(body)), buttons });
  const running = open.find((video) => video.status === "in_progress");
  document.title = running ? `${running.progress} % - videosys` : "videosys";
}

async function refresh() {
  const { data, has_more: hasMore } = await read(`/v1/videos?limit=${PAGE}`);
  videos = data;
  if (older.length === 0) get("more").hidden = !hasMore;
  draw();
}

async function showOlder() {
  const last = [...videos, ...older].at(-1);
  const { data, has_more: hasMore } = await read(`/v1/videos?limit=${PAGE}&after=${last.id}`);
  older.push(...data);
  get("more").hidden = !hasMore;
  draw();
}

async function loop() {
  let pause = 1000;
  try {
    if (!model) await learn();
    if (!document.hidden) await refresh();
    if (!videos.some((video) => OPEN.includes(video.status))) pause = 2500;
    if (get("state").classList.contains("lost")) setText(get("state"), "");
    get("state").classList.remove("lost");
  } catch (error) {
    if (error instanceof ServiceError && error.status < 500) {
      if (!get("error").textContent) say(error);
    } else {
      get("state").classList.add("lost");
      setText(get("state"), error instanceof ServiceError ? error.message : "No answer from the service; trying again");
    }
    pause = 2500;
  }
  setTimeout(loop, pause);
}

get("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (get("make").ariaBusy === "true") return; // not disabled, so that it keeps the focus
  get("make").ariaBusy = "true";
  attempt(() => order(asked())).finally(() => { get("make").ariaBusy = "false"; });
});
get("prompt").addEventListener("input", drawUnknown);
get("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) get("ask").requestSubmit();
});
get("ask").addEventListener("input", () => {
  if (get("error").textContent) say(null); // it was about what is changed now
  if (model) drawGoal();
});
get("more").addEventListener("click", () => attempt(showOlder));
get("key").addEventListener("change", () => {
  useKey(get("key").value.trim());
  attempt(async () => { await learn(); await refresh(); });
});
loop();
