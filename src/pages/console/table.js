// A table that is sorted by its heads and filtered by typing. Rows are drawn anew as they change; what has the focus keeps it.

import { word } from "/assets/words.js";

/** What a browser draws without a pause, and more than anybody reads. */
const ROWS_MAX = 500;
/** Made once: 10,000 names are sorted at each drawing. */
const names = new Intl.Collator(undefined, { numeric: true });

export const made = (name, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
};

/**
 * columns: [{ name, text(row), value(row)?, cell(row)?, number?, main? }]: `text` is what is shown and filtered, `value` what is sorted by.
 * `opens(row)` when a row is chosen; `id(row)` names it.
 */
export function table({ columns, id, opens, caption, sorted, empty }) {
  let rows = [];
  let wanted = "";
  let chosen = null;
  let by = sorted ?? { column: 0, down: false };
  const heads = columns.map((column, nth) => {
    const button = made("button", { type: "button", onclick: () => sort(nth) });
    return made("th", { scope: "col", className: column.number ? "number" : "" }, button);
  });
  const body = made("tbody");
  const cut = made("p", { className: "quiet" });
  const sheet = made("table", {}, made("caption", { className: "unseen" }), made("thead", {}, made("tr", {}, ...heads)), body);
  const element = made("div", { className: "sheet" }, sheet, cut, empty());

  function sort(nth) {
    by = { column: nth, down: by.column === nth ? !by.down : Boolean(columns[nth].number) };
    draw();
  }

  function sortedRows() {
    const value = columns[by.column].value ?? columns[by.column].text;
    const found = wanted ? rows.filter((row) => columns.some((column) => column.text(row).toLowerCase().includes(wanted))) : [...rows];
    const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : names.compare(String(a), String(b)));
    return found.sort((a, b) => order(value(a), value(b)) * (by.down ? -1 : 1));
  }

  function line(row) {
    const name = id(row);
    const cells = columns.map((column, nth) => {
      const shown = column.cell ? column.cell(row) : column.text(row);
      const inner = nth === 0 && opens ? made("button", { type: "button", className: "open", onclick: () => choose(row) }, shown) : shown;
      return made(nth === 0 ? "th" : "td", { className: `${column.number ? "number" : ""} ${column.main ? "main" : ""}`, ...(nth === 0 && { scope: "row" }) }, inner);
    });
    const element = made("tr", {}, ...cells);
    element.dataset.id = name;
    element.classList.toggle("chosen", name === chosen);
    if (opens) {
      element.onclick = (event) => event.target.closest("button") ?? choose(row);
    }
    return element;
  }

  function choose(row) {
    chosen = id(row);
    draw();
    opens(row);
  }

  function draw() {
    const focused = body.contains(document.activeElement) ? document.activeElement.closest("tr").dataset.id : null;
    const found = sortedRows();
    body.replaceChildren(...found.slice(0, ROWS_MAX).map(line));
    heads.forEach((head, nth) => {
      head.firstChild.textContent = word(columns[nth].name);
      head.setAttribute("aria-sort", by.column === nth ? (by.down ? "descending" : "ascending") : "none");
    });
    sheet.caption.textContent = word(caption);
    cut.textContent = found.length > ROWS_MAX ? word("cutShort", ROWS_MAX, found.length) : "";
    sheet.hidden = rows.length === 0;
    element.lastChild.hidden = rows.length > 0;
    if (focused !== null) {
      body.querySelector(`tr[data-id="${CSS.escape(focused)}"] .open`)?.focus();
    }
  }

  // Up and down go from row to row, as in every list.
  body.onkeydown = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const openers = [...body.querySelectorAll(".open")];
    const next = openers[openers.indexOf(document.activeElement) + step];
    if (step && next) {
      event.preventDefault();
      next.focus();
    }
  };
  return {
    element,
    shows(newer) {
      rows = newer;
      draw();
    },
    filters(text) {
      wanted = text.trim().toLowerCase();
      draw();
    },
    forgets() {
      chosen = null;
      draw();
    },
    words() {
      element.lastChild.replaceWith(empty());
      draw();
    },
  };
}
