import { isAway } from "./errors.js";

const PAUSE_FIRST_MS = 50;
const PAUSE_MAX_MS = 1_000;

/** The absence of servers, as one call sees it: it begins with the first try without an answer. */
export class Absence {
  #began: number | undefined;
  #pauseMs = PAUSE_FIRST_MS;

  constructor(
    private readonly channel: { readonly patienceMs: number; readonly isClosed: boolean },
    private readonly signal: AbortSignal | undefined,
  ) {}

  /** A server has answered. */
  end(): void {
    this.#began = undefined;
  }

  /** Pauses before the next try. Throws the error if another try makes no sense, or patience is used up. */
  async wait(error: unknown): Promise<void> {
    if (!isAway(error) || this.channel.isClosed) throw error;
    const now = performance.now();
    if (this.#began === undefined) {
      this.#began = now;
      this.#pauseMs = PAUSE_FIRST_MS;
    }
    const leftMs = this.channel.patienceMs - (now - this.#began);
    if (leftMs <= 0) throw error;
    // The last try is made when patience ends, not one pause earlier.
    await pause(Math.min(this.#pauseMs, leftMs), this.signal);
    if (this.channel.isClosed) throw error;
    this.#pauseMs = Math.min(this.#pauseMs * 2, PAUSE_MAX_MS);
  }
}

function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const end = () => {
      signal?.removeEventListener("abort", stop);
      resolve();
    };
    const timer = setTimeout(end, ms);
    const stop = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    signal?.addEventListener("abort", stop, { once: true });
  });
}
