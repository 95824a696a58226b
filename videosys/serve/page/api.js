// Requests to the service that this page came from.

let key = "";
const kept = new Map();

export class ServiceError extends Error {
  constructor(message, status, param) {
    super(message);
    this.status = status;
    this.param = param;
  }
}

export function useKey(text) {
  key = text;
}

export async function call(path, options = {}) {
  const headers = { ...options.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  const answer = await fetch(path, { ...options, headers }).catch(() => { throw new Error("No answer from the service; try again."); });
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => null);
  throw new ServiceError(body?.error?.message ?? `the service answered ${answer.status}`, answer.status, body?.error?.param);
}

export async function read(path) {
  return (await call(path)).json();
}

// The address of a file of a finished video within this page. Each file is fetched once.
export function content(id, variant) {
  const name = `${id} ${variant}`;
  if (!kept.has(name)) {
    const made = call(`/v1/videos/${id}/content?variant=${variant}`).then((answer) => answer.blob()).then((blob) => URL.createObjectURL(blob));
    kept.set(name, made);
    made.catch(() => kept.delete(name));
  }
  return kept.get(name);
}

export function forget(id) {
  for (const [name, made] of kept) {
    if (!name.startsWith(`${id} `)) continue;
    kept.delete(name);
    made.then(URL.revokeObjectURL).catch(() => {});
  }
}

// Asks for a video. A request that got no answer is sent again, and is the same video by its key.
export async function create(body) {
  const name = crypto.randomUUID?.() ?? `${Date.now()} ${Math.random()}`;
  const options = { method: "POST", headers: { "Content-Type": "application/json", "Idempotency-Key": name }, body: JSON.stringify(body) };
  for (let tries = 3; ; tries--) {
    try {
      return await (await call("/v1/videos", options)).json();
    } catch (error) {
      if (error instanceof ServiceError || tries === 1) throw error;
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
  }
}

export function remove(id) {
  return call(`/v1/videos/${id}`, { method: "DELETE" });
}
