"""Copies a feed into SQLite, by the standard library alone: see PROTOCOL.md, "Copying a feed".

    python3 reader.py http://localhost:8080/feeds/orders orders.db [SECONDS]

polls every SECONDS, or once if they are left out, and then writes the copy as lines of JSON. The table `entity` has a row
for each entity that the source has. FEED_TOKEN is the token of a closed source.
"""
import json, os, random, sqlite3, sys, time, urllib.error, urllib.parse, urllib.request

TABLES = """
create table if not exists entity (id text primary key, version integer not null, updated text not null, entity text not null);
create table if not exists resynced (id text primary key, version integer not null, updated text not null, entity text not null);
create table if not exists erased (id text primary key); create table if not exists progress (query text, etag text, copy text, compacted text);
insert into progress select 'snapshot=0&limit=1000', null, 'entity', '0' where not exists (select 1 from progress);"""


def position(cursor): return int(cursor.partition("-")[0])
def parameters(url): return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query))
class Gone(Exception): """The copy has to begin again. Its value is the parameter history, or None."""


def get(url, query, etag=None):
    """Returns the page of the query and its ETag, or (None, etag) if nothing has changed."""
    headers, token = {"Accept": "application/feed+json"} | ({"If-None-Match": etag} if etag else {}), os.environ.get("FEED_TOKEN")
    headers |= {"Authorization": "Bearer " + token} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url + "?" + query, headers=headers), timeout=60) as answer:
            page, tag = json.load(answer), answer.headers["ETag"]
    except urllib.error.HTTPError as e:
        if e.code == 304 and etag:
            return None, etag
        if e.code == 410:
            start = next((part for part in (e.headers["Link"] or "").split(",") if 'rel="start"' in part), "")
            raise Gone(parameters(start.partition("<")[2].partition(">")[0]).get("history")) from e
        limit = int(parameters("?" + query).get("limit", 1))
        if e.code == 413 and limit > 1:  # the page is too large
            return get(url, query.replace(f"limit={limit}", f"limit={limit // 2}"))
        if e.code not in (400, 404) or not query.startswith("snapshot="):
            raise
        page = {"_datafeed": {}}
    asked, place = parameters("?" + query), page["_datafeed"]
    if "snapshot" in asked and "snapshot" not in place:  # the source has no snapshots
        if asked["snapshot"] != "0":
            raise Gone(asked.get("history"))
        return get(url, query.replace("snapshot=0", "after=0"))
    if "snapshot" in asked:
        ids = [asked.get("from", "")] + [item["id"].removeprefix("urn:uuid:") for item in page["items"]]
        head, to = place["snapshot"], parameters(place["next"])
        ends, goes_on = to.get("after") == head, to.get("snapshot") == head and to.get("from") == max(ids[-1], place.get("through", "")) > ids[0]
        continues = ids == sorted(set(ids)) and asked["snapshot"] in ("0", head) and ends != goes_on
    else:
        positions, end = [item["_datafeed"]["position"] for item in page["items"]], place["cursor"]
        continues = positions == list(range(position(asked["after"]) + 1, position(end) + 1)) and (positions or end == asked["after"])
    if not continues:
        raise ValueError(f"the page of {query} does not continue from there")
    return page, tag


def apply(db, table, items):
    """Brings the rows of the table to the items. What is erased stays erased, whatever is said of it later."""
    for item in [item for item in items if not item["_datafeed"].get("superseded")]:
        id, own = item["id"].removeprefix("urn:uuid:"), item["_datafeed"]
        db.execute("insert or ignore into erased select ? where ?", (id, own.get("erased", False)))
        if own.get("erased") or own.get("deleted"):
            db.execute(f"delete from {table} where id = ? and (version < ? or ?)", (id, own["version"], own.get("erased", False)))
            continue
        db.execute(f"insert into {table} select ?1, ?2, ?3, ?4 where not exists (select 1 from erased where id = ?1)"
                   " on conflict (id) do update set version = excluded.version, updated = excluded.updated, entity = excluded.entity"
                   " where version < excluded.version", (id, own["version"], item["date_modified"], json.dumps(own["entity"])))


def poll(db, url, begun=False):
    """Copies until the copy is up to date, but begins again only once. Each page and the cursor behind it are one transaction."""
    up_to_date = False
    while not up_to_date:
        query, etag, copy, kept = db.execute("select * from progress").fetchone()
        try:
            page, etag = get(url, query, etag)
            if page is None:
                return
            place = page["_datafeed"]
            up_to_date = place.get("up_to_date") and "snapshot" not in place
            end, later = place.get("snapshot") or place["cursor"], max(kept, place.get("compacted", "0"), key=position)
            # Before a place is forgotten, up to which entries were superseded that the copy lacks: does the source still have it?
            for at in ({kept, later} if up_to_date else {kept} - {later}) - {"0", end}:
                if not get(url, f"after={at}&limit=1&history={end}")[0]["items"] or up_to_date and position(at) >= position(end):
                    raise ValueError(f"the feed ends at {end}, and was compacted at {at}")
        except Gone as gone:
            if begun:
                raise
            with db:
                db.execute("delete from resynced")
                db.execute("update progress set query = 'snapshot=0&limit=1000' || coalesce('&history=' || ?, ''), etag = null,"
                           " copy = 'resynced', compacted = '0'", gone.args)
            return poll(db, url, begun=True)
        query, etag, later = place["next"].partition("?")[2], etag if up_to_date else None, "0" if up_to_date else later
        with db:
            apply(db, copy, page["items"])
            if up_to_date and copy == "resynced":
                for step in "delete from entity", "insert into entity select * from resynced", "delete from resynced":
                    db.execute(step)
                copy, query, etag = "entity", f"after={place['cursor']}&limit=1000", None
            db.execute("update progress set query = ?, etag = ?, copy = ?, compacted = ?", (query, etag, copy, later))


def main(url, path, seconds=None):
    db = sqlite3.connect(path)
    db.executescript(TABLES)
    while seconds:
        asked = None
        try:
            poll(db, url)
        except (OSError, ValueError, KeyError, Gone) as e:
            print(f"the poll failed: {e!r}", file=sys.stderr)
            asked = e.headers["Retry-After"] if isinstance(e, urllib.error.HTTPError) else None
        time.sleep(max(float(seconds), float(asked) if (asked or "").isdigit() else 0) * random.uniform(1, 1.2))
    poll(db, url)
    for id, version, updated, entity in db.execute("select * from entity order by id"):
        print(json.dumps({"id": id, "version": version, "updated": updated, "entity": json.loads(entity)}))


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) in (3, 4) else sys.exit(__doc__)
