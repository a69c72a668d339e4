// The interfaces of `index.d.ts` against the JSON Schemas of the wire: names, what may be absent, what may be null, and the JSON type. The server's tests
// hold the schemas equal to its types.
//
// A member that is not required is left out when it has no value, never null, although a schema lets a reader accept both: the examples of
// `protocol/README.md`, which the server's types encode again without loss, leave it out. So only a required member may be null.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

const read = (path) => readFileSync(new URL(path, import.meta.url), "utf8");
const schema = (name) => JSON.parse(read(`../../schema/${name}.json`));
const declarations = read("../src/index.d.ts");

/** The JSON types of a type in TypeScript; words and aliases of words are strings. */
function typesOf(text, type) {
  return type
    .split("|")
    .map((one) => one.trim())
    .filter(Boolean)
    .flatMap((one) => {
      if (/^"|^\(?string\b/.test(one)) {
        return "string";
      }
      const alias = new RegExp(`^export type ${one.replace(/\W.*/, "")} =([^;]*);`, "m").exec(text);
      return alias ? typesOf(text, alias[1]) : one === "Record<string, any>" ? "any" : one;
    });
}

/** The members of an interface by name. */
function interfaceMembers(text, name) {
  const body = new RegExp(`^export interface ${name} \\{\\n(.*?)^\\}`, "ms").exec(text)[1];
  const lines = body.replace(/\/\*\*.*?\*\//gs, "").split(";");
  const members = lines.filter((line) => line.trim()).map((line) => /^\s*(\w+)(\??): (.*)$/s.exec(line));
  return Object.fromEntries(members.map(([, member, mark, type]) => [member, described(mark === "?", typesOf(text, type))]));
}

/** The properties of an object's schema by name. */
function schemaMembers({ properties, required = [], $defs }) {
  const types = (part) => {
    const parts = part.$ref ? [$defs[part.$ref.split("/").pop()]] : (part.anyOf ?? part.oneOf);
    return parts ? parts.flatMap(types) : [part.type ?? "any"].flat().map((type) => (type === "integer" ? "number" : type));
  };
  const member = ([name, property]) => {
    const isRequired = required.includes(name);
    return [name, described(!isRequired, types(property).filter((type) => isRequired || type !== "null"))];
  };
  return Object.fromEntries(Object.entries(properties).map(member));
}

const described = (isOptional, types) => ({
  isOptional,
  isNullable: types.includes("null"),
  types: [...new Set(types)].filter((type) => type !== "null"),
});

/** What each interface must have. Where the SDK differs from the wire on purpose, it says so here. */
function expected() {
  const { timeline, ...order } = schemaMembers(schema("order"));
  const frames = schema("client-frame");
  const event = schemaMembers({ ...frames.$defs.ClientEvent, $defs: frames.$defs });
  return {
    Notice: schemaMembers(schema("notice-frame")),
    // The list of open orders has no timelines, and the SDK adds whether it knows the notice.
    Order: { ...order, known: described(false, ["boolean"]) },
    // The SDK generates an id.
    Event: { ...event, id: described(true, ["string"]) },
    EventRejectedBody: schemaMembers(schema("event-rejected-body")),
  };
}

const declared = (text) => Object.fromEntries(Object.keys(expected()).map((name) => [name, interfaceMembers(text, name)]));

test("the interfaces have the members of the schemas, with what may be absent or null", () => {
  assert.deepEqual(declared(declarations), expected());
});

test("planted faults of an interface are found", () => {
  for (const [from, to] of [
    ["  notice?: string;", "  notice: string;"],
    ["  notice?: string;", "  notice?: string | null;"],
    ["  prev: string;", "  prev?: string;"],
    ["  attempt: number;", "  attempt: number | null;"],
    ["  active: boolean;", "  active: string;"],
    ["  pickup_code?: string;", "  pickupCode?: string;"],
    ["  event?: string;", ""],
    ["  reason?: OrderEnd;", "  reason: OrderEnd | null;"],
    ["  body: Record<string, any>;", "  body: Record<string, any>;\n  more?: number;"],
  ]) {
    const planted = declarations.replace(from, to);
    assert.notEqual(planted, declarations, `${from} is not there`);
    assert.notDeepEqual(declared(planted), expected(), `${from} -> ${to}`);
  }
});

test("what a schema requires, and which required member it lets be null, is read", () => {
  const $defs = { Word: { oneOf: [{ type: "string", const: "a" }] } };
  const properties = { word: { $ref: "#/$defs/Word" }, some: { anyOf: [{ $ref: "#/$defs/Word" }, { type: "null" }] }, at: { type: ["integer", "null"] } };
  assert.deepEqual(schemaMembers({ properties, required: ["word", "some"], $defs }), {
    word: { isOptional: false, isNullable: false, types: ["string"] },
    some: { isOptional: false, isNullable: true, types: ["string"] },
    at: { isOptional: true, isNullable: false, types: ["number"] },
  });
});
