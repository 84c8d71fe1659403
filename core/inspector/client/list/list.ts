/** The list of connections: only the visible rows are in the document, however many there are. */

import { size, visible } from "../display/bytes.ts";
import { element } from "../display/dom.ts";
import type { Row, Rows } from "./rows.ts";

const HEIGHT = 24; // px of a row, as in the style
const SPARE = 8; // rows drawn above and below the visible ones

const NAMES = ["time", "handler", "way", "peer", "address", "state", "received", "sent"] as const;

const time = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  fractionalSecondDigits: 3,
});

export class List {
  readonly element: HTMLElement;
  readonly #rows: Rows;
  readonly #choose: (row: Row) => void;
  readonly #space: HTMLElement;
  readonly #made: { readonly element: HTMLElement; readonly cells: readonly HTMLElement[] }[] = [];
  #chosen: string | null = null;
  #active: string | null = null; // the row that the keyboard is on
  #waiting = false;
  /** Whether it keeps the newest row in view. */
  follows = true;

  constructor(rows: Rows, choose: (row: Row) => void) {
    this.#rows = rows;
    this.#choose = choose;
    this.#space = element("div", { class: "space", role: "rowgroup" });
    this.element = element(
      "div",
      { class: "grid", role: "grid", tabindex: "0", "aria-label": "Connections", id: "grid" },
      element(
        "div",
        { role: "rowgroup" },
        element(
          "div",
          { class: "head", role: "row", "aria-rowindex": "1" },
          ...NAMES.map((name, i) =>
            element(
              "span",
              {
                role: "columnheader",
                ...(i > 5 && { class: "number" }),
              },
              name,
            ),
          ),
        ),
      ),
      this.#space,
    );
    this.element.addEventListener("scroll", () => this.draw());
    this.element.addEventListener("keydown", (event) => this.#key(event));
    this.element.addEventListener("click", (event) => {
      const id = (event.target as HTMLElement).closest<HTMLElement>("[data-id]")?.dataset.id;
      const row = id === undefined ? undefined : rows.get(id);
      if (row !== undefined) this.choose(row);
    });
    new ResizeObserver(() => this.draw()).observe(this.element);
  }

  /** Shows this row's conversation. */
  choose(row: Row): void {
    this.#chosen = this.#active = row.id;
    this.#choose(row);
    this.draw();
  }

  /** Called when no conversation is shown any more. */
  leave(): void {
    this.#chosen = null;
    this.draw();
    this.element.focus();
  }

  /** Draws the visible rows, at most once a frame. */
  draw(): void {
    if (this.#waiting) return;
    this.#waiting = true;
    requestAnimationFrame(() => {
      this.#waiting = false;
      this.#draw();
    });
  }

  #draw(): void {
    const { shown } = this.#rows;
    const { element: grid } = this;
    this.#space.style.height = `${shown.length * HEIGHT}px`;
    grid.setAttribute("aria-rowcount", String(shown.length + 1));
    if (this.follows) grid.scrollTop = 0;
    const first = Math.max(0, Math.floor(grid.scrollTop / HEIGHT) - SPARE);
    const last = Math.min(shown.length, Math.ceil((grid.scrollTop + grid.clientHeight) / HEIGHT) + SPARE);
    for (let i = first; i < last; i++) {
      const made = this.#made[i - first] ?? this.#make();
      this.#fill(made, shown[shown.length - 1 - i] as Row, i); // the newest first
    }
    for (let i = last - first; i < this.#made.length; i++)
      (this.#made[i]?.element as HTMLElement).hidden = true;
    if (this.#active !== null && document.getElementById(`row-${this.#active}`)) {
      grid.setAttribute("aria-activedescendant", `row-${this.#active}`);
    } else grid.removeAttribute("aria-activedescendant");
  }

  #make() {
    const cells = NAMES.map((_, i) =>
      element("span", { role: "gridcell", ...(i > 5 && { class: "number" }) }),
    );
    const row = element("div", { class: "row", role: "row" }, ...cells);
    this.#space.append(row);
    const made = { element: row, cells };
    this.#made.push(made);
    return made;
  }

  #fill(
    { element: line, cells }: { element: HTMLElement; cells: readonly HTMLElement[] },
    row: Row,
    i: number,
  ): void {
    line.hidden = false;
    line.style.top = `${i * HEIGHT}px`;
    line.id = `row-${row.id}`;
    line.dataset.id = row.id;
    line.setAttribute("aria-rowindex", String(i + 2));
    line.setAttribute("aria-selected", String(row.id === this.#chosen));
    line.classList.toggle("chosen", row.id === this.#chosen || row.id === this.#active);
    const texts = [
      time.format(row.started),
      row.handler,
      row.inbound ? "in" : "out",
      row.peer,
      row.address,
      row.state,
      size(row.read),
      size(row.written),
    ];
    texts.forEach((text, column) => {
      const cell = cells[column] as HTMLElement;
      const seen = visible(text);
      if (cell.textContent !== seen) cell.textContent = seen;
    });
    const state = cells[5] as HTMLElement;
    state.classList.toggle("bad", row.error !== "");
    state.title = visible(row.error);
  }

  #key(event: KeyboardEvent): void {
    const { shown } = this.#rows;
    const at = shown.length - 1 - shown.findIndex(({ id }) => id === this.#active);
    const known = this.#active !== null && at < shown.length;
    const page = Math.max(1, Math.floor(this.element.clientHeight / HEIGHT) - 2);
    const to = {
      ArrowDown: known ? at + 1 : 0,
      ArrowUp: known ? at - 1 : 0,
      PageDown: known ? at + page : page,
      PageUp: known ? at - page : 0,
      Home: 0,
      End: shown.length - 1,
    }[event.key];
    if (event.key === "Enter" && known) this.choose(shown[shown.length - 1 - at] as Row);
    else if (to === undefined) return;
    else this.#moveTo(Math.min(Math.max(to, 0), shown.length - 1));
    event.preventDefault();
  }

  #moveTo(i: number): void {
    const row = this.#rows.shown[this.#rows.shown.length - 1 - i];
    if (row === undefined) return;
    this.#active = row.id;
    this.follows = i === 0 && this.follows;
    const { element: grid } = this;
    const top = i * HEIGHT;
    const head = HEIGHT; // covers the first row
    if (top < grid.scrollTop) grid.scrollTop = top;
    else if (top + HEIGHT + head > grid.scrollTop + grid.clientHeight) {
      grid.scrollTop = top + HEIGHT + head - grid.clientHeight;
    }
    this.#draw();
  }
}
