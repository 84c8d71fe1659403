/** `socklet/inspector`: a page that shows what the control routes know. It is an entry of its own so that only its users load it. */

export { inspector } from "./inspector.ts";
