"use strict";
// Sorting and filtering of the tables of rows. Without JavaScript the page shows all rows, largest difference first.
for (const block of document.querySelectorAll(".items")) {
  const body = block.querySelector("tbody");
  const rows = [...body.rows];
  const filters = [...block.querySelectorAll("[data-filter]")];
  const texts = new Map(rows.map((row) => [row, row.cells[2].textContent.toLowerCase()]));
  const tests = {
    language: (row, wanted) => row.cells[0].textContent === wanted,
    label: (row, wanted) => row.cells[1].textContent === wanted,
    text: (row, wanted) => texts.get(row).includes(wanted.toLowerCase()),
  };

  function filter() {
    const active = filters.filter((field) => field.value !== "");
    let shown = 0;
    for (const row of rows) {
      row.hidden = !active.every((field) => tests[field.dataset.filter](row, field.value));
      shown += !row.hidden;
    }
    block.querySelector("output").textContent = `${shown} of ${rows.length} rows`;
  }

  function key(row, column) {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
  }

  function sort(heading) {
    const column = heading.cellIndex;
    const numbers = heading.classList.contains("number");
    // Numbers start in descending order, names in ascending order.
    const before = heading.getAttribute("aria-sort");
    const ascending = before ? before === "descending" : !numbers;
    for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const compare = numbers ? (a, b) => a - b : (a, b) => a.localeCompare(b, undefined, { numeric: true });
    rows.sort((a, b) => (ascending ? 1 : -1) * compare(key(a, column), key(b, column)));
    body.append(...rows);
  }

  for (const heading of block.querySelectorAll("thead th")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    button.addEventListener("click", () => sort(heading));
    heading.replaceChildren(button);
  }
  for (const field of filters) field.addEventListener("input", filter);
  block.querySelector(".filters").hidden = false;
  filter();
}
