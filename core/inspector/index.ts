/** `socklet/inspector`: the page that shows what the control routes know. An entry of its own, so that only those who ask for it load it. */

export { inspector } from "./inspector.ts";
