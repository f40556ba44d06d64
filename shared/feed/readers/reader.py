"""Copies a feed into SQLite, by the standard library alone: see PROTOCOL.md, "Copying a feed".

    python3 reader.py http://localhost:8080/feeds/orders orders.db [SECONDS]

polls every SECONDS, or once if they are left out, and then writes the copy as lines of JSON. FEED_TOKEN is the token of
a closed source. The table `entity` has a row for each entity that the source has.
"""
import json, os, random, sqlite3, sys, time, urllib.error, urllib.parse, urllib.request

TABLES = """
create table if not exists entity (id text primary key, version integer not null, updated text not null, entity text not null);
create table if not exists resynced (id text primary key, version integer not null, updated text not null, entity text not null);
create table if not exists erased (id text primary key); create table if not exists progress (query text, etag text, resync text);
insert into progress select 'snapshot=0&limit=1000', null, null where not exists (select 1 from progress);"""


class Gone(Exception):
    """The copy has to begin again. Its value is the parameter history, or None."""


def get(url, query, etag=None):
    """Returns the page of the query and its ETag, or (None, etag) if nothing has changed."""
    def parameters(url):
        return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query))
    headers = {"Accept": "application/feed+json"} | ({"If-None-Match": etag} if etag else {})
    headers |= {"Authorization": "Bearer " + os.environ["FEED_TOKEN"]} if os.environ.get("FEED_TOKEN") else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url + "?" + query, headers=headers), timeout=60) as answer:
            page, tag = json.load(answer), answer.headers["ETag"]
    except urllib.error.HTTPError as e:
        if e.code == 304 and etag:
            return None, etag
        if e.code == 410:
            start = next((part for part in (e.headers["Link"] or "").split(",") if 'rel="start"' in part), "")
            raise Gone(parameters(start.partition("<")[2].partition(">")[0]).get("history")) from e
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
        ends, goes_on = to.get("after") == head, to.get("snapshot") == head and to.get("from") == ids[-1] > ids[0]
        continues = ids == sorted(set(ids)) and asked["snapshot"] in ("0", head) and ends != goes_on
    else:
        positions = [item["_datafeed"]["position"] for item in page["items"]]
        begin, end = (int(c.partition("-")[0]) for c in (asked["after"], place["cursor"]))
        continues = positions == list(range(begin + 1, end + 1)) and (positions or place["cursor"] == asked["after"])
    if not continues:
        raise ValueError(f"the page of {query} does not continue from there")
    return page, tag


def apply(db, table, items):
    """Brings the rows of the table to the items. What is erased stays erased, whatever is said of it later."""
    for item in items:
        id, own = item["id"].removeprefix("urn:uuid:"), item["_datafeed"]
        db.execute("insert or ignore into erased select ? where ?", (id, own.get("erased", False)))
        if own.get("erased") or own.get("deleted"):
            db.execute(f"delete from {table} where id = ? and (version < ? or ?)", (id, own["version"], own.get("erased", False)))
            continue
        db.execute(
            f"insert into {table} select ?1, ?2, ?3, ?4 where not exists (select 1 from erased where id = ?1)"
            " on conflict (id) do update set version = excluded.version, updated = excluded.updated, entity = excluded.entity"
            " where version < excluded.version", (id, own["version"], item["date_modified"], json.dumps(own["entity"])))


def poll(db, url, begun=False):
    """Copies until the copy is up to date, but begins again only once. Each page and the cursor behind it are one transaction."""
    up_to_date = False
    while not up_to_date:
        query, etag, resync = db.execute("select * from progress").fetchone()
        try:
            page, etag = get(url, query, etag) if resync is None else get(url, resync)
        except Gone as gone:
            if begun:
                raise
            with db:
                db.execute("delete from resynced")
                db.execute("update progress set resync = 'snapshot=0&limit=1000' || coalesce('&history=' || ?, '')", gone.args)
            return poll(db, url, begun=True)
        if page is None:
            return
        place, query = page["_datafeed"], page["_datafeed"]["next"].partition("?")[2]
        up_to_date = place.get("up_to_date") and "snapshot" not in place
        with db:
            apply(db, "entity" if resync is None else "resynced", page["items"])
            if resync is None:
                db.execute("update progress set query = ?, etag = ?", (query, etag))
            elif not up_to_date:
                db.execute("update progress set resync = ?", (query,))
            else:
                for step in "delete from entity", "insert into entity select * from resynced", "delete from resynced":
                    db.execute(step)
                db.execute("update progress set query = ?, etag = null, resync = null", (f"after={place['cursor']}&limit=1000",))


def main(url, path, seconds=None):
    db = sqlite3.connect(path)
    db.executescript(TABLES)
    while seconds:
        wait = float(seconds)
        try:
            poll(db, url)
        except (OSError, ValueError, KeyError, Gone) as e:
            print(f"the poll failed: {e!r}", file=sys.stderr)
            asked = e.headers["Retry-After"] if isinstance(e, urllib.error.HTTPError) else None
            wait = max(wait, float(asked) if (asked or "").isdigit() else 0)
        time.sleep(wait * random.uniform(1, 1.2))
    poll(db, url)
    for id, version, updated, entity in db.execute("select * from entity order by id"):
        print(json.dumps({"id": id, "version": version, "updated": updated, "entity": json.loads(entity)}))


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) in (3, 4) else sys.exit(__doc__)
