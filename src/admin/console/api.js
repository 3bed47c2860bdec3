// The admin API. The token is the tab's own: it is sent as a header and never as a cookie, so no other page can use it.

const PLACE = "weir.admin-token";
/** The code of a refusal of the admin token itself; a refused gateway key has another one. */
const WRONG_TOKEN = "invalid_admin_token";

/** An answer that is an error, in the gateway's own words. */
export class Refused extends Error {
  constructor(status, { message, code, param } = {}) {
    super(message ?? `The gateway answered with ${status}.`);
    Object.assign(this, { status, code, param });
  }

  /** Whether the admin token is what was refused. */
  get isOfToken() {
    return this.status === 401 && this.code === WRONG_TOKEN;
  }
}

/** Told when the gateway takes the token no more. */
export const session = new EventTarget();

export const token = () => sessionStorage.getItem(PLACE);

export function signOut(reason = "") {
  sessionStorage.removeItem(PLACE);
  session.dispatchEvent(new CustomEvent("ended", { detail: reason }));
}

/** Whether a header can carry it: what is not so is no token, and no key. */
export const fitsHeader = (text) => /^[\x21-\x7e]+$/.test(text);

/** Keeps a token that the gateway takes. */
export async function signIn(offered) {
  if (!fitsHeader(offered)) throw new Refused(401, { message: "No admin token looks like that.", code: WRONG_TOKEN });
  await raw("/admin/v1/teams", { token: offered });
  sessionStorage.setItem(PLACE, offered);
}

/** Asks, and returns the answer as it comes. A token that is refused ends the session. */
export async function open(path, options = {}) {
  const used = token();
  if (used === null) throw new Refused(401, { message: "Signed out." });
  try {
    return await raw(path, { token: used, ...options });
  } catch (error) {
    // A call that was under way when somebody signed in anew says nothing about the new token.
    if (error.isOfToken && used === token()) signOut("The gateway does not take this admin token any more. Sign in with the current one.");
    throw error;
  }
}

/** Asks, and returns the JSON of the answer. */
export async function ask(path, options) {
  const response = await open(`/admin/v1/${path}`, options);
  return response.json();
}

async function raw(path, { token, method = "GET", body, headers = {}, signal }) {
  const request = { method, signal, cache: "no-store", credentials: "omit", headers: { authorization: `Bearer ${token}`, ...headers } };
  if (body !== undefined) {
    request.body = typeof body === "string" ? body : JSON.stringify(body);
    request.headers["content-type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(path, request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, { message: "The gateway does not answer." });
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new Refused(response.status, told.error);
}
