/**
 * Named places where a test kills the process with SIGKILL.
 *
 * `HEADRACE_CRASH_POINT=name:n` dies at the n-th visit of that place; without
 * the variable a visit costs one comparison.
 */
const [wantedName, wantedVisit = '1'] = (process.env['HEADRACE_CRASH_POINT'] ?? '').split(':')
let visitsLeft = Number(wantedVisit)

export const crashPointNames = [
  'append.before-commit',
  'append.after-commit',
  'apply.before-load',
  'apply.before-commit',
  'commit.before-journal',
  'commit.inside-journal',
  'commit.after-journal',
  'commit.between-files',
  'commit.after-files',
  'acknowledge.before',
  'checkpoint.before-drop',
  'redo.before-apply',
  'redo.between-files',
  'redo.after-apply',
] as const

export type CrashPointName = (typeof crashPointNames)[number]

/** Places in global transactions and their recovery. */
export const transactionCrashPointNames = [
  'transaction.before-prepare',
  'transaction.between-prepares',
  'transaction.before-decision',
  'transaction.after-decision',
  'transaction.between-commits',
  'transaction.before-forget',
  'recovery.before-decide',
  'recovery.after-decide',
  'recovery.between-branches',
] as const

export type TransactionCrashPointName = (typeof transactionCrashPointNames)[number]

/** Places of commands that come through a queue on a server. */
export const queueCrashPointNames = ['queue.delivered', 'queue.before-acknowledge', 'queue.after-acknowledge'] as const

export type QueueCrashPointName = (typeof queueCrashPointNames)[number]

/** Places in sagas, TCC and three-phase commit. */
export const sagaCrashPointNames = [
  'saga.before-start',
  'saga.after-start',
  'saga.before-append',
  'saga.after-append',
  'saga.before-call',
  'saga.after-call',
  'saga.before-end',
  'saga.after-end',
] as const

export type SagaCrashPointName = (typeof sagaCrashPointNames)[number]

export function crashPoint(name: CrashPointName | TransactionCrashPointName | SagaCrashPointName | QueueCrashPointName): void {
  if (name !== wantedName) return
  visitsLeft -= 1
  if (visitsLeft === 0) process.kill(process.pid, 'SIGKILL')
}
