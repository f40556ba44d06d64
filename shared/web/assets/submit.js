// Submits a form that needs no answer of the person in front of it. Without this script there is its button.
document.querySelector("form[data-submit]")?.requestSubmit();
