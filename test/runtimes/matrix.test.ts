/** Every example in every place of the runtime that runs this. */

import { runtime } from "../../emulator/runtime.ts";
import { type MatrixPlace, matrixOf } from "../conformance/matrix.ts";
import { places, placesOf } from "../conformance/matrix-table.ts";
import { socketPlaces } from "../emulator/socket-places.ts";

const FILE = "test/runtimes/matrix.test.ts";

const running: Readonly<Record<string, MatrixPlace>> = Object.fromEntries(
  Object.entries(socketPlaces).map(([name, place]) => [`${runtime.toLowerCase()}-${name}`, place]),
);

for (const id of placesOf(FILE)) if (places[id].column === runtime) matrixOf(id, running[id]);
