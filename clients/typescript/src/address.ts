/** The URL of an address such as "127.0.0.1:7373", "https://perdure.example" or, in a page, "/perdure". */
export function urlOf(address: string): URL {
  const page = (globalThis as { location?: { href: string } }).location?.href;
  if (page !== undefined && (address === "" || address.startsWith("/"))) return new URL(address, page);
  return new URL(address.includes("://") ? address : `http://${address}`);
}

/** Throws if others could read a token on its way there. */
export function checkToken(url: URL): void {
  const isLoopback = url.hostname === "localhost" || url.hostname === "[::1]" || /^127(\.\d+){3}$/.test(url.hostname);
  if (url.protocol !== "https:" && !isLoopback) {
    throw new TypeError(`a token for ${url.host} needs https, because others could read it`);
  }
}
