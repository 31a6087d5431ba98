import assert from 'node:assert/strict';
import { experimental_createCodeModeTool } from '@ai-sdk/code-mode';
import { UNGUARDED } from '@actpass/sdk';
import { guardTools, toolApproval } from '@actpass/sdk/ai';
import { MockLanguageModelV4 } from 'ai/test';
import { define } from './ai.mjs';
import {
  ACTION,
  ALLOWED,
  assertBlocked,
  decide,
  NEEDS_APPROVAL,
  DENIED,
  newClient,
  typesCase,
  withGateway,
} from './support.mjs';

const { adapter, generate, goOn, scripted, textsOf, toolsOf } = define('ai7', MockLanguageModelV4);
const ACTIONS = { refund: ACTION, clock: UNGUARDED };

for (const way of ['plain', 'streaming']) {
  adapter('approved in another process', `${way}, toolApproval`, 1, (effects) =>
    withGateway(async (baseUrl) => {
      const { model } = scripted([[{ id: 'call_0', name: 'refund', args: NEEDS_APPROVAL }]]);
      const tools = guardTools(newClient(baseUrl), toolsOf(effects), ACTIONS, { approvals: 'interrupt' });
      const messages = [{ role: 'user', content: 'refund' }];
      const { content, response } = await generate(way, { model, tools, messages, toolApproval });
      const requests = content.filter(({ type }) => type === 'tool-approval-request');
      assert.equal(requests.length, 1);
      await decide(baseUrl, 'approve');
      const [text] = await goOn(way, baseUrl, effects, { requests, messages: [...messages, ...response.messages] });
      assert.match(text, /refunded 25000/);
    }),
  );
  adapter('hook clears the verdict', `${way}, an unknown word of toolApproval`, 0, (effects) =>
    withGateway(async (baseUrl) => {
      const { model } = scripted([[{ id: 'call_0', name: 'refund', args: NEEDS_APPROVAL }]]);
      const tools = guardTools(newClient(baseUrl), toolsOf(effects), ACTIONS, { approvals: 'interrupt' });
      await generate(way, { model, tools, prompt: 'refund', toolApproval: () => 'approved' }).catch(() => {});
      await generate(way, { model, tools, prompt: 'refund', toolApproval: () => 'perhaps' }).catch(() => {});
    }),
  );
}
adapter('hook before changes arguments', 'plain, experimental_refineToolInput', 0, (effects) =>
  withGateway(async (baseUrl) => {
    const { model, prompts } = scripted([[{ id: 'call_0', name: 'refund', args: ALLOWED }]]);
    const tools = guardTools(newClient(baseUrl), toolsOf(effects), ACTIONS);
    const experimental_refineToolInput = { refund: (input) => ({ ...input, amount: 90_000 }) };
    await generate('plain', { model, tools, prompt: 'refund', experimental_refineToolInput });
    assertBlocked(textsOf(prompts.at(-1))[0], 'refund.over_limit');
  }),
);
adapter('coverage: code mode', 'plain', 0, (effects) =>
  withGateway(async (baseUrl) => {
    const inner = guardTools(newClient(baseUrl), toolsOf(effects), ACTIONS);
    const code = experimental_createCodeModeTool(inner);
    const js = `return await tools.refund(${JSON.stringify(DENIED)}).catch((error) => 'caught: ' + error.message);`;
    const { model, prompts } = scripted([[{ id: 'call_0', name: 'code', args: { js } }]]);
    const tools = guardTools(newClient(baseUrl), { code }, { code: UNGUARDED });
    await generate('plain', { model, tools, prompt: 'refund' });
    assert.match(textsOf(prompts.at(-1))[0], /caught/);
  }),
);
typesCase('ai7', 'ai-sdk.md');
