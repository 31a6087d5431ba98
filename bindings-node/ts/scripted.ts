/** Scripted gateways for hosts without servers: the engine calls them instead of `fetch`. */

/** @internal A scripted gateway that a client can reach. */
export interface ScriptedServer {
  readonly baseUrl: string;
  stop(): Promise<void>;
}

/** @internal The response of a scripted gateway. */
export interface Reply {
  readonly status: number;
  /** JSON text. */
  readonly body: string;
}

/** @internal Answers a request; `null` closes the connection. */
export type Respond = (method: string, path: string, body: string, signal?: AbortSignal) => Promise<Reply | null>;

/** The URL of all scripted gateways, under a name that cannot be resolved; each has a number as its path. */
const ROOT = 'https://scripted.actpass.invalid/';
/** The open gateways, by their number. */
const gateways = new Map<string, Respond>();
let last = 0;

/** @internal Makes a scripted gateway available to the clients of this thread. */
export function open(respond: Respond): ScriptedServer {
  last += 1;
  const number = `${last}`;
  gateways.set(number, respond);
  return {
    baseUrl: ROOT + number,
    async stop() {
      gateways.delete(number);
    },
  };
}

/** @internal Whether a scripted gateway answers requests of `url`. */
export function isScripted(url: string): boolean {
  return url.startsWith(ROOT);
}

/** @internal Answers as `fetch` would. */
export async function fetchScripted(url: string, { method, body, signal }: RequestInit): Promise<Response> {
  signal?.throwIfAborted();
  const { pathname, search } = new URL(url);
  const [number = '', path = ''] = pathname.slice(1).split(/(?=\/)(.*)/s);
  const respond = gateways.get(number);
  if (respond === undefined) {
    throw Object.assign(new Error('the scripted gateway is closed'), { code: 'ECONNREFUSED' });
  }
  const text = body ? new TextDecoder().decode(body as Uint8Array) : '';
  const reply = await respond(method ?? 'GET', path + search, text, signal ?? undefined);
  if (reply === null) {
    throw Object.assign(new Error('the scripted gateway closed the connection'), { code: 'ECONNRESET' });
  }
  const headers = { 'content-type': 'application/json', 'x-request-id': `req_${last}_${(requests += 1)}` };
  // `Response` refuses some statuses that a script may have.
  return Object.defineProperty(new Response(reply.body, { headers }), 'status', { value: reply.status });
}

let requests = 0;
