// The REST API. A token, if the API asks for one, stays in this tab.

const TOKEN = "myxo-lab-token";

export class Refused extends Error {}

/** Returns the answer's JSON, and what `X-Total-Count` says if it is there. */
export async function call(method, path, body) {
  const answer = await ask(method, path, body);
  const said = await answer.json().catch(() => null);
  if (!answer.ok) throw new Refused(said?.detail ?? `${answer.status} ${answer.statusText}`);
  return { said, count: Number(answer.headers.get("X-Total-Count")) };
}

export const get = async (path) => (await call("GET", path)).said;
export const remove = async (path) => (await call("DELETE", path)).said;
export const post = async (path, body) => (await call("POST", path, body)).said;

/** Saves a file of the API under its own name. */
export async function download(path, name) {
  const answer = await ask("GET", path);
  if (!answer.ok) throw new Refused((await answer.json().catch(() => null))?.detail ?? answer.statusText);
  save(await answer.blob(), name);
}

/** Has the browser save what is in memory. */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

async function ask(method, path, body) {
  for (;;) {
    const answer = await once(method, path, body);
    if (answer.status !== 401) return answer;
    await askForToken();
  }
}

async function once(method, path, body) {
  const headers = {};
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  try {
    return await fetch(`api/${path}`, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  } catch {
    throw new Refused("The API does not answer.");
  }
}

let asking = null;

/** Opens the dialog, once however many requests wait for it. */
function askForToken() {
  const dialog = document.getElementById("token");
  asking ??= new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const field = dialog.querySelector("input");
      sessionStorage.setItem(TOKEN, field.value.trim());
      field.value = "";
      asking = null;
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}
