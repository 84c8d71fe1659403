/** The page's style: dark or light as the system is, with a contrast of at least 4.5 to 1. */
export const style = `
:root {
  color-scheme: light dark;
  --paper: light-dark(#ffffff, #16181d);
  --ink: light-dark(#1b1f24, #e6e8eb);
  --dim: light-dark(#57606a, #a0a8b3);
  --line: light-dark(#d0d7de, #343a43);
  --bar: light-dark(#f3f5f7, #1f232a);
  --chosen: light-dark(#dbeafe, #1e3a5f);
  --client: light-dark(#0b5394, #8ec5ff);
  --server: light-dark(#136a2b, #8fdc9e);
  --red: light-dark(#b3261e, #ff9d94);
  --made: light-dark(#6b4200, #f0c06b);
}
* { box-sizing: border-box; }
[hidden] { display: none !important; }
html, body { height: 100%; margin: 0; }
body { display: flex; flex-direction: column; background: var(--paper); color: var(--ink); font: 14px/1.45 system-ui, sans-serif; }
header { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 14px; padding: 6px 12px; background: var(--bar); border-bottom: 1px solid var(--line); }
h1 { font-size: 15px; margin: 0; }
h2 { font-size: 15px; margin: 0; overflow-wrap: anywhere; }
h3 { font-size: 14px; margin: 12px 0 4px; }
#status { margin: 0; color: var(--dim); flex: 1 1 12em; text-align: right; }
#status.bad { color: var(--red); }
main { flex: 1; min-height: 0; }
[role=tabpanel] { height: 100%; min-height: 0; }
#panel-connections { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); }
#panel-connections.alone { grid-template-columns: minmax(0, 1fr); }
#panel-listeners, #panel-pools, #panel-faults { overflow: auto; padding: 12px; }
@media (max-width: 900px) { #panel-connections { grid-template-columns: minmax(0, 1fr); grid-template-rows: 45% 55%; } }
#connections, #conversation, .whole { display: flex; flex-direction: column; min-height: 0; min-width: 0; }
#conversation { border-left: 1px solid var(--line); }
.bar { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; padding: 6px 10px; border-bottom: 1px solid var(--line); background: var(--bar); }
button, select, input, textarea { font: inherit; color: inherit; background: var(--paper); border: 1px solid var(--dim); border-radius: 4px; padding: 2px 8px; }
button { cursor: pointer; }
button:disabled { color: var(--dim); cursor: default; border-color: var(--line); }
button[aria-pressed=true], [role=tab][aria-selected=true] { background: var(--chosen); }
:focus-visible { outline: 2px solid var(--client); outline-offset: 1px; }
input[type=search] { flex: 1 1 9em; min-width: 6em; }
label { display: inline-flex; gap: 4px; align-items: center; }
.grid { flex: 1; overflow: auto; position: relative; min-height: 60px; font: 12.5px/24px ui-monospace, monospace; }
.head, .row { display: grid; grid-template-columns: 13ch minmax(6ch, 12ch) 4ch minmax(8ch, 1.2fr) minmax(6ch, 1fr) 10ch 9ch 9ch; gap: 6px; padding: 0 10px; white-space: nowrap; }
#panel-connections:not(.alone) :is(.head, .row) { grid-template-columns: 13ch minmax(6ch, 12ch) 4ch minmax(16ch, 1fr) 10ch 9ch 9ch; }
#panel-connections:not(.alone) :is(.head, .row) > :nth-child(5) { display: none; }
.head { position: sticky; top: 0; background: var(--bar); z-index: 1; border-bottom: 1px solid var(--line); font-weight: 600; }
.head > *, .row > * { overflow: hidden; text-overflow: ellipsis; unicode-bidi: isolate; }
.space { position: relative; }
.row { position: absolute; left: 0; right: 0; height: 24px; cursor: default; }
.row.chosen { background: var(--chosen); }
.number { text-align: right; }
.bad { color: var(--red); }
.dim { color: var(--dim); }
.facts { margin: 0; padding: 6px 10px; color: var(--dim); border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
.said { flex: 1; overflow: auto; margin: 0; padding: 6px 10px; list-style: none; font: 12.5px/1.5 ui-monospace, monospace; }
.said li { display: grid; grid-template-columns: 9ch 8ch minmax(0, 1fr); gap: 8px; padding: 2px 0; border-bottom: 1px solid var(--line); }
.said pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font: inherit; unicode-bidi: plaintext; }
.said .hex { white-space: pre; overflow-x: auto; overflow-wrap: normal; }
.client .who, .client pre { color: var(--client); }
.server .who, .server pre { color: var(--server); }
.made pre, .made .who { color: var(--made); }
.failed pre, .failed .who { color: var(--red); }
.decoded { color: var(--ink); display: block; }
table { border-collapse: collapse; font-size: 13px; }
th, td { text-align: left; padding: 3px 10px; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
td.number, th.number { text-align: right; }
dialog { width: min(860px, 94vw); max-height: 90vh; background: var(--paper); color: var(--ink); border: 1px solid var(--dim); border-radius: 6px; overflow: auto; }
dialog textarea { width: 100%; min-height: 12em; font: 12.5px/1.5 ui-monospace, monospace; }
dialog .bar { padding: 6px 0; background: none; border: 0; }
.diff { font: 12.5px/1.5 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; }
.minus { color: var(--red); }
.plus { color: var(--server); }
.whole { flex: 1; }
form.column { display: grid; gap: 8px; justify-items: start; max-width: 40em; }
`;
