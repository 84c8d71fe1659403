/**
 * fast-check with a seed of its own: each run of the suite tries the same inputs, so that a change is never red by inputs that another
 * run did not try. `npm run fuzz` tries new ones.
 */

import fc from "fast-check";

fc.configureGlobal({ seed: 20_261_129 });

export { fc };
