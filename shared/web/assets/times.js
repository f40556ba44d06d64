// Shows each <time> relative to now while it is recent, and else in the browser's time zone; its title is the time in UTC.
// Without this script there is what the server wrote.
const times = (() => {
  "use strict";
  const RECENT = 3600e3, SKEW = 2000; // ms
  const units = [[86400, "days"], [3600, "h"], [60, "min"], [1, "s"]];
  const format = timeZone => new Intl.DateTimeFormat("en-GB", {
    day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", timeZoneName: "short", timeZone,
  });
  const local = format(), utc = format("UTC");
  const ahead = new WeakMap(); // the value of each element whose time lay ahead
  let skew = 0; // ms by which the server's clock is ahead of the browser's

  // As the server's templates say it: 3 s ago, now, in 2 min.
  function relative(age) {
    const s = Math.floor(Math.abs(age) / 1000);
    if (s < 1) return age < 0 ? "now" : "just now";
    const [size, unit] = units.find(([size]) => s >= size);
    const n = Math.floor(s / size);
    const span = n + " " + (n === 1 && unit === "days" ? "day" : unit);
    return age < 0 ? "in " + span : span + " ago";
  }

  function words(e, at) {
    const age = Date.now() + skew - at;
    // A screen reader speaks what changes in a status: nothing counts there.
    if ("absolute" in e.dataset || e.closest("[role=status], [role=alert]") || Math.abs(age) >= RECENT && !("ago" in e.dataset)) return local.format(at);
    if (age < 0) ahead.set(e, e.dateTime);
    else if (ahead.get(e) === e.dateTime) return "now";
    return relative(age);
  }

  const selected = e => !getSelection().isCollapsed && getSelection().containsNode(e, true);

  function show(root) {
    for (const e of root.querySelectorAll("time[datetime]")) {
      const at = Date.parse(e.dateTime);
      if (isNaN(at)) continue;
      const title = utc.format(at), text = words(e, at);
      if (e.title !== title) e.title = title;
      if (e.textContent !== text && !selected(e)) e.textContent = text;
    }
  }

  const tick = () => { if (!document.hidden) show(document); };
  tick();
  setInterval(tick, 1000);
  document.addEventListener("visibilitychange", tick);

  return {
    show,
    // server takes the Date of an answer that has just come.
    server(date) {
      const off = Date.parse(date) - Date.now();
      skew = Math.abs(off) > SKEW ? off : 0;
    },
    clock: at => new Date(at).toLocaleTimeString("en-GB"),
  };
})();
