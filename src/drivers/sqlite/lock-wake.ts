/**
 * How one process wakes a waiter in another on the same machine: each client
 * that waits listens on a Unix socket of its own, and the one who grants writes
 * a line to it.
 *
 * What must hold: `send` answers true when the client has the line, false when
 * nobody listens there any more. The kernel closes the socket of a process that
 * ends, however it ends, so a dead client is known at once. A client that is
 * stopped (SIGSTOP) is alive: after `ackMs` its line counts as delivered.
 */
import { createHash } from 'node:crypto'
import { realpathSync } from 'node:fs'
import { mkdir, unlink } from 'node:fs/promises'
import { createServer, connect, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { once } from 'node:events'
import { type Deferred, deferred } from '../../std/deferred.ts'

/** A socket path must fit in 104 bytes (macOS; Linux has 108). */
const pathBytesMax = 100
const nameBytes = 'xxxxxxxxxxxx.sock'.length
/** Longest wait for the word of a client that it has a line, in milliseconds. */
const ackMs = 500
/** Connections to other clients that are kept open. */
const peersMax = 256
const ack = 'k'

interface Peer {
  readonly socket: Socket
  readonly unanswered: Deferred<boolean>[]
}

export class SocketWake {
  readonly #directory: string
  readonly #path: string
  readonly #hear: (line: string) => void
  readonly #peers = new Map<string, Peer>()
  readonly #sockets = new Set<Socket>()
  #server: Server | null = null
  #listening: Promise<void> | null = null

  constructor(file: string, client: string, hear: (line: string) => void) {
    this.#directory = wakeDirectory(file)
    this.#path = this.#pathOf(client)
    this.#hear = hear
  }

  /** Resolves when this client would be heard. */
  ready(): Promise<void> {
    this.#listening ??= this.#listen().catch((error: unknown) => {
      this.#listening = null
      throw error
    })
    return this.#listening
  }

  /** Writes a line to a client; false when it is dead. */
  async send(client: string, line: string): Promise<boolean> {
    // A connection that is open may have just broken: a fresh one tells for sure.
    const known = this.#peers.get(client)
    if (known !== undefined && (await this.#write(known, line))) return true
    const peer = await this.#connect(client)
    return peer !== null && this.#write(peer, line)
  }

  async close(): Promise<void> {
    for (const { socket } of this.#peers.values()) socket.destroy()
    for (const socket of this.#sockets) socket.destroy()
    this.#server?.close()
    if (this.#server !== null) await unlink(this.#path).catch(() => {})
  }

  #pathOf(client: string): string {
    return join(this.#directory, `${client.slice(client.lastIndexOf(':') + 1)}.sock`)
  }

  async #listen(): Promise<void> {
    await mkdir(this.#directory, { recursive: true })
    const server = createServer((socket) => {
      this.#sockets.add(socket)
      socket.unref()
      socket.on('error', () => {})
      socket.on('close', () => this.#sockets.delete(socket))
      readLines(socket, (line) => {
        socket.write(ack)
        this.#hear(line)
      })
    })
    server.listen(this.#path)
    await once(server, 'listening')
    // Whoever waits keeps the process alive by its own timer.
    server.unref()
    this.#server = server
  }

  async #connect(client: string): Promise<Peer | null> {
    const path = this.#pathOf(client)
    const socket = connect(path)
    socket.unref()
    try {
      await once(socket, 'connect')
    } catch (error) {
      // The process is gone and left its socket behind.
      if ((error as NodeJS.ErrnoException).code === 'ECONNREFUSED') await unlink(path).catch(() => {})
      return null
    }
    const peer: Peer = { socket, unanswered: [] }
    socket.on('error', () => {})
    socket.on('data', (chunk: Buffer) => {
      for (let answers = chunk.length; answers > 0; answers--) peer.unanswered.shift()?.resolve(true)
    })
    socket.on('close', () => {
      if (this.#peers.get(client) === peer) this.#peers.delete(client)
      for (const open of peer.unanswered.splice(0)) open.resolve(false)
    })
    this.#keep(client, peer)
    return peer
  }

  #keep(client: string, peer: Peer): void {
    this.#peers.get(client)?.socket.end()
    this.#peers.set(client, peer)
    if (this.#peers.size <= peersMax) return
    for (const [other, { socket, unanswered }] of this.#peers) {
      if (unanswered.length > 0) continue
      socket.end()
      this.#peers.delete(other)
      return
    }
  }

  async #write(peer: Peer, line: string): Promise<boolean> {
    if (peer.socket.destroyed) return false
    const answer = deferred<boolean>()
    peer.unanswered.push(answer)
    peer.socket.write(`${line}\n`)
    const timer = setTimeout(() => answer.resolve(true), ackMs)
    try {
      return await answer.promise
    } finally {
      clearTimeout(timer)
    }
  }
}

function readLines(socket: Socket, hear: (line: string) => void): void {
  let rest = ''
  socket.setEncoding('utf8')
  socket.on('data', (chunk: string) => {
    const lines = (rest + chunk).split('\n')
    rest = lines.pop() ?? ''
    for (const line of lines) hear(line)
  })
}

/** Beside the file, where whoever shares the file finds it; in the folder for temporary files when that path is too long for a socket. */
function wakeDirectory(file: string): string {
  const real = join(realpathSync(dirname(file)), basename(file))
  const beside = `${real}-wake`
  if (Buffer.byteLength(beside) + 1 + nameBytes <= pathBytesMax) return beside
  return join(tmpdir(), `headrace-${createHash('sha256').update(real).digest('hex').slice(0, 16)}`)
}
