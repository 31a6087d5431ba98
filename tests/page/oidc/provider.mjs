/**
 * A certified OpenID provider with three people, for one client.
 *
 * usage: node provider.mjs FOLDER CLIENT_SECRET GATEWAY_URL...
 *
 * FOLDER has the installed packages. Prints its issuer. GET /test?mode=MODE changes the ID tokens that it issues afterwards:
 * `wrong-audience`, `expired`, `wrong-nonce`, `foreign-key`, or `none`.
 */

import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const [folder, secret, ...gateways] = process.argv.slice(2);
const { resolve } = createRequire(`${folder}/package.json`);
const load = (name) => import(pathToFileURL(resolve(name)));
const { Provider } = await load('oidc-provider');
const { SignJWT, decodeJwt, decodeProtectedHeader, exportJWK, generateKeyPair } = await load('jose');

const PEOPLE = {
  alice: ['staff', 'actpass-operators'],
  bob: ['finance'],
  carol: ['staff'],
};

const { privateKey } = await generateKeyPair('ES256', { extractable: true });
const foreign = await generateKeyPair('ES256');
const server = createServer();
server.listen(0, '127.0.0.1');
await new Promise((listening) => server.once('listening', listening));
const issuer = `http://127.0.0.1:${server.address().port}`;

const provider = new Provider(issuer, {
  clients: [
    {
      client_id: 'actpass',
      client_secret: secret,
      redirect_uris: gateways.map((url) => `${url}/sign-in/callback`),
      id_token_signed_response_alg: 'ES256',
      backchannel_logout_uri: `${gateways[0]}/sign-in/logout`,
      backchannel_logout_session_required: true,
    },
  ],
  jwks: { keys: [{ ...(await exportJWK(privateKey)), alg: 'ES256', use: 'sig', kid: 'p' }] },
  cookies: { keys: [secret] },
  scopes: ['openid', 'email', 'groups'],
  claims: { openid: ['sub', 'sid'], email: ['email', 'email_verified'], groups: ['groups'] },
  conformIdTokenClaims: false,
  features: { backchannelLogout: { enabled: true } },
  // By default, requests to loopback addresses are refused.
  fetch: (url, { dispatcher: _, ...options }) => fetch(url, options),
  findAccount: (_, sub) =>
    sub in PEOPLE
      ? {
          accountId: sub,
          claims: () => ({ sub, email: `${sub}@shop.example`, email_verified: true, groups: PEOPLE[sub] }),
        }
      : undefined,
});

let mode = 'none';
const changes = {
  'wrong-audience': () => ({ aud: 'another' }),
  expired: ({ iat }) => ({ iat: iat - 7200, exp: iat - 3600 }),
  'wrong-nonce': () => ({ nonce: 'another' }),
  'foreign-key': () => ({}),
};

provider.use(async (context, next) => {
  if (context.path === '/test') {
    mode = context.query.mode;
    context.body = mode;
    return;
  }
  await next();
  const token = context.path === '/token' && context.body?.id_token;
  if (token && mode !== 'none') {
    const claims = decodeJwt(token);
    const key = mode === 'foreign-key' ? foreign.privateKey : privateKey;
    const changed = new SignJWT({ ...claims, ...changes[mode](claims) });
    const header = decodeProtectedHeader(token);
    context.body = { ...context.body, id_token: await changed.setProtectedHeader(header).sign(key) };
  }
});

server.on('request', provider.callback());
console.log(issuer);
