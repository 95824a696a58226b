// The chosen video, next to the same one without a cache, with the plot of its steps.
import { content, read } from "/api.js";
import { chart, length, make, setText, stageOf } from "/parts.js";

const get = (id) => document.getElementById(id);
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const figures = new Map();

// Videos with the same text are the same but for their cache.
export function sameness(video) {
  const { cache, ...settings } = video.settings;
  return JSON.stringify([video.prompt, Object.entries(settings).sort()]);
}

export function isPlain(video, configured) {
  return (video.settings.cache?.name ?? configured) === "none";
}

export function plainRequest(video) {
  return { ...video.settings, prompt: video.prompt, cache: { name: "none" } };
}

function player(video, title) {
  const element = make("video", { controls: "", loop: "", muted: "", playsinline: "", preload: "auto", "aria-label": `${title}: ${video.prompt}` });
  const [width, height] = video.size.split("x").map(Number);
  element.muted = true;
  element.style.aspectRatio = `${width} / ${height}`;
  if (width < 256) element.classList.add("pixels");
  content(video.id, "video").then((address) => {
    element.src = address;
    if (!calm.matches) element.addEventListener("loadeddata", playBoth, { once: true });
  }).catch(() => {});
  return element;
}

function figure(video, title) {
  if (!figures.has(video.id)) {
    const words = video.cache?.split(",")[0] ?? "";
    const took = video.elapsed === null ? "" : `${words ? ", " : ""}${video.elapsed.toFixed(1)} s`;
    figures.set(video.id, make("figure", {}, make("figcaption", {}, make("strong", {}, title), make("span", {}, words + took)), player(video, title)));
  }
  return figures.get(video.id);
}

function missing(other, create) {
  const box = make("div", { class: "missing" });
  if (!other) box.append(make("p", {}, "See what the cache changes: the same seed, every step computed."), make("button", { type: "button", id: "plain", onclick: create }, "Make it without cache"));
  else if (other.status === "failed") box.append(make("p", {}, other.error?.message ?? "It has failed."));
  else box.append(make("p", {}, stageOf(other)), make("progress", { max: 100, value: other.progress, "aria-label": "Progress" }));
  return make("figure", {}, make("figcaption", {}, make("strong", {}, "Without cache")), box);
}

function put(parent, children) {
  if (children.length !== parent.children.length || children.some((child, place) => parent.children[place] !== child)) parent.replaceChildren(...children);
}

async function plot(video) {
  if (get("chart").dataset.id === video.id) return;
  get("chart").dataset.id = video.id;
  get("chart").replaceChildren();
  const sidecar = await read(`/v1/videos/${video.id}/content?variant=sidecar`).catch(() => null);
  if (sidecar && get("chart").dataset.id === video.id) get("chart").replaceChildren(chart(sidecar.steps));
}

let told = "";

// Shows a video. actions: create(body), and the buttons of a video as buttons(video).
export function show(video, videos, configured, actions) {
  get("empty").hidden = Boolean(video);
  get("shown").hidden = !video;
  for (const id of figures.keys()) if (!videos.some((one) => one.id === id)) figures.delete(id);
  if (!video) {
    told = "";
    return;
  }
  const alike = videos.filter((one) => sameness(one) === sameness(video));
  const plain = alike.find((one) => isPlain(one, configured) && one.status !== "failed") ?? alike.find((one) => isPlain(one, configured));
  const cached = isPlain(video, configured) ? alike.find((one) => !isPlain(one, configured) && one.status === "completed") : video;
  const main = cached ?? video;
  setText(get("stage-title"), video.prompt);
  setText(get("facts"), [length(video), `seed ${video.seed}`].join(", "));
  const state = JSON.stringify([main.id, plain?.id, plain?.status, plain?.status === "completed" ? 0 : [plain?.step, plain?.eta, plain?.queue_position]]);
  if (state === told) return;
  told = state;
  const pair = cached ? [figure(cached, "With cache")] : [];
  if (plain?.status === "completed") pair.push(figure(plain, "Without cache"));
  else pair.push(missing(plain, () => actions.create(plainRequest(main))));
  put(get("pair"), pair);
  if (get("actions").dataset.id !== main.id) {
    get("actions").dataset.id = main.id;
    get("actions").replaceChildren(...actions.buttons(main));
  }
  plot(main);
}

// Both videos from their first frame.
export function playBoth() {
  for (const element of get("pair").querySelectorAll("video")) {
    element.currentTime = 0;
    element.play().catch(() => {});
  }
}

export async function download(video) {
  const link = make("a", { href: await content(video.id, "video"), download: `${video.id}.mp4` });
  link.click();
}
