// A table that is sorted by its column headers and filtered by typing. It is rendered again when its rows change; the focus is kept.

import { word } from "/assets/words.js";

/** Rows that a browser renders without a noticeable pause; more than anybody reads. */
const MAX_ROWS = 500;
/** Created once: each rendering may sort 10,000 names. */
const collator = new Intl.Collator(undefined, { numeric: true });

/** Creates an element with properties and children; null children are skipped. */
export const createElement = (name, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
};

/**
 * columns: [{ name, text(row), value(row)?, cell(row)?, number?, main? }]: `text` is displayed and filtered, `value` is the sort key, `cell` an element instead
 * of `text`. `onOpen(row)` is called when a row is chosen; `id(row)` identifies it.
 */
export function table({ columns, id, onOpen, caption, sorted, empty }) {
  let rows = [];
  let filter = "";
  let chosen = null;
  let order = sorted ?? { column: 0, down: false };
  const headers = columns.map((column, nth) => {
    const button = createElement("button", { type: "button", onclick: () => sort(nth) });
    return createElement("th", { scope: "col", className: column.number ? "number" : "" }, button);
  });
  const body = createElement("tbody");
  const truncated = createElement("p", { className: "quiet" });
  const sheet = createElement("table", {}, createElement("caption", { className: "visually-hidden" }), createElement("thead", {}, createElement("tr", {}, ...headers)), body);
  const element = createElement("div", { className: "sheet" }, sheet, truncated, empty());

  function sort(nth) {
    order = { column: nth, down: order.column === nth ? !order.down : Boolean(columns[nth].number) };
    render();
  }

  function sortedRows() {
    const value = columns[order.column].value ?? columns[order.column].text;
    const found = filter ? rows.filter((row) => columns.some((column) => column.text(row).toLowerCase().includes(filter))) : [...rows];
    const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : collator.compare(String(a), String(b)));
    return found.sort((a, b) => compare(value(a), value(b)) * (order.down ? -1 : 1));
  }

  function renderRow(row) {
    const key = id(row);
    const cells = columns.map((column, nth) => {
      const shown = column.cell ? column.cell(row) : column.text(row);
      const inner = nth === 0 && onOpen ? createElement("button", { type: "button", className: "open", onclick: () => choose(row) }, shown) : shown;
      return createElement(nth === 0 ? "th" : "td", { className: `${column.number ? "number" : ""} ${column.main ? "main" : ""}`, ...(nth === 0 && { scope: "row" }) }, inner);
    });
    const element = createElement("tr", {}, ...cells);
    element.dataset.id = key;
    element.classList.toggle("chosen", key === chosen);
    if (onOpen) {
      element.onclick = (event) => event.target.closest("button") ?? choose(row);
    }
    return element;
  }

  function choose(row) {
    chosen = id(row);
    render();
    onOpen(row);
  }

  function render() {
    const focused = body.contains(document.activeElement) ? document.activeElement.closest("tr").dataset.id : null;
    const found = sortedRows();
    body.replaceChildren(...found.slice(0, MAX_ROWS).map(renderRow));
    headers.forEach((header, nth) => {
      header.firstChild.textContent = word(columns[nth].name);
      header.setAttribute("aria-sort", order.column === nth ? (order.down ? "descending" : "ascending") : "none");
    });
    sheet.caption.textContent = word(caption);
    truncated.textContent = found.length > MAX_ROWS ? word("truncated", MAX_ROWS, found.length) : "";
    sheet.hidden = rows.length === 0;
    element.lastChild.hidden = rows.length > 0;
    if (focused !== null) {
      body.querySelector(`tr[data-id="${CSS.escape(focused)}"] .open`)?.focus();
    }
  }

  // The arrow keys move from row to row.
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
    show(newRows) {
      rows = newRows;
      render();
    },
    setFilter(text) {
      filter = text.trim().toLowerCase();
      render();
    },
    clearSelection() {
      chosen = null;
      render();
    },
    renderWords() {
      element.lastChild.replaceWith(empty());
      render();
    },
  };
}
