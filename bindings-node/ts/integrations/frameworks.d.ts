/** The parts of agent frameworks that adapters import, so that the package builds without the frameworks. */

declare module 'langchain' {
  export interface AgentMiddleware {
    readonly name: string;
  }
  export function createMiddleware(config: object): AgentMiddleware;
}

declare module '@langchain/core/messages' {
  export class ToolMessage {
    constructor(fields: { content: string; tool_call_id: string; name: string; status: 'error'; artifact?: unknown });
  }
}

declare module '@langchain/langgraph' {
  export function interrupt(value: unknown): unknown;
  export function isGraphBubbleUp(error: unknown): boolean;
}
