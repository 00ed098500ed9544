/** A client that writes bytes of its own choice: for what no well-behaved client sends. */
import { connect, type Socket } from 'node:net'
import { afterTest } from './fixture.ts'

export class RawClient {
  readonly socket: Socket
  readonly closed: Promise<void>
  received = ''
  #wake: (() => void) | undefined

  constructor(socket: Socket) {
    this.socket = socket
    socket.setEncoding('utf8')
    socket.on('data', (text) => {
      this.received += String(text)
      this.#wake?.()
    })
    socket.on('error', () => {})
    this.closed = new Promise((resolve) => {
      socket.on('close', () => {
        this.#wake?.()
        resolve()
      })
    })
  }

  send(text: string): void {
    this.socket.write(text)
  }

  /** Resolves when what was received matches; rejects when the connection ends before. */
  async until(pattern: RegExp): Promise<string> {
    while (!pattern.test(this.received)) {
      if (this.socket.destroyed) throw new Error(`The connection ended before ${pattern}; received: ${JSON.stringify(this.received)}`)
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
    return this.received
  }
}

export function rawClient(url: string): Promise<RawClient> {
  const { hostname, port } = new URL(url)
  return new Promise((resolve, reject) => {
    const socket = connect({ host: hostname, port: Number(port), allowHalfOpen: true }, () => resolve(new RawClient(socket)))
    socket.once('error', reject)
    afterTest(async () => void socket.destroy())
  })
}

/** The head of a POST request that goes on. */
export function postHead(path: string, headers: Readonly<Record<string, string>>): string {
  return `POST ${path} HTTP/1.1\r\nhost: localhost\r\n${Object.entries(headers)
    .map(([name, value]) => `${name}: ${value}\r\n`)
    .join('')}\r\n`
}

/** One piece of a body in chunked transfer coding. */
export function chunk(text: string): string {
  return `${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`
}
