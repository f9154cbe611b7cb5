"use strict";

// ---- sorting: a click on a heading sorts upwards, the next one downwards, a third one restores the order of the file ----

const NUMBER = /^[-+\u2212]?(\d[\d,]*\.?\d*|\.\d+)(e[-+]?\d+)?/i;
const MISSING = /^\u2013?$/;
const collator = new Intl.Collator("en", { numeric: true });

// The value of a cell: of `81.9 ± 1.2` and `81.9 [81.2, 82.7]` the number at its beginning.
function readNumber(text) {
  const found = NUMBER.exec(text);
  return found ? Number(found[0].replaceAll(",", "").replace("\u2212", "-")) : NaN;
}

function compare(left, right, numeric) {
  if (!numeric) return collator.compare(left, right);
  const [a, b] = [readNumber(left), readNumber(right)];
  return a - b || collator.compare(left, right);
}

function sortRows(table, column, direction, numeric) {
  const body = table.tBodies[0];
  const text = (row) => row.cells[column].textContent.trim();
  const rows = [...body.rows].sort((a, b) => a.dataset.place - b.dataset.place);
  if (direction) {
    rows.sort((a, b) => {
      const [left, right] = [text(a), text(b)];
      const missing = MISSING.test(left) - MISSING.test(right);
      return missing || direction * compare(left, right, numeric);
    });
  }
  body.append(...rows);
}

function makeSortable(table) {
  const headings = [...table.tHead.rows[0].cells];
  [...table.tBodies[0].rows].forEach((row, place) => { row.dataset.place = place; });
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    button.title = "Sort";
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: null }[heading.ariaSort];
      const order = next === undefined ? "ascending" : next;
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      if (order) heading.setAttribute("aria-sort", order);
      const direction = order === "ascending" ? 1 : order ? -1 : 0;
      sortRows(table, column, direction, heading.classList.contains("number"));
    });
  });
}

document.querySelectorAll("table").forEach(makeSortable);

// ---- downloads: the figure that is shown is in the page once ----

for (const link of document.querySelectorAll("a[data-shown]")) {
  link.href = link.closest(".card").querySelector(".panel img").src;
}

// ---- search: only tables and figures that contain every word stay, in the page and in its navigation ----

const input = document.getElementById("search");
const cards = [...document.querySelectorAll(".card")].map((card) => ({
  card,
  text: `${card.dataset.words} ${card.textContent}`.toLowerCase(),
  link: document.querySelector(`[data-card="${CSS.escape(card.dataset.name)}"]`),
}));

function search() {
  const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const { card, text, link } of cards) {
    const found = words.every((word) => text.includes(word));
    card.hidden = !found;
    if (link) link.hidden = !found;
    count += found;
  }
  for (const section of document.querySelectorAll(".artefacts")) {
    const empty = !section.querySelector(".card:not([hidden])");
    section.hidden = empty;
    document.querySelector(`nav a[href="#${section.id}"]`).parentElement.hidden = empty;
  }
  document.getElementById("run").hidden = words.length > 0;
  document.getElementById("nothing").hidden = count > 0;
  document.getElementById("found").textContent = words.length ? `${count} of ${cards.length}` : "";
}

input.addEventListener("input", search);
document.querySelector(".search").hidden = false;
search();
