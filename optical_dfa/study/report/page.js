"use strict";
// A click on a heading sorts by it: numbers by value, text by letters, what is missing last; a second click turns round.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  table.querySelectorAll("th button").forEach((button, column) => {
    button.addEventListener("click", () => {
      const head = button.parentElement;
      const falling = head.getAttribute("aria-sort") === "ascending";
      const sign = falling ? -1 : 1;
      const key = (row) => row.cells[column].dataset.value;
      const compare = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        const numbers = x - y;
        return sign * (Number.isNaN(numbers) ? x.localeCompare(y) : numbers);
      };
      [...body.rows].sort(compare).forEach((row) => body.append(row));
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    });
  });
}
