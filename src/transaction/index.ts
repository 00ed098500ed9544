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
export type { CommitOptions, CommitReceipt, GlobalTransaction, PreparedTransaction } from './global-transaction-contract.ts'
export { measuredShare, retriesFor, type Share, successOfTry, successWithRetries } from './model.ts'
export { type CoordinatorLimits, coordinatorLimitTable } from './options.ts'
export { chooseHome, type HomeCandidate, type Plan, type PlanBranch, planCommit, type PlanInput, type Protocol } from './planner.ts'
export type { RecoveredBranch, RecoveryReport } from './recovery.ts'
export { openSite, type Site, type SiteOptions } from './site.ts'
export type { ParticipantStats, ProtocolStats, SetStats, TransactionStats } from './stats.ts'
export {
  type BarrierEnd,
  type BranchCall,
  barrier,
  branchCall,
  type CallHandlers,
  type CallOperation,
  type CallReply,
  mysqlBarrierSql,
  postgresBarrierSql,
  pruneBarrier,
  type ReceiveOptions,
  receiveCall,
  sqliteBarrierSql,
} from './barrier.ts'
export {
  type HttpFinalStepOptions,
  httpParticipant,
  type HttpParticipantOptions,
  httpStep,
  type HttpStepOptions,
} from './http/branches.ts'
export {
  createHttpClient,
  type HttpAnswer,
  type HttpCall,
  type HttpClient,
  type HttpClientOptions,
  type HttpRequest,
} from './http/client.ts'
export type { SagaLog } from '../contracts/saga.ts'
export type { CallLimits } from './saga/call-options.ts'
export type { RunDefinition } from './saga/definition.ts'
export { listRuns, redriveRun, type RunCall, type RunListing, type RunStory, showRun } from './saga/inspect.ts'
export { type EnqueueOptions, enqueueSaga } from './saga/new-run.ts'
export { type OrchestratorLimits, orchestratorLimitTable } from './saga/options.ts'
export { createOrchestrator } from './saga/orchestrator.ts'
export type { Orchestrator, OrchestratorOptions, RunEnd, RunView, StartedRun, WaitOptions } from './saga/orchestrator-contract.ts'
export { participantSagaLog, type ParticipantSagaLogOptions } from './saga/participant-log.ts'
export { type RunError, type RunRecord, StepRefused } from './saga/records.ts'
export type { CallContext } from './saga/run.ts'
export { defineSaga, type FinalStep, type Saga, type SagaSteps, type Step, type StepContext, type UndoContext } from './saga/saga.ts'
export { mysqlSagaSql, postgresSagaSql } from './saga/tables.ts'
export { defineTcc, type Tcc, type TccFinishContext, type TccParticipant, type TccParticipants, type TccTryContext } from './tcc/tcc.ts'
export { onTimeout, terminate, type ThreePhaseState } from './three-phase/termination.ts'
export { defineThreePhase, type ThreePhase, type ThreePhaseContext, type ThreePhaseParticipant } from './three-phase/three-phase.ts'
