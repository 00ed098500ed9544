import { type ChildProcess, fork, spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'

/** Starts a TypeScript file of this folder as a process, and waits for its first message. */
export async function forkChild<Message>(
  file: string,
  args: readonly string[],
  environment: Readonly<Record<string, string>> = {},
): Promise<{ readonly child: ChildProcess; readonly message: Message }> {
  const child = fork(fileURLToPath(new URL(file, import.meta.url)), [...args], {
    execArgv: ['--import', 'jiti/register'],
    env: { ...process.env, ...environment },
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  })
  const message = await nextMessage<Message>(child)
  return { child, message }
}

export async function nextMessage<Message>(child: ChildProcess): Promise<Message> {
  const ended = once(child, 'exit').then(([code, signal]) => {
    throw new Error(`the child ended early: ${code ?? signal}`)
  })
  const [message] = (await Promise.race([once(child, 'message'), ended])) as [Message]
  return message
}

export async function endChild(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const ended = once(child, 'exit')
  child.kill('SIGTERM')
  await ended
}

/** From the start of the command line to its first answer, in milliseconds. */
export async function startToFirstAnswer(appFile: string, dataDir: string, port: number): Promise<number> {
  const started = performance.now()
  const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url))
  const child = spawn(process.execPath, [main, 'start', appFile, '--port', String(port), '--data', dataDir, '--log-level', 'error'], {
    stdio: 'ignore',
  })
  try {
    for (;;) {
      const answer = await fetch(`http://127.0.0.1:${port}/readyz`).catch(() => null)
      await answer?.body?.cancel()
      if (answer?.status === 200) return performance.now() - started
      if (child.exitCode !== null) throw new Error(`headrace start ended with ${child.exitCode}`)
      if (performance.now() - started > 30_000) throw new Error('headrace start did not answer within 30 s')
      await new Promise((resolve) => setTimeout(resolve, 2))
    }
  } finally {
    await endChild(child)
  }
}
