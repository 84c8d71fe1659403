/** Elements. Text becomes text nodes, never markup, and its hidden characters are shown. */

import { visible } from "./bytes.ts";

type Attributes = Readonly<Record<string, string | boolean | ((event: Event) => void)>>;

/** An element with attributes and children. A function is a listener; `true` makes an attribute without a value. */
export const element = <Name extends keyof HTMLElementTagNameMap>(
  name: Name,
  attributes: Attributes = {},
  ...children: readonly (Node | string)[]
): HTMLElementTagNameMap[Name] => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.map((child) => (typeof child === "string" ? visible(child) : child)));
  return made;
};

/** The element of the frame with this id. */
export const at = (id: string): HTMLElement => document.getElementById(id) as HTMLElement;

export const button = (label: string, click: () => void, attributes: Attributes = {}): HTMLButtonElement =>
  element("button", { type: "button", click, ...attributes }, label);

/** A select with its label. */
export const choice = (
  label: string,
  options: readonly (readonly [value: string, label: string])[],
  attributes: Attributes = {},
): { readonly label: HTMLLabelElement; readonly select: HTMLSelectElement } => {
  const select = element(
    "select",
    attributes,
    ...options.map(([value, text]) => element("option", { value }, text)),
  );
  return { label: element("label", {}, label, select), select };
};

/** Shows a dialog with these contents, and removes it when it is closed; then the browser gives the focus back. */
export const dialog = (title: string, ...contents: readonly (Node | string)[]): HTMLDialogElement => {
  const box = element(
    "dialog",
    { "aria-label": title },
    element("h2", {}, title),
    ...contents,
    element(
      "div",
      { class: "bar" },
      button("Close", () => box.close()),
    ),
  );
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  box.showModal();
  return box;
};

/** A table of texts; numbers are right-aligned. */
export const table = (
  caption: string,
  head: readonly string[],
  rows: readonly (readonly (string | number | Node)[])[],
): HTMLTableElement =>
  element(
    "table",
    {},
    element("caption", {}, caption),
    element("thead", {}, element("tr", {}, ...head.map((name) => element("th", { scope: "col" }, name)))),
    element(
      "tbody",
      {},
      ...rows.map((cells) =>
        element(
          "tr",
          {},
          ...cells.map((cell) =>
            element(
              "td",
              typeof cell === "number" ? { class: "number" } : {},
              typeof cell === "number" ? cell.toLocaleString("en") : cell,
            ),
          ),
        ),
      ),
    ),
  );

let quiet: ReturnType<typeof setTimeout> | undefined;

/** Shows a message; an error stays until the next one. */
export const say = (text: string, bad = false): void => {
  const status = at("status");
  status.textContent = visible(text);
  status.classList.toggle("bad", bad);
  clearTimeout(quiet);
  if (!bad) quiet = setTimeout(() => say(""), 8_000);
};
