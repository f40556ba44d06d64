// Shows the entries of a feed's newest page as they arrive. The stream only says that there is something new: what is shown
// is this page, fetched again. Without this script, or without the stream, the page is whole as it is.
(() => {
  "use strict";
  const list = document.querySelector("[data-live]");
  if (!list || !follow) return;

  const where = document.getElementById("where");
  const pages = document.getElementById("pages");
  const live = document.getElementById("live");
  const button = document.getElementById("arrivals");
  const [status] = live.children;

  const SOON = 150, APART = 1000, SHOWN = 4000, SPOKEN = 5000, RETRY = 5000, RETRY_MAX = 60000; // ms

  let stream, fetched = 0, due, fetching = false, again = false, waiting = null, retry = RETRY, retrying;

  // A screen reader is told at most once in SPOKEN.
  let untold = 0, telling;
  function tell(count) {
    untold += count;
    if (telling) return;
    status.textContent = untold ? entries(untold) : "";
    if (!untold) return;
    untold = 0;
    telling = setTimeout(() => { telling = undefined; tell(0); }, SPOKEN);
  }

  const entries = n => n === 1 ? "1 new entry" : n + " new entries";

  function open() {
    stop();
    const opened = stream = new EventSource(list.dataset.live);
    stream.onopen = () => { retry = RETRY; follow.live(); };
    stream.onmessage = soon;
    stream.onerror = () => {
      follow.outdated();
      if (opened.readyState !== EventSource.CLOSED) return; // it connects again by itself
      retrying = setTimeout(resume, retry);
      retry = Math.min(2 * retry, RETRY_MAX);
    };
  }

  let turn = 0;

  async function resume() {
    const mine = ++turn;
    await refresh();
    if (mine === turn) open();
  }

  function stop() {
    turn++;
    clearTimeout(retrying);
    stream?.close();
  }

  // Many events that come together cost one fetch.
  function soon() {
    due ??= setTimeout(() => { due = undefined; refresh(); }, Math.max(SOON, fetched + APART - Date.now()));
  }

  async function refresh() {
    if (fetching) {
      again = true;
      return;
    }
    fetching = true;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-cache" });
      if (answer.ok) arrive(new DOMParser().parseFromString(await answer.text(), "text/html"));
    } catch {
      // the source is down: the stream tells when it is back
    } finally {
      fetching = false;
      fetched = Date.now();
    }
    if (again) {
      again = false;
      soon();
    }
  }

  function arrive(page) {
    const fresh = page.querySelector("[data-live]");
    if (!fresh) return;
    const before = waiting ? waiting.count : 0;
    const count = [...fresh.children].filter(e => !document.getElementById(e.id)).length;
    list.dataset.live = fresh.dataset.live;
    waiting = { page, fresh, count };
    if (count > 0 && reading()) {
      button.textContent = entries(count);
      button.hidden = false;
    } else {
      insert();
    }
    tell(Math.max(0, count - before));
  }

  // A reader who looks further down, has the focus in the list, selects text in it or has opened a row keeps what is there.
  function reading() {
    const selection = getSelection();
    return list.getBoundingClientRect().top < 0 || list.contains(document.activeElement) || pages.contains(document.activeElement) ||
      !!list.querySelector("details[open]") || !selection.isCollapsed && selection.containsNode(list, true);
  }

  // The list becomes that of the fetched page, so it stays as long as a page is. What is in both stays as it is.
  function insert() {
    const { page, fresh } = waiting;
    waiting = null;
    button.hidden = true;
    const ids = new Set([...fresh.children].map(e => e.id));
    for (const old of [...list.children]) if (!ids.has(old.id)) old.remove();
    const first = list.firstElementChild;
    const arrived = [...fresh.children].filter(e => !document.getElementById(e.id));
    for (const e of arrived) {
      e.classList.add("arrived");
      list.insertBefore(e, first);
    }
    times.show(list);
    setTimeout(() => arrived.forEach(e => e.classList.remove("arrived")), SHOWN);
    for (const part of [where, pages]) {
      const now = page.getElementById(part.id);
      part.className = now.className;
      part.replaceChildren(...now.childNodes);
    }
  }

  button.onclick = () => {
    insert();
    scrollTo({ top: 0 });
    where.focus({ preventScroll: true });
  };

  follow.by({ open, resume, stop });
})();
