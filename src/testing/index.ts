/**
 * `headrace/testing`: what Headrace is tested with, for whoever writes a driver.
 *
 * Each contract has one suite of promises, a function of the test runner and of
 * what makes an engine; the servers are real ones, started for a test.
 */
export { type CacheHarness, cacheConformance, type TestRunner } from './cache-conformance.ts'
export { shifting, zipf, zipfWithScans } from './cache-traces.ts'
export { type FenceHarness, type FencedRegisters, fenceConformance } from './fence-conformance.ts'
export { type InboxHarness, inboxConformance } from './inbox-conformance.ts'
export { type LedgerHarness, type LedgerStore, ledgerConformance, type OpenLedgerOptions } from './ledger-conformance.ts'
export { type LockHarness, lockConformance } from './lock-conformance.ts'
export {
  type OpenParticipantOptions,
  type ParticipantHarness,
  type ParticipantRunner,
  participantConformance,
} from './participant-conformance.ts'
export { type QueueHarness, type QueueRunner, queueConformance } from './queue-conformance.ts'
export { type SagaLogHarness, type SagaLogRunner, sagaLogConformance } from './saga-log-conformance.ts'
export * from './servers/index.ts'
export { TcpProxy } from './tcp-proxy.ts'
