/**
 * The clock of the server as seen from here, so that all processes agree on when
 * a value is over, whatever their own clocks say. Every answer that carries the
 * server's time is a sample; the one with the shortest round trip of late counts,
 * and is off by at most half of it.
 */
const sampleKeepMs = 60_000

export class ServerClock {
  /** Server milliseconds minus `performance.now()`. */
  #offset: number | null = null
  #roundTripMs = Number.POSITIVE_INFINITY
  #sampledAt = 0

  sample(serverMs: number, sentAt: number, receivedAt: number): void {
    const roundTripMs = receivedAt - sentAt
    if (roundTripMs > this.#roundTripMs && receivedAt - this.#sampledAt < sampleKeepMs) return
    this.#offset = serverMs - (sentAt + receivedAt) / 2
    this.#roundTripMs = roundTripMs
    this.#sampledAt = receivedAt
  }

  /** Null before the first sample, and when the last one is too old. */
  now(): number | null {
    const now = performance.now()
    return this.#offset === null || now - this.#sampledAt > 10 * sampleKeepMs ? null : now + this.#offset
  }
}
