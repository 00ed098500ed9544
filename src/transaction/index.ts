/** Transactions over several databases: `headrace/transaction`. */
export type { DecisionLog, Participant, ParticipantHandle } from '../contracts/participant.ts'
export type { TransactionClock } from './clock.ts'
export { createCoordinator } from './coordinator.ts'
export type {
  BeginOptions,
  Coordinator,
  CoordinatorOptions,
  DatabasesGiven,
  OpenedDatabases,
  Transaction,
  TransactionOptions,
} from './coordinator-contract.ts'
export { type Doubt, type DoubtBranch, type DoubtState, type DoubtVerdict, listDoubts, resolveDoubt, showDoubt } from './doubts.ts'
export { type GidParts, homeTag, parseGid } from './gid.ts'
export type { CommitOptions, CommitReceipt, GlobalTransaction, PreparedTransaction } from './global-transaction.ts'
export { measuredShare, retriesFor, type Share, successOfTry, successWithRetries } from './model.ts'
export { type CoordinatorLimits, coordinatorLimitTable } from './options.ts'
export { chooseHome, type HomeCandidate, type Plan, type PlanBranch, planCommit, type PlanInput, type Protocol } from './planner.ts'
export type { RecoveredBranch, RecoveryReport } from './recovery.ts'
export { openSite, type Site, type SiteOptions } from './site.ts'
export type { ParticipantStats, ProtocolStats, SetStats, TransactionStats } from './stats.ts'
