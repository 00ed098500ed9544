/**
 * Nothing outlives the test run: a small shell, outside of our process group,
 * holds the list of servers and folders, and clears them when the pipe from
 * this process closes, whatever ended it (SIGKILL included).
 */
import { type ChildProcess, spawn } from 'node:child_process'

const script = `
pids=""; folders=""
while read -r verb what; do
  case "$verb" in
    pid) pids="$pids $what" ;;
    gone) left=""; for pid in $pids; do [ "$pid" = "$what" ] || left="$left $pid"; done; pids="$left" ;;
    folder) folders="$folders
$what" ;;
  esac
done
for pid in $pids; do kill -9 "$pid" 2>/dev/null; done
sleep 0.2
printf '%s\\n' "$folders" | while read -r folder; do
  case "$folder" in */headrace-test-*) rm -rf "$folder" ;; esac
done
`

let shell: ChildProcess | null = null

function send(line: string): void {
  if (shell === null) {
    shell = spawn('/bin/sh', ['-c', script], { stdio: ['pipe', 'ignore', 'ignore'], detached: true })
    shell.unref()
    const { stdin } = shell
    stdin?.on('error', () => {})
    if (stdin !== null && 'unref' in stdin && typeof stdin.unref === 'function') stdin.unref()
  }
  shell.stdin?.write(`${line}\n`)
}

/** The process is killed when this one ends before `forgetProcess`. */
export function watchProcess(pid: number): void {
  send(`pid ${pid}`)
}

export function forgetProcess(pid: number): void {
  send(`gone ${pid}`)
}

/** The folder is removed when this process ends. */
export function watchFolder(path: string): void {
  send(`folder ${path}`)
}
