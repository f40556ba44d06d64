// Copies a feed into a file of JSON, by Node's own modules alone: see PROTOCOL.md, "Copying a feed".
//
//     node reader.mjs http://localhost:8080/feeds/orders orders.json [SECONDS]
//
// polls every SECONDS, or once if they are left out, and then writes the copy as lines of JSON. FEED_TOKEN is the token of
// a closed source. The file has the copy and the cursor behind it, and is replaced as a whole.
import { existsSync, openSync, closeSync, fsyncSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { setTimeout } from "node:timers/promises";

// Gone says that the copy has to begin again, in the history of a link. query is the one to begin with.
class Gone extends Error {
  constructor(link) {
    super("the source has another history, or lost its snapshot");
    const history = link.searchParams.get("history");
    this.query = `snapshot=0&limit=1000${history ? `&history=${history}` : ""}`;
  }
}

// get returns the page of the query, or null if nothing has changed, and its ETag.
async function get(url, query, etag) {
  const token = process.env.FEED_TOKEN;
  const headers = { Accept: "application/feed+json", ...(etag && { "If-None-Match": etag }), ...(token && { Authorization: `Bearer ${token}` }) };
  const answer = await fetch(`${url}?${query}`, { headers, signal: AbortSignal.timeout(60_000) });
  if (answer.status === 304 && etag) return { page: null, etag };
  if (answer.status === 410) {
    const start = (answer.headers.get("Link") ?? "").split(",").find((part) => part.includes('rel="start"'));
    throw new Gone(new URL(start?.match(/<(.*)>/)?.[1] ?? url, url));
  }
  const asked = Object.fromEntries(new URLSearchParams(query));
  if (answer.status === 413 && asked.limit > 1) return get(url, query.replace(`limit=${asked.limit}`, `limit=${asked.limit >> 1}`)); // the page is too large
  const refused = [400, 404].includes(answer.status) && asked.snapshot;
  if (!answer.ok && !refused) {
    const problem = new Error(`${answer.status} ${await answer.text()}`);
    problem.retryAfter = Number(answer.headers.get("Retry-After")) || 0;
    throw problem;
  }
  const page = refused ? { _datafeed: {} } : await answer.json();
  const { snapshot, cursor, next, through = "" } = page._datafeed;
  if (asked.snapshot === "0" && !snapshot) return get(url, query.replace("snapshot=0", "after=0")); // the source has none
  if (asked.snapshot && !snapshot) throw new Gone(new URL(`${url}?${query}`));
  const ids = [asked.from ?? "", ...page.items.map((item) => item.id.replace("urn:uuid:", ""))];
  const [begin, end] = [asked.after, cursor].map((c) => parseInt(c));
  const to = asked.snapshot && Object.fromEntries(new URL(next, url).searchParams);
  const continues = asked.snapshot
    ? ["0", snapshot].includes(asked.snapshot) && ids.every((id, i) => i === 0 || id > ids[i - 1]) &&
      (to.after === snapshot) !== (to.snapshot === snapshot && to.from > ids[0] && to.from === (through > ids.at(-1) ? through : ids.at(-1)))
    : page.items.every((item, i) => item._datafeed.position === begin + 1 + i) && end === begin + page.items.length && (end > begin || cursor === asked.after);
  if (!continues) throw new Error(`the page of ${query} does not continue from there`);
  return { page, etag: answer.headers.get("ETag") };
}

// apply brings the rows to the items. What is erased stays erased, whatever is said of it later.
function apply(rows, erased, items) {
  for (const item of items) {
    const id = item.id.replace("urn:uuid:", "");
    const own = item._datafeed;
    if (own.superseded) continue;
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

// poll copies until the copy is up to date, but begins again only once.
async function poll(url, path, copy, begun) {
  for (let upToDate = false; !upToDate; save(path, copy)) {
    let page, etag, later;
    try {
      ({ page, etag } = await get(url, copy.query, copy.etag));
      if (page === null) return;
      const { snapshot, cursor, compacted } = page._datafeed;
      const end = snapshot ?? cursor;
      upToDate = page._datafeed.up_to_date && !snapshot;
      later = parseInt(compacted ?? 0) > parseInt(copy.compacted) ? compacted : copy.compacted;
      // Before a place is forgotten, up to which entries were superseded that the copy lacks: does the source still have it?
      for (const at of new Set(upToDate ? [copy.compacted, later] : [copy.compacted])) {
        if (at === "0" || at === end || (at === later && !upToDate)) continue;
        const after = await get(url, `after=${at}&limit=1&history=${end}`);
        if (after.page.items.length === 0 || (upToDate && parseInt(at) >= parseInt(end))) throw new Error(`the feed ends at ${end}, and was compacted at ${at}`);
      }
    } catch (e) {
      if (!(e instanceof Gone) || begun) throw e;
      Object.assign(copy, { query: e.query, etag: null, resynced: {}, compacted: "0" });
      return poll(url, path, copy, true);
    }
    apply(copy.resynced ?? copy.rows, copy.erased, page.items);
    Object.assign(copy, { query: new URL(page._datafeed.next, url).search.slice(1), etag: upToDate ? etag : null, compacted: upToDate ? "0" : later });
    if (upToDate && copy.resynced) Object.assign(copy, { query: `after=${page._datafeed.cursor}&limit=1000`, etag: null, rows: copy.resynced, resynced: null });
  }
}

const [url, path, seconds] = process.argv.slice(2);
if (!path) {
  console.error("usage: node reader.mjs FEED_URL FILE [SECONDS]");
  process.exit(2);
}
const begin = { query: "snapshot=0&limit=1000", etag: null, rows: {}, erased: {}, resynced: null, compacted: "0" };
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
