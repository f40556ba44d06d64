// Copies a feed into a file of JSON, by Node's own modules alone: see PROTOCOL.md, "Copying a feed".
//
//     node reader.mjs http://localhost:8080/feeds/orders orders.json [SECONDS]
//
// polls every SECONDS, or once if they are left out, and then writes the copy as lines of JSON. FEED_TOKEN is the token of
// a closed source. The file has the copy and the cursor behind it, and is replaced as a whole.
import { existsSync, openSync, closeSync, fsyncSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";

// Gone says that the source has another history. history is the parameter of the link to begin at, or null.
class Gone extends Error {
  constructor(history) {
    super("the source has another history");
    this.history = history;
  }
}

// get returns the page after the cursor, or null if nothing has changed, and its ETag.
async function get(url, cursor, { history, etag, limit = 1000 }) {
  const query = new URLSearchParams({ after: cursor, limit, ...(history && { history }) });
  const token = process.env.FEED_TOKEN;
  const headers = { Accept: "application/feed+json", ...(etag && { "If-None-Match": etag }), ...(token && { Authorization: `Bearer ${token}` }) };
  const answer = await fetch(`${url}?${query}`, { headers, signal: AbortSignal.timeout(60_000) });
  if (answer.status === 304 && etag) return { page: null, etag };
  if (answer.status === 410) {
    const start = (answer.headers.get("Link") ?? "").split(",").find((part) => part.includes('rel="start"'));
    const link = start?.match(/<(.*)>/)?.[1];
    throw new Gone(link ? new URL(link, url).searchParams.get("history") : null);
  }
  if (!answer.ok) {
    const problem = new Error(`${answer.status} ${await answer.text()}`);
    problem.retryAfter = Number(answer.headers.get("Retry-After")) || 0;
    throw problem;
  }
  const page = await answer.json();
  const [begin, end] = [cursor, page._datafeed.cursor].map((c) => parseInt(c));
  const continues = page.items.every((item, i) => item._datafeed.position === begin + 1 + i);
  if (!continues || end !== begin + page.items.length || (end === begin && page._datafeed.cursor !== cursor)) {
    throw new Error(`the page after ${cursor} does not continue from there`);
  }
  return { page, etag: answer.headers.get("ETag") };
}

// apply brings the rows to the items. What is erased stays erased, whatever is said of it later.
function apply(rows, erased, items) {
  for (const item of items) {
    const id = item.id.replace("urn:uuid:", "");
    const own = item._datafeed;
    if (own.erased) erased[id] = true;
    if (own.erased || (own.deleted && rows[id]?.version < own.version)) delete rows[id];
    if (own.erased || own.deleted || erased[id] || rows[id]?.version >= own.version) continue;
    rows[id] = { version: own.version, updated: item.date_modified, entity: own.entity };
  }
}

// save replaces the file: after a crash it is as it was before, or as it is now.
function save(path, copy) {
  const file = openSync(path + ".new", "w");
  writeFileSync(file, JSON.stringify(copy));
  fsyncSync(file);
  closeSync(file);
  renameSync(path + ".new", path);
}

// poll copies until the copy is up to date.
async function poll(url, path, copy) {
  for (;;) {
    const { resync } = copy;
    let answer;
    try {
      answer = resync ? await get(url, resync.cursor, { history: resync.history }) : await get(url, copy.cursor, { etag: copy.etag });
    } catch (e) {
      if (!(e instanceof Gone) || (resync?.cursor === "0" && resync.history === e.history)) throw e;
      copy.resync = { cursor: "0", history: e.history, rows: {} };
      continue;
    }
    if (answer.page === null) return;
    const place = answer.page._datafeed;
    apply(resync ? resync.rows : copy.rows, copy.erased, answer.page.items);
    if (!resync) {
      Object.assign(copy, { cursor: place.cursor, etag: answer.etag });
    } else if (!place.up_to_date) {
      resync.cursor = place.cursor;
    } else {
      Object.assign(copy, { cursor: place.cursor, etag: null, rows: resync.rows, resync: null });
    }
    save(path, copy);
    if (place.up_to_date) return;
  }
}

const [url, path, seconds] = process.argv.slice(2);
if (!path) {
  console.error("usage: node reader.mjs FEED_URL FILE [SECONDS]");
  process.exit(2);
}
const begin = { cursor: "0", etag: null, rows: {}, erased: {}, resync: null };
const copy = existsSync(path) ? JSON.parse(readFileSync(path, "utf8")) : begin;
while (seconds) {
  let wait = Number(seconds);
  try {
    await poll(url, path, copy);
  } catch (e) {
    console.error(`the poll failed: ${e.cause ?? e}`);
    wait = Math.max(wait, e.retryAfter ?? 0);
  }
  await setTimeout(wait * 1000 * (1 + 0.2 * Math.random()));
}
await poll(url, path, copy);
for (const id of Object.keys(copy.rows).sort()) console.log(JSON.stringify({ id, ...copy.rows[id] }));
