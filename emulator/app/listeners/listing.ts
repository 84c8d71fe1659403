/** The printed summary of a served app: its listeners, its control routes, and commands to try them with. */

/** One entry: its name, where it is, and a line to paste. */
export type Entry = readonly [name: string, url: string, use: string | undefined];

/** A command line with `{host}` and `{port}`, or `{path}`, filled in. */
export const filled = (
  command: string | undefined,
  values: Readonly<Record<string, string | number>>,
): string | undefined =>
  Object.entries(values).reduce(
    (line, [name, value]) => line?.replaceAll(`{${name}}`, String(value)),
    command,
  );

/** The control routes; without a `token`, the reader has to take one from `source`. */
export const controlEntry = (url: string, token: string | null, source: string): Entry => {
  const bearer = token ?? `<a token of ${source}>`;
  return ["control", `${url}/v1`, `curl -H 'Authorization: Bearer ${bearer}' ${url}/v1/sessions`];
};

/** The inspector's page; its token is in the fragment, which no server sees. */
export const inspectorEntry = (url: string, token: string | null): Entry => [
  "inspect",
  `${url}/inspect${token === null ? "" : `#token=${token}`}`,
  undefined,
];

/** The entries, a line each, and under it the one to paste. */
export const listing = (entries: readonly Entry[]): string => {
  const width = Math.max(...entries.map(([name]) => name.length));
  const lines = entries.flatMap(([name, url, use]) => [
    `${name.padEnd(width)}  ${url}`,
    ...(use === undefined ? [] : [`${" ".repeat(width)}  ${use}`]),
  ]);
  return lines.join("\n");
};
