// Keeps the page as the server has it: while somebody looks at it, it is fetched again every few seconds, and what differs
// is changed in place. Without this script the page is whole as it is.
const follow = (() => {
  "use strict";
  const place = document.getElementById("follow");
  if (!place) return null;
  const [state, button] = place.children;

  const EVERY = 1000 * place.dataset.seconds, RETRY_MAX = 60e3, TIMEOUT = 10e3; // ms
  const KEY = "updates", PAUSED = "paused";

  let paused = remembered() === PAUSED, current = Date.now();

  function remembered() {
    try { return localStorage.getItem(KEY); } catch { return null; } // a browser may refuse
  }

  function remember() {
    try { localStorage.setItem(KEY, paused ? PAUSED : "on"); } catch { /* it holds for this page */ }
  }

  function say(words, badge) {
    if (state.textContent !== words) state.textContent = words; // a screen reader speaks what changes
    state.className = "badge " + badge;
  }

  function live() {
    current = Date.now();
    say("live", "fresh");
  }

  function outdated(why = "retrying") {
    say(`out of date since ${times.clock(current)}, ${why}`, "stale");
  }

  // By polls, unless the page has something better: see by.
  let source = (() => {
    let timer, request, delay = EVERY;

    async function look() {
      const mine = request = new AbortController();
      let why;
      try {
        const answer = await fetch(location.href, {
          headers: { Accept: "text/html" }, cache: "no-store", signal: AbortSignal.any([mine.signal, AbortSignal.timeout(TIMEOUT)]),
        });
        if (answer.redirected || answer.status === 401 || answer.status === 403) why = "log in again";
        if (!answer.ok || why) throw new Error(answer.statusText);
        times.server(answer.headers.get("Date"));
        show(await answer.text());
        delay = EVERY;
        live();
      } catch {
        if (mine.signal.aborted) return;
        delay = Math.min(2 * delay, RETRY_MAX);
        outdated(why);
      }
      timer = setTimeout(look, delay);
    }

    function stop() {
      clearTimeout(timer);
      request?.abort();
    }

    return {
      open() { stop(); timer = setTimeout(look, delay); },
      resume() { stop(); look(); },
      stop,
    };
  })();

  // show makes of the page the one that the text is.
  function show(text) {
    const page = new DOMParser().parseFromString(text, "text/html");
    times.show(page);
    const focused = document.activeElement;
    for (const part of [".top", "main"]) change(document.querySelector(part), page.querySelector(part));
    document.title = page.title;
    if (document.activeElement !== focused && focused.isConnected) focused.focus({ preventScroll: true });
  }

  // What the person is at stays: the focus, a selection, what is open, a form that is being filled in.
  const selected = node => !getSelection().isCollapsed && getSelection().containsNode(node, true);

  function filled(field) {
    if (field === document.activeElement) return true;
    if (field.type === "checkbox" || field.type === "radio") return field.checked !== field.defaultChecked;
    if (field.options) return field.selectedIndex !== Math.max(0, [...field.options].findIndex(o => o.defaultSelected));
    return field.value !== field.defaultValue;
  }

  const filling = form => [...form.elements].some(e => e.matches("input, select, textarea") && filled(e));

  const held = node => node.contains(document.activeElement) || selected(node) ||
    node.nodeType === Node.ELEMENT_NODE && [node, ...node.querySelectorAll("form")].some(e => e.matches("form") && filling(e));

  function change(old, now) {
    if (old === place || old.isEqualNode(now)) return;
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (!selected(old)) old.data = now.data;
      return;
    }
    if (old.matches("form") && filling(old)) return;
    const own = name => name === "open" && old.matches("details");
    for (const { name } of [...old.attributes]) if (!now.hasAttribute(name) && !own(name)) old.removeAttribute(name);
    for (const { name, value } of now.attributes) if (old.getAttribute(name) !== value && !own(name)) old.setAttribute(name, value);
    changeChildren(old, now);
  }

  // kind is what a node has in common with the one that it becomes. A row is known by what it leads to.
  function kind(node) {
    if (node.nodeType !== Node.ELEMENT_NODE) return node.nodeName;
    const link = node.matches("tr, li, section, details, g") && node.querySelector("a[href]");
    const known = node.id || link && link.getAttribute("href") || "";
    return [node.nodeName, (node.getAttribute("class") || "").split(" ")[0], known].join(" ");
  }

  function changeChildren(old, now) {
    const left = Map.groupBy(old.childNodes, kind);
    const pairs = [...now.childNodes].map(n => [left.get(kind(n))?.shift(), n]);
    const kept = new Set();
    for (const gone of [...left.values()].flat()) {
      if (held(gone)) kept.add(gone);
      else gone.remove();
    }
    let next = old.firstChild;
    for (const [o, n] of pairs) {
      while (kept.has(next)) next = next.nextSibling;
      if (!o) {
        old.insertBefore(n, next);
        continue;
      }
      if (o === next) next = next.nextSibling;
      else if (old.moveBefore) old.moveBefore(o, next); // keeps the focus
      else old.insertBefore(o, next);
      change(o, n);
    }
  }

  // A page that nobody looks at is not followed: a browser has few connections for each host.
  function start(how) {
    source.stop();
    button.textContent = paused ? "Resume updates" : "Pause updates";
    if (paused) say("paused", "paused");
    else if (!document.hidden) source[how]();
  }

  button.onclick = () => {
    paused = !paused;
    remember();
    start("resume");
  };
  document.addEventListener("visibilitychange", () => start("resume"));
  document.addEventListener("DOMContentLoaded", () => { // after all scripts
    place.hidden = false;
    if (!paused) live();
    start("open");
  });

  return {
    live, outdated,
    // by follows by another source: open starts with the page as it is, resume with a later one, stop ends either.
    by(other) { source = other; },
  };
})();
