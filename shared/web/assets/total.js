// Shows what a form costs while it is filled in: its data-cents and those of the checked boxes, times the quantity. Without
// this script, a button of the form asks the server.
(() => {
  "use strict";
  const forms = [...document.querySelectorAll("form[data-cents]")];

  function show(form) {
    const { quantity } = form.elements;
    const total = form.querySelector("output");
    let cents = Number(form.dataset.cents);
    for (const box of form.querySelectorAll("[data-cents]:checked")) cents += Number(box.dataset.cents);
    const money = new Intl.NumberFormat("en", { style: "currency", currency: form.dataset.currency });
    total.value = quantity.validity.valid ? money.format(cents * quantity.valueAsNumber / 100) : "–";
  }

  for (const form of forms) {
    form.addEventListener("input", () => show(form));
    form.querySelector("[data-scriptless]").hidden = true;
  }
  addEventListener("pageshow", () => forms.forEach(show)); // after Back, the browser has filled in the fields
})();
