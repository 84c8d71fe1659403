/** VitePress's own theme, with wider pages. VitePress asks for a default export. */

import DefaultTheme from "vitepress/theme";
import "./wide.css";

export default DefaultTheme;
