// The TypeScript client: node typescript_client.mjs FOLDER MODE URL [API_KEY]. FOLDER has node_modules; MODE is "auto" or
// "legacy". Prints what came as JSON.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [folder, mode, url, key] = process.argv.slice(2);
const resolved = createRequire(`${folder}/`).resolve("@modelcontextprotocol/client");
const { Client, StreamableHTTPClientTransport } = await import(pathToFileURL(resolved).href);

const client = new Client({ name: "typescript", version: "1.0.0" }, { versionNegotiation: { mode } });
const headers = key ? { Authorization: `Bearer ${key}` } : {};
const transport = new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } });
await client.connect(transport);

const listed = await client.listTools();
const added = await client.callTool({ name: "add", arguments: { a: 2, b: 3 } });
const greeted = await client.callTool({ name: "greet", arguments: { name: "Ada" } });
const failed = await client.callTool({ name: "divide", arguments: { a: 1, b: 0 } });
await client.close();

const told = {
  tools: listed.tools.map((tool) => tool.name),
  structured: added.structuredContent,
  text: greeted.content[0].text,
  failed: failed.isError,
  error: failed.content[0].text,
};
console.log(JSON.stringify(told));
