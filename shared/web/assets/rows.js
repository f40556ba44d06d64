// Filters the rows of a page by a text, and opens the one that the address names. Without this script all are shown, closed.
(() => {
  "use strict";
  const list = document.getElementById("entries");
  const field = document.getElementById("filter");
  const input = field.querySelector("input"), count = field.querySelector("output");

  const text = row => [...row.querySelectorAll("summary, code")].map(e => e.textContent).join("\n").toLowerCase();

  function filter() {
    const wanted = input.value.trim().toLowerCase();
    let shown = 0;
    for (const row of list.children) {
      row.hidden = wanted !== "" && !text(row).includes(wanted);
      if (!row.hidden) shown++;
    }
    count.value = wanted === "" ? "" : `${shown} of ${list.children.length}`;
  }

  function open() {
    const row = location.hash && document.getElementById(location.hash.slice(1));
    if (row && row.parentNode === list) row.querySelector("details").open = true;
  }

  input.addEventListener("input", filter);
  addEventListener("pageshow", filter); // after Back, the browser has filled in the field
  addEventListener("hashchange", open);
  new MutationObserver(filter).observe(list, { childList: true });
  field.hidden = false;
  open();
})();
