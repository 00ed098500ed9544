/** A Memcached server of its own for a test. */
import { connect } from 'node:net'
import { programPath } from './binaries.ts'
import { type Server, startServer } from './server-process.ts'

export interface MemcachedServerOptions {
  /** Default: 64. */
  readonly memoryMb?: number
  /** More arguments of memcached, such as `['-I', '2m']`. */
  readonly args?: readonly string[]
}

/** Starts memcached. A restart loses everything. */
export function startMemcached(options: MemcachedServerOptions = {}): Promise<Server> {
  const { memoryMb = 64, args = [] } = options
  return startServer({
    name: 'memcached',
    stopSignal: 'SIGTERM',
    readyLine: null,
    answers,
    command: (_directory, port) => ({
      program: programPath('memcached'),
      args: [
        '-l',
        '127.0.0.1',
        '-p',
        String(port),
        '-U',
        '0',
        '-m',
        String(memoryMb),
        ...(process.getuid?.() === 0 ? ['-u', 'root'] : []),
        ...args,
      ],
    }),
    url: (port) => `memcached://127.0.0.1:${port}`,
  })
}

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1', () => socket.write('version\r\n'))
    socket.once('data', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => resolve(false))
  })
}
