// Requests to the page's own server; relative addresses, so that it works below any path.

let token = "";

export class Problem extends Error {
  constructor(status, message) {
    super(message);
    this.status = status; // 0: the page's server itself does not answer
  }
}

export function setToken(value) {
  token = value;
  try { sessionStorage.setItem("token", value); } catch { /* private windows may have no storage */ }
}

export function recallToken() {
  try { token = sessionStorage.getItem("token") ?? ""; } catch { token = ""; }
}

async function get(path) {
  let answer;
  try {
    answer = await fetch(path, { cache: "no-cache", headers: token ? { Authorization: `Bearer ${token}` } : {} });
  } catch {
    throw new Problem(0, "the live page's own server does not answer; is txm-stream still running?");
  }
  if (answer.ok) return answer;
  let message = `the server answered ${answer.status}`;
  try { message = (await answer.json()).error ?? message; } catch { /* not JSON: keep the status */ }
  throw new Problem(answer.status, message);
}

const below = (run) => run.split("/").map(encodeURIComponent).join("/");

export const getRuns = async () => (await (await get("api/runs")).json()).runs;
export const getRun = async (run) => (await get(`api/run/${below(run)}`)).json();

export async function getRows(run) {
  const answer = await get(`api/metrics/${below(run)}`);
  return { rows: (await answer.json()).rows, time: Number(answer.headers.get("X-Time")) };
}

// Waits, for seconds at most, until something was written to a live run's table of metrics or a run has come; without
// a run, for a run to come: {seen, runs, works}.
export const getNews = async (run, seen, runs) => (await get(`api/news${run && "/"}${below(run)}?seen=${seen}&runs=${runs}`)).json();

export async function getAdvice(run) {
  return (await (await get(`api/advice/${below(run)}`)).json()).rows;
}

const boxText = ({ x0, y0, x1, y1 }) => [y0, y1, x0, x1].join();

// Means over a box of pixels: {pixels, total, arrays: {name: {mean, spread, count}}}; `from`: the first visit of "noisy".
export async function getRegion(run, part, names, { x0, y0, x1, y1 }, from) {
  const query = new URLSearchParams({ names: names.join(), box: boxText({ x0, y0, x1, y1 }), from });
  return (await get(`api/region/${part}/${below(run)}?${query}`)).json();
}

// A file of the final result; `region` {y0, y1, x0, x1} or null.
export async function getExport(run, format, region) {
  const query = region ? `?box=${boxText(region)}` : "";
  const answer = await get(`api/export/${format}/${below(run)}${query}`);
  const name = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition") ?? "")?.[1];
  return { name: name ?? format, content: await answer.blob() };
}

export async function getImage(run, part, name, slice, dtype) {
  const query = slice ? `?slice=${encodeURIComponent(slice)}` : "";
  const answer = await get(`api/image/${part}/${name}/${below(run)}${query}`);
  return decode(await answer.arrayBuffer(), dtype);
}

const KINDS = {
  f4: Float32Array, f8: Float64Array, b1: Uint8Array, u1: Uint8Array, i4: Int32Array, u2: Uint16Array, i8: BigInt64Array,
};

function decode(buffer, dtype) {
  const kind = KINDS[dtype.slice(1)];
  if (!kind || dtype[0] === ">") throw new Problem(500, `arrays of type ${dtype} cannot be shown`);
  const array = new kind(buffer);
  return array instanceof BigInt64Array ? Float64Array.from(array, Number) : array;
}
