/** A plugin for TypeDoc: the reference names each entry as users import it, `socklet/emulator` and not `emulator`. */

import { Converter, ReflectionKind } from "typedoc";

export const load = (app) => {
  app.converter.on(Converter.EVENT_RESOLVE_BEGIN, ({ project }) => {
    for (const module of project.getChildrenByKind(ReflectionKind.Module)) {
      module.name = `socklet/${module.name}`.replace("/core", "");
    }
  });
};
