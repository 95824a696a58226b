// Pieces of the page. Everything that comes from the service is set as text, never as HTML.

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Makes the children of a list those of the items, by id. Elements stay, so that the focus does too.
export function sync(list, items, create, update) {
  const old = new Map([...list.children].map((child) => [child.dataset.id, child]));
  items.forEach((item, place) => {
    let child = old.get(item.id);
    if (!child) {
      child = create(item);
      child.dataset.id = item.id;
    }
    old.delete(item.id);
    update(child, item);
    if (list.children[place] !== child) list.insertBefore(child, list.children[place] ?? null);
  });
  for (const child of old.values()) child.remove();
}

// A button that asks once more before it does what cannot be undone.
export function twice(text, question, action) {
  const button = make("button", { type: "button" }, text);
  const reset = () => {
    button.classList.remove("sure");
    setText(button, text);
  };
  button.addEventListener("click", () => {
    if (button.classList.contains("sure")) return action();
    button.classList.add("sure");
    setText(button, question);
  });
  button.addEventListener("blur", reset);
  return button;
}

export function stageOf(video) {
  if (video.status === "queued") return video.queue_position === null ? "Waiting" : `Number ${video.queue_position} in the queue`;
  if (!video.of) return "Starting";
  const what = { encode: "Reading the prompt", denoise: "Denoising", decode: "Decoding" }[video.stage] ?? video.stage;
  const unit = video.stage === "denoise" ? "step" : "part";
  const left = video.eta === null ? "" : `, about ${Math.max(1, Math.ceil(video.eta))} s left`;
  return `${what}: ${unit} ${video.step} of ${video.of}${left}`;
}

// One bar per step: its height is the measured distance, its colour says whether the step was computed.
export function chart(steps) {
  const computed = steps.filter((step) => step.computed).length;
  const measured = steps.some((step) => step.distance !== null);
  const most = Math.max(...steps.map((step) => step.distance ?? 0), 1e-9);
  const bars = steps.map((step) => {
    const done = step.computed ? "computed" : "reused";
    const distance = step.distance === null ? "" : `, distance ${step.distance.toPrecision(2)}`;
    const bar = make("span", { class: done, title: `Step ${step.step + 1}: ${done}${distance}` });
    bar.style.height = step.distance === null ? (measured ? "2px" : "100%") : `${Math.max(2, (100 * step.distance) / most)}%`;
    return make("span", { class: "column" }, bar);
  });
  const marks = steps.map((step) => make("span", { class: step.computed ? "computed" : "reused" }));
  const words = `${computed} of ${steps.length} steps computed, ${steps.length - computed} reused`;
  const top = make("div", { class: "legend" }, make("strong", {}, words), make("span", { class: "key computed" }, "computed"), make("span", { class: "key reused" }, "reused"));
  const plot = make("div", { class: "plot", role: "img", "aria-label": `${words}${measured ? `; the largest distance is ${most.toPrecision(2)}` : ""}` });
  if (measured) plot.append(make("div", { class: "bars" }, ...bars), make("span", { class: "most" }, most.toPrecision(2)));
  plot.append(make("div", { class: "strip" }, ...marks));
  const axis = make("div", { class: "axis" }, make("span", {}, "step 1"), make("span", {}, measured ? "distance to the step before" : "a schedule: no distances are measured"), make("span", {}, `step ${steps.length}`));
  return make("figure", { class: "chart" }, top, plot, axis);
}

// The goals as dots: to the right faster, up better. The chosen one is filled.
export function dots(goals, chosen) {
  const known = goals.map((goal) => goal.psnr).filter((psnr) => psnr !== null);
  const [least, most] = [Math.min(...known, 20), Math.max(...known, 60)];
  return goals.map((goal, place) => {
    const dot = make("span", { class: place === chosen ? "dot chosen" : "dot" });
    dot.style.left = `${goals.length > 1 ? (100 * place) / (goals.length - 1) : 50}%`;
    dot.style.bottom = `${goal.psnr === null ? 100 : (100 * (goal.psnr - least)) / (most - least)}%`;
    return dot;
  });
}

export function looks(psnr) {
  if (psnr === null) return "the same video";
  if (psnr >= 40) return "hard to tell apart";
  if (psnr >= 30) return "small differences";
  return psnr >= 20 ? "visible differences" : "another video";
}

export function length(video) {
  const unit = video.frames === 1 ? "frame" : `frames, ${Number(video.seconds).toFixed(1)} s`;
  return `${video.size.replace("x", " × ")}, ${video.frames} ${unit}`;
}
