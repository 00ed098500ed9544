/**
 * A TCP proxy for tests that breaks the network in the ways it breaks: holding
 * everything back (a black hole), holding one direction back, cutting
 * connections, refusing new ones. What is held back is sent on when it heals.
 */
import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'

type Way = 'up' | 'down'

export class TcpProxy {
  readonly #server: Server
  readonly #pairs = new Set<{ readonly client: Socket; readonly target: Socket }>()
  readonly #held = new Set<Way>()
  #refusing = false

  private constructor(server: Server) {
    this.#server = server
  }

  /** Listens on a free port of 127.0.0.1 and passes everything on to another port of it. */
  static async to(targetPort: number): Promise<TcpProxy> {
    const server = createServer()
    const proxy = new TcpProxy(server)
    server.on('connection', (client) => proxy.#pass(client, targetPort))
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    return proxy
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port
  }

  get connections(): number {
    return this.#pairs.size
  }

  /** Holds everything back: connections stay open and nothing arrives. `up` is towards the server. */
  hold(...ways: readonly Way[]): void {
    for (const way of ways.length === 0 ? (['up', 'down'] as const) : ways) this.#held.add(way)
    this.#flow()
  }

  /** Cuts all connections and refuses new ones. */
  cut(): void {
    this.#refusing = true
    this.drop()
  }

  /** Cuts the connections there are; new ones are taken. */
  drop(): void {
    for (const { client, target } of this.#pairs) {
      client.resetAndDestroy()
      target.resetAndDestroy()
    }
  }

  heal(): void {
    this.#held.clear()
    this.#refusing = false
    this.#flow()
  }

  async close(): Promise<void> {
    this.drop()
    this.#server.close()
    await once(this.#server, 'close')
  }

  #pass(client: Socket, targetPort: number): void {
    if (this.#refusing) {
      client.resetAndDestroy()
      return
    }
    const target = connect(targetPort, '127.0.0.1')
    const pair = { client, target }
    this.#pairs.add(pair)
    const end = (): void => {
      this.#pairs.delete(pair)
      client.destroy()
      target.destroy()
    }
    for (const socket of [client, target]) {
      socket.setNoDelay(true)
      socket.on('error', end)
      socket.on('close', end)
    }
    client.on('data', (chunk) => target.write(chunk))
    target.on('data', (chunk) => client.write(chunk))
    this.#flow()
  }

  #flow(): void {
    for (const { client, target } of this.#pairs) {
      if (this.#held.has('up')) client.pause()
      else client.resume()
      if (this.#held.has('down')) target.pause()
      else target.resume()
    }
  }
}
