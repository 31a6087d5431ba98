// The client of `@modelcontextprotocol/sdk` 1, which supports versions up to 2025-11-25.
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import {
  CreateMessageRequestSchema,
  ElicitRequestSchema,
  ListRootsRequestSchema,
} from "@modelcontextprotocol/sdk/types.js";
import { scenario } from "./scenario.mjs";

const capabilities = { sampling: {}, elicitation: { form: {} }, roots: { listChanged: true } };
const client = new Client({ name: "compare", version: "1" }, { capabilities });
const handle = { CreateMessageRequestSchema, ElicitRequestSchema, ListRootsRequestSchema };
await scenario(client, { StdioClientTransport, StreamableHTTPClientTransport }, (name, answer) =>
  client.setRequestHandler(handle[`${name}Schema`], answer),
);
