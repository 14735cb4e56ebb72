// The TypeScript client answers questions, hears of progress, reads and begins: node typescript_answers_client.mjs FOLDER
// MODE URL, of a gateway with the fixture of the conformance suite. Prints what came as JSON.

import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [folder, mode, url] = process.argv.slice(2);
const resolved = createRequire(`${folder}/`).resolve("@modelcontextprotocol/client");
const { Client, StreamableHTTPClientTransport } = await import(pathToFileURL(resolved).href);

const capabilities = { elicitation: {}, sampling: {} };
const client = new Client({ name: "typescript", version: "1.0.0" }, { capabilities, versionNegotiation: { mode } });
const asked = [];
client.setRequestHandler("elicitation/create", async ({ params }) => {
  asked.push(params.message);
  const names = Object.keys(params.requestedSchema.properties);
  return { action: "accept", content: Object.fromEntries(names.map((name) => [name, `${name} of Ada`])) };
});
client.setRequestHandler("sampling/createMessage", async () => ({
  role: "assistant",
  content: { type: "text", text: "Paris" },
  model: "tests",
}));
await client.connect(new StreamableHTTPClientTransport(new URL(url)));

const text = (result) => result.content[0].text;
const progress = [];
const rounds = await client.callTool({ name: "test_input_required_result_multi_round" });
const sampled = await client.callTool({ name: "test_sampling", arguments: { prompt: "Which city?" } });
await client.callTool({ name: "test_tool_with_progress" }, { onprogress: ({ progress: value }) => progress.push(value) });
const read = await client.readResource({ uri: "test://template/7/data" });
const begun = await client.getPrompt({ name: "test_input_required_result_prompt" });
await client.close();

const told = {
  asked,
  progress,
  rounds: text(rounds),
  sampled: text(sampled),
  read: JSON.parse(read.contents[0].text).id,
  begun: begun.messages[0].content.text,
};
console.log(JSON.stringify(told));
