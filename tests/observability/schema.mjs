// Validates dashboards against the schema that Grafana publishes as TypeScript types: `node schema.mjs NODE_MODULES FILE...`.
// The types become JSON schemas without additional properties; of each panel its own plugin's options and custom fields are
// checked, too. Prints what is wrong, one a line, and exits with 1 if anything is.

import { readFileSync, writeFileSync, mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { basename, join, resolve } from "node:path";

const [modules, ...files] = process.argv.slice(2);
const require = createRequire(join(resolve(modules), "here.js"));
const { createGenerator } = require("ts-json-schema-generator");
const Ajv = require("ajv").default;

// What a dashboard may be made of: each panel's plugin, and whether it has custom fields.
const PLUGINS = { bargauge: false, stat: false, statetimeline: true, table: true, timeseries: true };

// The data source's own query, as far as it is ours: Grafana publishes its types in a package of the plugin alone.
const QUERY = {
  type: "object",
  additionalProperties: false,
  required: ["refId", "expr", "datasource", "legendFormat", "format", "instant", "range"],
  properties: {
    refId: { type: "string", pattern: "^[A-Z]$" },
    expr: { type: "string", minLength: 1 },
    datasource: { type: "object" },
    editorMode: { enum: ["code", "builder"] },
    format: { enum: ["time_series", "table", "heatmap"] },
    legendFormat: { type: "string" },
    instant: { type: "boolean" },
    range: { type: "boolean" },
  },
};

function schemas() {
  const folder = mkdtempSync(join(tmpdir(), "grafana-schema-"));
  const types = join(resolve(modules), "@grafana/schema/dist/types/raw");
  const lines = [`export type { Dashboard } from "${types}/dashboard/x/types.gen";`];
  for (const [plugin, custom] of Object.entries(PLUGINS)) {
    const from = `from "${types}/composable/${plugin}/panelcfg/x/types.gen";`;
    // Interfaces of our own, since every plugin calls its types the same: those would become one.
    lines.push(`import type * as ${plugin} ${from}`, `export interface ${plugin}_options extends ${plugin}.Options {}`);
    if (custom) lines.push(`export interface ${plugin}_custom extends ${plugin}.FieldConfig {}`);
  }
  const path = join(folder, "all.ts");
  writeFileSync(path, lines.join("\n"));
  try {
    return createGenerator({ path, type: "*", skipTypeCheck: true, expose: "all", topRef: true }).createSchema("*");
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const all = { ...schemas(), $id: "all" };
const ajv = new Ajv({ allErrors: true, strict: false }).addSchema(all);
const check = (name) => ajv.getSchema(`all#/definitions/${name}`) ?? fail(`Grafana's types have no ${name}`);
const query = ajv.compile(QUERY);

function fail(message) {
  console.error(message);
  process.exit(2);
}

const plain = (plugin) => plugin.replaceAll("-", "");
let wrong = 0;

function hold(validate, value, place) {
  if (validate(value)) return;
  for (const error of validate.errors) {
    // Of the alternatives of a union only the last says something, and that little.
    wrong += 1;
    console.log(`${place}${error.instancePath}: ${error.message} ${JSON.stringify(error.params)}`);
  }
}

for (const file of files) {
  const dashboard = JSON.parse(readFileSync(file, "utf8"));
  const name = basename(file);
  hold(check("Dashboard"), dashboard, name);
  dashboard.panels.forEach((panel, index) => {
    if (panel.type === "row") return;
    const place = `${name}/panels/${index} (${panel.title})`;
    const plugin = plain(panel.type);
    if (!(plugin in PLUGINS)) {
      wrong += 1;
      console.log(`${place}: no schema is known of the panel ${panel.type}`);
      return;
    }
    hold(check(`${plugin}_options`), panel.options, `${place}/options`);
    if (PLUGINS[plugin]) hold(check(`${plugin}_custom`), panel.fieldConfig.defaults.custom, `${place}/custom`);
    else if (panel.fieldConfig.defaults.custom) hold(() => false, panel, place);
    panel.targets.forEach((target) => hold(query, target, `${place}/targets`));
  });
}
process.exit(wrong ? 1 : 0);
