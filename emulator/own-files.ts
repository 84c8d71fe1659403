/** Which files are this package's own, and not the user's. */

// This file is one folder below the root of the sources, and one below dist/ when it is built: the same folders serve for both.
const folders = ["core/", "emulator/", "worker/", "chunks/"].map(
  (name) => new URL(`../${name}`, import.meta.url).href,
);

/** Whether the file with this URL is the user's: not of this package, and not of another. */
export const isUsers = (url: string): boolean =>
  !url.includes("/node_modules/") && !folders.some((folder) => url.startsWith(folder));
