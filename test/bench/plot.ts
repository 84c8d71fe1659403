/** A line plot as SVG: on a ground of its own, light or dark as the reader has it, so that it is legible on any page. */

export interface Axis {
  readonly label: string;
  /** `log`: by powers of ten, and for values above 0 alone; else from 0. */
  readonly scale: "linear" | "log";
  readonly format: (value: number) => string;
}

export interface Line {
  readonly label: string;
  readonly points: readonly (readonly [x: number, y: number])[];
  /** Drawn as what the others are compared with. */
  readonly reference?: boolean;
}

export interface Plot {
  readonly title: string;
  readonly x: Axis;
  readonly y: Axis;
  readonly lines: readonly Line[];
}

const WIDTH = 760;
const HEIGHT = 380;
const INNER = { left: 76, right: 560, top: 52, bottom: 326 };
const LABEL_GAP = 34; // px from one label to the next, where lines end close together: two rows of text

// Four hues that the colour-blind tell apart (Okabe and Ito 2008); each line has a marker of its own shape, too.
const STYLE = `
  .ground { fill: #ffffff } text { fill: #1f2328; font: 13px system-ui, sans-serif }
  .title { font-size: 15px; font-weight: 600 } .quiet { fill: #59636e } .grid { stroke: #d1d9e0 }
  .line { fill: none; stroke-width: 2 } .c0 { color: #59636e } .c1 { color: #0072b2 } .c2 { color: #b84a00 } .c3 { color: #00795a } .c4 { color: #a0417c }
  .line, .mark { stroke: currentColor } .mark { fill: currentColor } .c0 .line { stroke-dasharray: 6 4 }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #0d1117 } text { fill: #f0f6fc } .quiet { fill: #9198a1 } .grid { stroke: #3d444d }
    .c0 { color: #9198a1 } .c1 { color: #56b4e9 } .c2 { color: #f0a04b } .c3 { color: #3fcf9e } .c4 { color: #e39bc6 }
  }`;

const MARKS: readonly ((x: string, y: string) => string)[] = [
  (x, y) => `<circle class="mark" cx="${x}" cy="${y}" r="3.5"/>`,
  (x, y) => `<path class="mark" d="M${x} ${y}m-3.5 -3.5h7v7h-7z"/>`,
  (x, y) => `<path class="mark" d="M${x} ${y}m0 -4.5l4.5 8h-9z"/>`,
  (x, y) => `<path class="mark" d="M${x} ${y}m0 -4.5l4.5 4.5l-4.5 4.5l-4.5 -4.5z"/>`,
];

const escaped = (text: string): string =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

/** Round numbers that span `values`. */
function ticksOf({ scale }: Axis, values: readonly number[]): number[] {
  const most = Math.max(...values);
  if (scale === "log") {
    const first = Math.floor(Math.log10(Math.min(...values)) + 1e-9);
    const last = Math.max(first + 1, Math.ceil(Math.log10(most) - 0.05));
    return Array.from({ length: last - first + 1 }, (_, i) => 10 ** (first + i));
  }
  const rough = most / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 2.5, 5].find((n) => n * power >= rough) ?? 10);
  return Array.from({ length: Math.ceil(most / step - 1e-9) + 1 }, (_, i) => i * step);
}

/** Where a value lies between the first and the last tick, as a place between `from` and `to`. */
function placer(
  { scale }: Axis,
  ticks: readonly number[],
  from: number,
  to: number,
): (value: number) => string {
  const measure = scale === "log" ? Math.log10 : Number;
  const first = measure(ticks[0]!);
  const span = measure(ticks.at(-1)!) - first;
  return (value) => (from + ((measure(value) - first) / span) * (to - from)).toFixed(1);
}

/** The same places, moved down as little as keeps them `LABEL_GAP` apart, and up again where that left the picture. */
function apart(places: readonly number[]): number[] {
  const order = places.map((_, i) => i).sort((a, b) => places[a]! - places[b]!);
  const moved = [...places];
  let last = Number.NEGATIVE_INFINITY;
  for (const i of order) {
    last = Math.max(moved[i]!, last + LABEL_GAP);
    moved[i] = last;
  }
  const over = Math.max(0, last - INNER.bottom);
  return moved.map((place) => place - over);
}

/** The label in two rows where it is long: at the comma, or the space, nearest to its middle. */
function rows(label: string): string[] {
  if (label.length <= 24) return [label];
  const breaks = [...label.matchAll(/, | /g)].map(({ index, 0: mark }) => ({ index, mark }));
  const best = breaks.toSorted((a, b) => distance(a) - distance(b))[0];
  return best === undefined
    ? [label]
    : [label.slice(0, best.index + best.mark.trimEnd().length), label.slice(best.index + best.mark.length)];

  function distance({ index, mark }: { index: number; mark: string }): number {
    return Math.abs(index - label.length / 2) - (mark === ", " ? 8 : 0);
  }
}

export function plotSvg({ title, x, y, lines }: Plot): string {
  const points = lines.flatMap((line) => line.points);
  if (points.length === 0) throw new RangeError(`the plot "${title}" has no points`);
  const xTicks = ticksOf(
    x,
    points.map(([value]) => value),
  );
  const yTicks = ticksOf(
    y,
    points.map(([, value]) => value),
  );
  const atX = placer(x, xTicks, INNER.left, INNER.right);
  const atY = placer(y, yTicks, INNER.bottom, INNER.top);
  const ends = apart(lines.map((line) => Number(atY(line.points.at(-1)?.[1] ?? yTicks[0]!))));
  let hue = 0;
  const drawn = lines.map(({ label, points, reference }, i) => {
    const number = reference ? 0 : ++hue;
    const mark = MARKS[number % MARKS.length]!;
    const path = points.map(([px, py]) => `${atX(px)} ${atY(py)}`).join("L");
    const text = rows(label).map(
      (row, j) =>
        `<text x="${INNER.right + 12}" y="${(ends[i]! + 4 + 15 * j).toFixed(1)}" style="fill:currentColor">${escaped(row)}</text>`,
    );
    return `<g class="c${number}"><path class="line" d="M${path}"/>${points.map(([px, py]) => mark(atX(px), atY(py))).join("")}${text.join("")}</g>`;
  });
  const grid = [
    ...yTicks.map(
      (value) =>
        `<path class="grid" d="M${INNER.left} ${atY(value)}H${INNER.right}"/><text class="quiet" x="${INNER.left - 8}" y="${(Number(atY(value)) + 4).toFixed(1)}" text-anchor="end">${escaped(y.format(value))}</text>`,
    ),
    ...xTicks.map(
      (value) =>
        `<path class="grid" d="M${atX(value)} ${INNER.top}V${INNER.bottom}"/><text class="quiet" x="${atX(value)}" y="${INNER.bottom + 20}" text-anchor="middle">${escaped(x.format(value))}</text>`,
    ),
  ];
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" width="${WIDTH}" height="${HEIGHT}" role="img">
<title>${escaped(title)}</title>
<style>${STYLE}
</style>
<rect class="ground" width="${WIDTH}" height="${HEIGHT}" rx="6"/>
<text class="title" x="16" y="26">${escaped(title)}</text>
${grid.join("\n")}
<text class="quiet" x="${(INNER.left + INNER.right) / 2}" y="${HEIGHT - 14}" text-anchor="middle">${escaped(x.label)}</text>
<text class="quiet" transform="translate(18 ${(INNER.top + INNER.bottom) / 2}) rotate(-90)" text-anchor="middle">${escaped(y.label)}</text>
${drawn.join("\n")}
</svg>
`;
}
