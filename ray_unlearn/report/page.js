// Sorts a table by the column whose heading is clicked: numbers from the largest, text from A, then the other way round.
// Cells without a value stay last either way.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const body = heading.closest("table").tBodies[0];
    const place = heading.cellIndex;
    const before = heading.getAttribute("aria-sort");
    const first = heading.classList.contains("number") ? "descending" : "ascending";
    const other = first === "descending" ? "ascending" : "descending";
    const order = before === first ? other : first;
    const key = (row) => row.cells[place].dataset.sort;
    const compare = (a, b) => {
      const [left, right] = [key(a), key(b)];
      if (left === undefined || right === undefined) return (left === undefined) - (right === undefined);
      const difference = heading.classList.contains("number") ? left - right : left.localeCompare(right);
      return order === "ascending" ? difference : -difference;
    };
    for (const one of heading.parentElement.cells) one.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", order);
    body.append(...[...body.rows].sort(compare));
  });
}

// On a phone, sections below the ranking are folded until they are asked for; paper shows all of them.
const folds = [...document.querySelectorAll("details.fold")];
if (matchMedia("(max-width: 640px)").matches) {
  for (const fold of [...folds.filter((one) => one.parentElement.id !== "standing"), ...document.querySelectorAll("aside details")]) fold.open = false;
}
for (const link of document.querySelectorAll("nav a")) {
  link.addEventListener("click", () => { document.querySelector(`${link.hash} > details`).open = true; });
}
addEventListener("beforeprint", () => { for (const fold of folds) fold.open = true; });
