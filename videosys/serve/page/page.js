"use strict";
// Everything that comes from the service is set as text, never as HTML.
const get = (id) => document.getElementById(id);
const cards = new Map();
let goals = [];

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

async function call(path, options = {}) {
  const headers = { ...options.headers };
  const key = get("key").value;
  if (key) headers.Authorization = `Bearer ${key}`;
  const answer = await fetch(path, { ...options, headers });
  if (answer.status === 401) get("secret").hidden = false;
  if (!answer.ok) {
    const body = await answer.json().catch(() => null);
    throw new Error(body?.error?.message ?? `the service answered ${answer.status}`);
  }
  return answer;
}

async function create(body) {
  get("error").textContent = "";
  try {
    await call("/v1/videos", {
      method: "POST",
      headers: { "Content-Type": "application/json", "Idempotency-Key": crypto.randomUUID?.() ?? String(Math.random()) },
      body: JSON.stringify(body),
    });
    await refresh();
  } catch (error) {
    get("error").textContent = error.message;
  }
}

function asked() {
  const body = { prompt: get("prompt").value };
  if (get("size").value) body.size = get("size").value;
  const numbers = { frames: "frames", steps: "num_inference_steps", seed: "seed" };
  for (const [id, name] of Object.entries(numbers)) if (get(id).value) body[name] = Number(get(id).value);
  const goal = goals[Number(get("speed").value) - 1];
  if (goal) body.speedup = goal.speedup;
  return body;
}

async function remove(id) {
  try {
    await call(`/v1/videos/${id}`, { method: "DELETE" });
  } catch (error) {
    get("error").textContent = error.message;
  }
  await refresh();
}

function waiting(video) {
  const left = video.eta === null ? "" : `, about ${Math.ceil(video.eta)} s left`;
  const place = video.status === "queued" ? `number ${video.queue_position ?? "?"} in the queue` : `${video.stage ?? "starting"} ${video.step} of ${video.of}${left}`;
  return make("li", {}, make("p", {}, video.prompt),
    make("progress", { max: 100, value: video.progress, "aria-label": "progress" }),
    make("div", { class: "row small" }, make("span", {}, place), make("button", { type: "button", onclick: () => remove(video.id) }, "Cancel")));
}

function failed(video) {
  return make("li", {}, make("p", {}, video.prompt), make("p", { class: "small" }, video.error?.message ?? "failed"),
    make("button", { type: "button", onclick: () => remove(video.id) }, "Remove"));
}

function plot(steps) {
  const namespace = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(namespace, "svg");
  svg.setAttribute("viewBox", `0 0 ${steps.length} 1`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${steps.filter((step) => step.computed).length} of ${steps.length} steps computed`);
  const most = Math.max(...steps.map((step) => step.distance ?? 0), 1e-9);
  steps.forEach((step, x) => {
    const bar = document.createElementNS(namespace, "rect");
    const height = step.distance === null ? 1 : Math.max(0.05, step.distance / most);
    for (const [name, value] of Object.entries({ x: x + 0.1, y: 1 - height, width: 0.8, height, class: step.computed ? "computed" : "reused" })) bar.setAttribute(name, value);
    svg.append(bar);
  });
  return svg;
}

function finished(video) {
  const player = make("video", { controls: "", loop: "", muted: "", playsinline: "" });
  const chart = make("div");
  const plain = () => create({ prompt: video.prompt, size: video.size, frames: video.frames, seed: video.seed, cache: "none" });
  call(`/v1/videos/${video.id}/content`).then((answer) => answer.blob()).then((blob) => { player.src = URL.createObjectURL(blob); }).catch(() => {});
  call(`/v1/videos/${video.id}/content?variant=sidecar`).then((answer) => answer.json()).then((content) => {
    chart.replaceChildren(plot(content.steps));
    if (content.config.cache.name === "none") compare.hidden = true;
  }).catch(() => {});
  const compare = make("button", { type: "button", title: "The same prompt and seed, every step computed", onclick: plain }, "Without cache");
  return make("li", {}, player, make("p", {}, video.prompt), make("p", { class: "small" }, `seed ${video.seed}, ${video.size}, ${video.frames} frames: ${video.cache ?? ""}`), chart,
    make("div", { class: "row" }, compare, make("button", { type: "button", onclick: () => remove(video.id) }, "Remove")));
}

function together(videos) {
  // Videos of one prompt and seed side by side.
  const groups = new Map();
  for (const video of videos) {
    const key = JSON.stringify([video.prompt, video.seed, video.size, video.frames]);
    groups.set(key, [...(groups.get(key) ?? []), video]);
  }
  return [...groups.values()].flat();
}

async function refresh() {
  const { data } = await (await call("/v1/videos?limit=50")).json();
  const open = data.filter((video) => ["queued", "in_progress"].includes(video.status)).reverse();
  const done = together(data.filter((video) => video.status === "completed"));
  get("queue").replaceChildren(...open.map(waiting), ...data.filter((video) => video.status === "failed").map(failed));
  for (const id of cards.keys()) if (!done.some((video) => video.id === id)) cards.delete(id);
  for (const video of done) if (!cards.has(video.id)) cards.set(video.id, finished(video));
  const shown = done.map((video) => cards.get(video.id));
  const list = get("videos");
  if (shown.length !== list.children.length || shown.some((card, place) => list.children[place] !== card)) list.replaceChildren(...shown);
}

async function start() {
  const about = await (await call("/v1/models")).json();
  const model = about.data[0];
  get("about").textContent = `Model: ${model.id}`;
  get("size").placeholder = model.defaults.size;
  get("frames").placeholder = model.defaults.frames;
  get("steps").placeholder = model.defaults.steps;
  goals = model.goals;
  get("goal").hidden = goals.length === 0;
  get("speed").max = goals.length;
  get("words").hidden = !model.vocabulary;
  get("vocabulary").textContent = model.vocabulary ?? "";
  get("examples").replaceChildren(...model.examples.map((text) => make("button", { type: "button", onclick: () => { get("prompt").value = text; } }, text)));
}

get("speed").addEventListener("input", () => {
  const goal = goals[Number(get("speed").value) - 1];
  const quality = goal?.psnr === null ? "the same video" : `about ${goal?.psnr} dB PSNR`;
  get("speedup").textContent = goal ? `${goal.speedup}x, ${quality}` : "as configured";
});
get("ask").addEventListener("submit", (event) => { event.preventDefault(); create(asked()); });
get("key").addEventListener("change", () => start().then(refresh).catch((error) => { get("error").textContent = error.message; }));

async function loop() {
  try {
    if (!get("about").textContent) await start();
    if (!document.hidden) await refresh();
  } catch (error) {
    if (!get("error").textContent) get("error").textContent = error.message;
  }
  setTimeout(loop, 1000);
}
loop();
