// An OpenID provider for tests: oidc-provider with a few clients, a login page that takes any name, and a consent page
// that grants the scopes a person ticks. `node serve.mjs FOLDER PORT`; FOLDER has node_modules.
//
// GET /test/counts answers how often each endpoint was asked, POST /test/settings changes what is in SETTINGS below.

import { generateKeyPairSync } from "node:crypto";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [folder, port] = process.argv.slice(2);
const resolved = createRequire(`${folder}/`).resolve("oidc-provider");
const { default: Provider } = await import(pathToFileURL(resolved).href);

const issuer = `http://127.0.0.1:${port}`;
const SCOPES = ["read", "write", "admin", "sql", "file", "web"];
const CALLBACK = "https://app.example/oauth/callback";

// access_token_s: their lifetime. rotate: whether a refresh token works once only. fail: endpoint path -> [status, how
// often]. delay_ms: how long the token endpoint takes.
const DEFAULTS = { access_token_s: 3600, refresh_token_s: 86400, rotate: true, fail: {}, delay_ms: 0 };
let settings = structuredClone(DEFAULTS);
let counts = {};

const key = (kind, options, alg) =>
  ({ ...generateKeyPairSync(kind, options).privateKey.export({ format: "jwk" }), alg, use: "sig", kid: alg });

const client = (id, more) => ({
  client_id: id,
  redirect_uris: [CALLBACK],
  grant_types: ["authorization_code", "refresh_token"],
  response_types: ["code"],
  scope: ["openid", "offline_access", "email", ...SCOPES].join(" "),
  ...more,
});

const provider = new Provider(issuer, {
  clients: [
    client("toolpost", { client_secret: process.env.CLIENT_SECRET, token_endpoint_auth_method: "client_secret_basic" }),
    client("toolpost-post", { client_secret: process.env.CLIENT_SECRET, token_endpoint_auth_method: "client_secret_post" }),
    client("toolpost-public", { token_endpoint_auth_method: "none", id_token_signed_response_alg: "ES256" }),
    client("the-api", { client_secret: process.env.CLIENT_SECRET, grant_types: [], response_types: [], redirect_uris: [] }),
  ],
  jwks: { keys: [key("rsa", { modulusLength: 2048 }, "RS256"), key("ec", { namedCurve: "P-256" }, "ES256")] },
  cookies: { keys: [process.env.CLIENT_SECRET] },
  scopes: ["openid", "offline_access", ...SCOPES],
  claims: { openid: ["sub"], email: ["email", "email_verified"] },
  findAccount: async (_, id) => ({
    accountId: id,
    claims: async () => ({ sub: id, email: `${id}@people.example`, email_verified: true }),
  }),
  pkce: { required: () => true },
  rotateRefreshToken: () => settings.rotate,
  issueRefreshToken: async (_, client) => client.grantTypeAllowed("refresh_token"),
  expiresWithSession: async () => false,
  ttl: {
    AccessToken: (_, token) => token.resourceServer?.accessTokenTTL ?? settings.access_token_s,
    RefreshToken: () => settings.refresh_token_s,
    AuthorizationCode: 60,
    Grant: 86400,
    IdToken: 3600,
    Interaction: 600,
    Session: 86400,
  },
  interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
  features: {
    devInteractions: { enabled: false },
    revocation: { enabled: true, allowedPolicy: async () => true },
    introspection: { enabled: true, allowedPolicy: async () => true },
    userinfo: { enabled: true },
    claimsParameter: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: async () => undefined,
      useGrantedResource: async () => true,
      getResourceServerInfo: async (_, resource) => ({
        scope: SCOPES.join(" "),
        audience: resource,
        accessTokenTTL: settings.access_token_s,
        accessTokenFormat: "jwt",
        jwt: { sign: { alg: "RS256" } },
      }),
    },
  },
});
provider.on("server_error", (_, error) => console.error(error));

provider.use(async (ctx, next) => {
  await next();
  const route = ctx.oidc?.route;
  if (route) {
    const name = route === "token" ? `token:${ctx.oidc.params?.grant_type}` : route;
    counts[name] = (counts[name] ?? 0) + 1;
  }
});

const answer = (response, status, value) => {
  response.writeHead(status, { "content-type": typeof value === "string" ? "text/html" : "application/json" });
  response.end(typeof value === "string" ? value : JSON.stringify(value));
};

const body = async (request) => {
  let text = "";
  for await (const part of request) text += part;
  return text;
};

const wait = (ms) => new Promise((done) => setTimeout(done, ms));

// The two pages of a login. Consent grants the ticked scopes and refuses the others that were asked for.
const page = (prompt, asked) => {
  const field = prompt === "login"
    ? '<input name="login">'
    : asked.map((scope) => `<label><input type="checkbox" name="scope" value="${scope}">${scope}</label>`).join("");
  return `<form method="post" data-prompt="${prompt}">${field}<button name="decision" value="yes">Go on</button></form>`;
};

const interact = async (request, response) => {
  const { prompt, params, session } = await provider.interactionDetails(request, response);
  const asked = (params.scope ?? "").split(" ").filter(Boolean);
  if (request.method !== "POST") return answer(response, 200, page(prompt.name, asked));
  const form = new URLSearchParams(await body(request));
  if (form.get("decision") === "no") {
    const refusal = { error: "access_denied", error_description: "the person said no" };
    return provider.interactionFinished(request, response, refusal, { mergeWithLastSubmission: false });
  }
  if (prompt.name === "login") {
    const result = { login: { accountId: form.get("login") } };
    return provider.interactionFinished(request, response, result, { mergeWithLastSubmission: false });
  }
  const grant = new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  const granted = form.getAll("scope").join(" ");
  const refused = asked.filter((scope) => !form.getAll("scope").includes(scope)).join(" ");
  grant.addOIDCScope(granted);
  grant.rejectOIDCScope(refused);
  if (params.resource) {
    grant.addResourceScope(params.resource, granted);
    grant.rejectResourceScope(params.resource, refused);
  }
  grant.addOIDCClaims(prompt.details.missingOIDCClaims ?? []);
  const result = { consent: { grantId: await grant.save() } };
  return provider.interactionFinished(request, response, result, { mergeWithLastSubmission: true });
};

const application = provider.callback();

createServer(async (request, response) => {
  try {
    const path = request.url.split("?")[0];
    if (path === "/test/counts") return answer(response, 200, counts);
    if (path === "/test/settings") {
      settings = { ...structuredClone(DEFAULTS), ...JSON.parse(await body(request)) };
      counts = {};
      return answer(response, 200, settings);
    }
    if (settings.fail[path]?.[1] > 0) {
      settings.fail[path][1] -= 1;
      counts[`failed:${path}`] = (counts[`failed:${path}`] ?? 0) + 1;
      return answer(response, settings.fail[path][0], { error: "server_error", error_description: "made to fail" });
    }
    if (path.startsWith("/interaction/")) return await interact(request, response);
    if (path === "/token" && settings.delay_ms) await wait(settings.delay_ms);
    return await application(request, response);
  } catch (error) {
    console.error(error);
    return answer(response, 400, { error: error.error ?? "invalid_request", error_description: error.message });
  }
}).listen(Number(port), "127.0.0.1");
