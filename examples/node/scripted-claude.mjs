/** A scripted Claude Code: it implements the control protocol of the SDK, calls tools, and records the model's inputs. */

import { EventEmitter } from 'node:events';
import { createInterface } from 'node:readline';
import { PassThrough } from 'node:stream';

/**
 * Returns `spawnClaudeCodeProcess` for a session that makes `calls` (`{ name, args, id }`) in one turn. `builtin(name, args)` runs tools of Claude
 * Code itself; `mcp__SERVER__TOOL` is called in the SDK's server. `texts` is filled with the results; `changed` may change the
 * input after the hooks, as another hook's `updatedInput` would.
 */
export function scriptedClaude({ calls, builtin, texts, changed = (args) => args, onHook = () => {} }) {
  return () => {
    const stdin = new PassThrough();
    const stdout = new PassThrough();
    const child = new EventEmitter();
    Object.assign(child, { stdin, stdout, stderr: new PassThrough(), killed: false, exitCode: null, signalCode: null });
    const ended = () => {
      if (child.exitCode === null) {
        child.exitCode = 0;
        stdout.end();
        child.emit('exit', 0, null);
      }
    };
    child.kill = () => {
      child.killed = true;
      ended();
      return true;
    };
    const send = (message) => stdout.write(`${JSON.stringify(message)}\n`);
    const waiting = new Map();
    let requests = 0;
    const ask = (request) => {
      const request_id = `cli_${(requests += 1)}`;
      const answered = new Promise((resolve) => waiting.set(request_id, resolve));
      send({ type: 'control_request', request_id, request });
      return answered;
    };
    let matchers = [];
    const toolCall = async ({ name, args, id }) => {
      for (const { hookCallbackIds, onFailure } of matchers) {
        for (const callback_id of hookCallbackIds) {
          const input = {
            hook_event_name: 'PreToolUse',
            session_id: 'session',
            transcript_path: '',
            cwd: '.',
            tool_name: name,
            tool_input: args,
            tool_use_id: id,
          };
          const asked = ask({ subtype: 'hook_callback', callback_id, input, tool_use_id: id });
          onHook(send, `cli_${requests}`);
          const { subtype, response, error } = await asked;
          const { permissionDecision, permissionDecisionReason } = response?.hookSpecificOutput ?? {};
          if (permissionDecision === 'deny') return permissionDecisionReason;
          if (subtype === 'error' && onFailure === 'block') return `a hook failed: ${error}`;
        }
      }
      const [, server, tool] = /^mcp__(\w+?)__(\w+)$/.exec(name) ?? [];
      const input = changed(args);
      if (server === undefined) return builtin(name, input);
      const message = {
        jsonrpc: '2.0',
        id: (requests += 1),
        method: 'tools/call',
        params: { name: tool, arguments: input },
      };
      const { response, error } = await ask({ subtype: 'mcp_message', server_name: server, message });
      const { result, error: failure } = response?.mcp_response ?? { error: { message: error } };
      return failure ? failure.message : result.content[0].text;
    };
    const onRequest = ({ request_id, request }) => {
      let response = {};
      if (request.subtype === 'initialize') {
        matchers = request.hooks?.PreToolUse ?? [];
        response = { commands: [], models: [], account: {}, hook_on_failure_supported: true, hooks_applied: true };
      }
      send({ type: 'control_response', response: { subtype: 'success', request_id, response } });
    };
    const onUser = async () => {
      texts.push(...(await Promise.all(calls.map(toolCall))));
      const usage = { input_tokens: 1, output_tokens: 1 };
      const numbers = { duration_ms: 1, duration_api_ms: 1, num_turns: 1, total_cost_usd: 0, usage };
      const session = { session_id: 'session', uuid: '00000000-0000-4000-8000-000000000000' };
      send({ type: 'result', subtype: 'success', is_error: false, result: 'done', ...numbers, ...session });
    };
    createInterface({ input: stdin })
      .on('line', (line) => {
        const message = JSON.parse(line);
        if (message.type === 'control_request') onRequest(message);
        if (message.type === 'control_response') {
          waiting.get(message.response.request_id)?.(message.response);
        }
        if (message.type === 'user') void onUser();
      })
      .on('close', ended);
    return child;
  };
}
