/**
 * The one table of errors. Every error that leaves Headrace carries a code of
 * this table; the code is stable, the message names the thing and the remedy.
 *
 * `retryable` says whether the same call may succeed later without a change by
 * the caller. `status` is the HTTP status that the server answers with.
 */
export interface ErrorEntry {
  readonly status: number
  readonly retryable: boolean
  /** What happened, in a few words: the `title` of the problem document (RFC 9457). */
  readonly title: string
  /** What the reader should do about it. */
  readonly remedy: string
}

const entry = (status: number, retryable: boolean, title: string, remedy: string): ErrorEntry =>
  Object.freeze({ status, retryable, title, remedy })

export const errorTable = Object.freeze({
  // What a caller sent.
  'body-not-json': entry(400, false, 'The body is not JSON', 'Send one JSON document, encoded as UTF-8.'),
  'body-too-large': entry(413, false, 'The body is too large', 'Send a smaller body, or raise the limit of the server.'),
  'body-too-deep': entry(400, false, 'The body is nested too deeply', 'Flatten the document, or raise jsonDepthMax.'),
  'body-forbidden-key': entry(
    400,
    false,
    'The body names a forbidden property',
    'Remove the properties __proto__ and constructor.prototype.',
  ),
  'body-missing': entry(400, false, 'The body is missing', 'Send the input of the command as a JSON document.'),
  'media-type-unsupported': entry(
    415,
    false,
    'The media type is not supported',
    'Send application/json, or application/x-ndjson for many commands.',
  ),
  'input-invalid': entry(400, false, 'The input does not fit the schema', 'Correct the fields that `issues` names.'),
  'parameter-invalid': entry(400, false, 'A parameter of the request is not valid', 'Correct the parameter that the message names.'),
  'key-invalid': entry(400, false, 'The key of the command is not valid', 'Let key() return a string of 1 to 512 bytes or a safe integer.'),
  'id-missing': entry(400, false, 'The Idempotency-Key is missing', 'Send an Idempotency-Key header that is new for each new command.'),
  'id-invalid': entry(400, false, 'The Idempotency-Key is not valid', 'Use 1 to 128 visible ASCII characters.'),
  'id-reused': entry(
    422,
    false,
    'The Idempotency-Key was used with another input',
    'Use a new key for a new command; send the same input to retry.',
  ),
  'tenant-invalid': entry(400, false, 'The tenant is not valid', 'Use 1 to 64 letters, digits, dots, dashes or underscores.'),
  'command-unknown': entry(404, false, 'There is no such command', 'See /openapi.json for the commands of this app.'),
  'query-unknown': entry(404, false, 'There is no such query', 'See /openapi.json for the queries of this app.'),
  'route-unknown': entry(404, false, 'There is no such route', 'See /openapi.json for the routes of this app.'),
  'method-not-allowed': entry(405, false, 'The method is not allowed here', 'Use the method that the Allow header names.'),
  'outcome-unknown': entry(404, false, 'There is no such outcome', 'The id was never accepted, or its outcome is past its retention.'),
  'headers-too-large': entry(431, false, 'The header fields are too large', 'Send fewer or shorter header fields.'),
  'request-malformed': entry(400, false, 'The request is not valid HTTP', 'Correct the request; no part of it was used.'),
  'request-timeout': entry(408, true, 'The request did not arrive in time', 'Send it again, faster.'),
  'line-too-long': entry(413, false, 'A line of the bulk request is too long', 'Send shorter lines, or raise the limit of the server.'),

  // The limits of the node.
  'overloaded': entry(429, true, 'Too many commands are in flight', 'Send the command again after Retry-After seconds.'),
  'streams-full': entry(429, true, 'Too many streams are open', 'Open it again after Retry-After seconds, or ask without waiting.'),
  'queue-full': entry(503, true, 'The queue is full', 'Send the command again after Retry-After seconds.'),
  'queue-slow': entry(503, true, 'Commands would wait too long in the queue', 'Send the command again after Retry-After seconds.'),
  'key-blocked': entry(503, true, 'The key is blocked by a dead-lettered command', 'Redrive or drop the dead letter: headrace dlq ls.'),
  'stopping': entry(503, true, 'The node is stopping', 'Send the command again; another node or the restarted one takes it.'),
  'not-ready': entry(503, true, 'The node is not ready', 'Wait until /readyz answers 200.'),
  'storage-failed': entry(
    503,
    true,
    'The storage failed',
    'See the log of the node: free disk space, or repair the disk, and start it again.',
  ),
  'wait-aborted': entry(499, true, 'The caller stopped waiting', 'Ask for the outcome by its id.'),

  // What the app's own code did.
  'handler-failed': entry(500, false, 'The command failed in the code of the app', 'See the dead letter: headrace dlq show.'),
  'handler-timeout': entry(500, false, 'The code of the command did not end in time', 'Bound its waits, or raise handlerTimeoutMs.'),
  'decide-impure': entry(
    500,
    false,
    'decide() changed the state of a command that it rejected',
    'Return reject() before the first change to the state.',
  ),
  'decide-invalid': entry(500, false, 'decide() did not return a decision', 'Return accept(…) or reject(…), not a promise.'),
  'result-invalid': entry(500, false, 'The result cannot be stored as JSON', 'Return plain data, smaller than resultBytesMax.'),
  'transaction-closed': entry(
    500,
    false,
    'The transaction of this handle has ended',
    'Await every database call before the handler returns.',
  ),
  'query-failed': entry(500, true, 'The query failed in the code of the app', 'See the log of the node.'),
  'query-timeout': entry(504, true, 'The query did not end in time', 'Make the query cheaper, or raise queryTimeoutMs.'),

  // Databases and the journal.
  'sql-failed': entry(500, false, 'A statement failed', 'Correct the statement that the message names.'),
  'sql-busy': entry(503, true, 'The database is locked by somebody else', 'Close the other program that writes to the file.'),
  'table-without-key': entry(
    500,
    false,
    'A table has no primary key',
    'Give the table a primary key; its changes could not be replayed after a crash.',
  ),
  'constraint-deferred': entry(
    500,
    false,
    'A table has a deferred constraint',
    'Declare the foreign key without DEFERRABLE INITIALLY DEFERRED.',
  ),
  'statement-refused': entry(
    500,
    false,
    'The statement is not allowed inside a command',
    'Leave BEGIN, COMMIT, ATTACH, PRAGMA and schema changes out of handlers.',
  ),
  'fenced': entry(503, true, 'Another owner has taken over', 'Stop this node; the newer owner carries on.'),
  'data-in-use': entry(503, true, 'The data directory is in use', 'Stop the other process, or use another data directory.'),
  'data-partitions': entry(
    500,
    false,
    'The data directory has another number of partitions',
    'Start with the number it was created with, or use a new directory.',
  ),
  'queue-differs': entry(
    500,
    false,
    'The data directory belongs to another queue',
    'Start with the queue it was used with until that is empty, then once with --queue none.',
  ),
  'data-version': entry(500, false, 'The data directory has another format', 'Use the version of Headrace that the message names.'),
  'data-unreadable': entry(
    500,
    false,
    'The data directory cannot be read or written',
    'Correct its owner and mode, or name another directory.',
  ),
  'data-corrupt': entry(500, false, 'The journal is damaged', 'Restore the data directory from a backup; nothing was changed.'),
  'data-diverged': entry(
    500,
    false,
    'A database does not belong to this journal',
    'Restore the file and the journal from the same moment.',
  ),
  'disk-full': entry(503, true, 'The disk is full', 'Free disk space; the node accepts writes again by itself.'),

  // Databases on servers, and transactions over several.
  'tables-missing': entry(500, false, 'Tables of Headrace are missing', 'Run headrace migrate with an account that may create tables.'),
  'tables-outdated': entry(500, false, 'Tables of Headrace have another version', 'Run headrace migrate; it upgrades them in place.'),
  'database-unfit': entry(500, false, 'A database is not set up for Headrace', 'Correct what the message names, then start again.'),
  'database-claimed': entry(
    500,
    false,
    'The database belongs to another data directory',
    'Start on that data directory, or release the database: headrace migrate --release.',
  ),
  'sql-conflict': entry(
    503,
    true,
    'The database ended the transaction for another',
    'Try again: a deadlock or a serialization failure passes.',
  ),
  'prepare-unavailable': entry(
    500,
    false,
    'The database cannot prepare transactions',
    'PostgreSQL: set max_prepared_transactions to at least the number of lanes times 4 and restart it.',
  ),
  'prepare-full': entry(
    503,
    true,
    'The database holds as many prepared transactions as it may',
    'Wait, or raise max_prepared_transactions.',
  ),
  'gid-taken': entry(500, false, 'The name of the transaction is taken', 'Give every deployment and node a name of its own.'),
  'protocol-unavailable': entry(
    500,
    false,
    'No protocol commits these databases together',
    'At most one database without prepare can take part: leave the others out, or use a saga.',
  ),
  'transaction-timeout': entry(
    504,
    true,
    'The transaction did not end in time',
    'It was undone everywhere. Make it shorter, or raise timeoutMs.',
  ),
  'transaction-unknown': entry(
    503,
    true,
    'It is not known yet how the transaction ended',
    'Recovery finds out when the database is back: headrace tx ls.',
  ),
  'transaction-heuristic': entry(
    500,
    false,
    'A branch ended otherwise than decided',
    'Somebody ended it by hand: compare the databases, then headrace tx resolve.',
  ),
  'transaction-aborted': entry(
    503,
    true,
    'Recovery undid the transaction before it was decided',
    'Try again; raise graceMs when prepared transactions of live nodes are undone often.',
  ),
  'transaction-nested': entry(
    500,
    false,
    'A transaction or savepoint was begun inside another',
    'Use the transaction that is open; a savepoint has one level.',
  ),
  'decision-log-full': entry(
    503,
    true,
    'Too many decisions wait for their databases',
    'Bring the databases back that headrace tx ls names.',
  ),

  // Sagas, TCC, three-phase commit and the services they call.
  'saga-invalid': entry(500, false, 'A saga is not defined well', 'Correct the definition as the message says.'),
  'saga-id-invalid': entry(400, false, 'The id of a run is not valid', 'Use 1 to 128 visible ASCII characters.'),
  'saga-unknown': entry(404, false, 'There is no such run', 'The id was never started, or the run is past its retention.'),
  'saga-taken': entry(503, true, 'Another process has taken over the run', 'Nothing to do: it goes on there.'),
  'saga-failed': entry(
    500,
    false,
    'A step failed, and the run was undone or parked',
    'See the message, and headrace:saga events of the run.',
  ),
  'saga-step-timeout': entry(504, true, 'A step did not end in time', 'Bound its waits, or raise timeoutMs of the step.'),
  'saga-changed': entry(
    500,
    false,
    'The definition of a run has changed under it',
    'Bring back the step that the message names, then redrive the run.',
  ),
  'saga-journal-full': entry(500, false, 'A run has too many records', 'See why its steps are repeated, or raise recordsMax.'),
  'service-refused': entry(502, false, 'A service refused the call', 'Correct what the message names.'),
  'service-failed': entry(503, true, 'A service failed', 'See its log; the call is repeated within bounds.'),
  'service-answer': entry(502, false, 'The answer of a service is not acceptable', 'Correct the service as the message says.'),
  'service-forbidden': entry(
    500,
    false,
    'The address is not on the list of allowed services',
    'Add its origin to the allowed ones, if it is to be called.',
  ),
  'call-invalid': entry(
    400,
    false,
    'The call does not say which branch of which transaction it is',
    'Send the headers headrace-gid, headrace-branch, headrace-operation and headrace-attempt.',
  ),
  'call-late': entry(409, false, 'The call comes after the branch was cancelled', 'Nothing to do: the branch stays cancelled.'),
  'call-early': entry(409, false, 'The call confirms a branch that was never tried', 'Try the branch first.'),

  // The cache.
  'cache-key-invalid': entry(400, false, 'The cache key is not valid', 'Use a string of 1 to 512 bytes without unpaired surrogates.'),
  'cache-value-invalid': entry(
    500,
    false,
    'The value cannot be cached',
    'Return plain data that the serializer of the namespace can write.',
  ),
  'cache-load-timeout': entry(504, true, 'The load did not end in time', 'Make the load cheaper, or raise hardTimeoutMs.'),
  'cache-busy': entry(503, true, 'Too many loads are under way', 'Ask again later, or raise loadsMax.'),
  'cache-below-floor': entry(
    503,
    true,
    'The load did not reach the version that was asked for',
    'Let the load read from the primary when its replica is behind the floor it is given.',
  ),
  'cache-unavailable': entry(
    503,
    true,
    'The shared cache does not answer',
    'Nothing to do: the cache goes on without it, and takes it back by itself.',
  ),
  'cache-namespace-taken': entry(
    500,
    false,
    'The cache namespace is in use with another serializer',
    'Use another namespace, or the same serializer in every app that shares it.',
  ),
  'cache-closed': entry(503, true, 'The cache is closed', 'Do not use a cache after close().'),

  // Engines: the servers that a driver talks to.
  'engine-unavailable': entry(
    503,
    true,
    'An engine cannot be reached',
    'Start it, or correct its address; the driver connects again by itself.',
  ),
  'engine-timeout': entry(503, true, 'An engine did not answer in time', 'Look at its load, or raise timeoutMs of the driver.'),
  'engine-refused': entry(
    500,
    false,
    'An engine refuses the call',
    'Correct the password, the rights or the setting that the message names.',
  ),
  'engine-failed': entry(500, false, 'An engine answered with an error', 'Correct what the message names.'),

  // Locks.
  'lock-key-invalid': entry(
    400,
    false,
    'The key of a lock is not valid',
    'Use a string of 1 to 512 bytes without zero bytes and unpaired surrogates.',
  ),
  'lock-timeout': entry(503, true, 'The lock was not free in time', 'Try again, or wait longer: waitMs.'),
  'lock-queue-full': entry(503, true, 'Too many callers wait for locks', 'Try again later, or raise waitersMax.'),
  'lock-reentered': entry(
    500,
    false,
    'The caller already holds the lock',
    'Pass the lease on instead of taking it again, or ask for it: reentrant.',
  ),
  'lock-limit-differs': entry(
    500,
    false,
    'The lock is in use with another limit',
    'Use one limit for a semaphore everywhere, and another key for another lock.',
  ),
  'lock-closed': entry(503, true, 'The locks are closed', 'Do not use locks after close().'),
  'lease-lost': entry(503, true, 'The lease was lost', 'Stop writing under it; take the lock again and start over.'),

  // The message queue.
  'message-invalid': entry(400, false, 'The message is not valid', 'Correct the key, id, header or body that the message names.'),
  'message-too-large': entry(413, false, 'The message is too large', 'Send a smaller message, or raise messageBytesMax.'),
  'message-malformed': entry(400, false, 'The message cannot be read', 'Look at it in the dead letters; correct its sender.'),
  'topic-invalid': entry(500, false, 'The topic or group is not defined well', 'Correct the name or number that the message names.'),
  'topic-unknown': entry(404, false, 'There is no such topic or group', 'Declare the topic with its groups first.'),
  'topic-differs': entry(500, false, 'The topic has another definition', 'Declare it as it was made, or use another name.'),
  'queue-unsupported': entry(
    500,
    false,
    'The engine of the queue cannot do this',
    'Give the queue what the message names, or use another engine.',
  ),
  'queue-closed': entry(503, true, 'The queue is closed', 'Do not use a queue after close().'),

  // Set-up and operation.
  'option-unknown': entry(500, false, 'There is no such option', 'Use the name that the message proposes.'),
  'option-invalid': entry(500, false, 'An option has a value that is not valid', 'Correct the value as the message says.'),
  'app-invalid': entry(500, false, 'The app is not defined well', 'Correct the definition as the message says.'),
  'app-not-started': entry(503, true, 'The app is not started', 'Await app.start() first.'),
  'listen-failed': entry(500, false, 'The server cannot listen', 'Name another port or host, or stop what listens there.'),
  'admin-refused': entry(
    403,
    false,
    'Administration is not open to this caller',
    'Call from the machine of the node, or start it with an admin token and send that.',
  ),
  'dead-letter-unknown': entry(404, false, 'There is no such dead letter', 'List them: headrace dlq ls.'),
  'internal': entry(500, false, 'A defect of Headrace', 'Please report it, with the log of the node.'),
} satisfies Record<string, ErrorEntry>)

export type ErrorCode = keyof typeof errorTable

export interface ErrorOptions {
  /** Facts for the reader and for programs, as plain data. Never secrets. */
  readonly details?: Readonly<Record<string, unknown>>
  /** When a retryable call is worth repeating, in milliseconds from now. */
  readonly retryAfterMs?: number
  readonly cause?: unknown
}

/** An error of Headrace: `code` is stable, `message` says what happened and what to do. */
export class HeadraceError extends Error {
  readonly code: ErrorCode
  readonly details: Readonly<Record<string, unknown>> | undefined
  readonly retryAfterMs: number | undefined

  constructor(code: ErrorCode, message?: string, options: ErrorOptions = {}) {
    const known = errorTable[code]
    super(message ?? `${known.title}. ${known.remedy}`, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'HeadraceError'
    this.code = code
    this.details = options.details
    this.retryAfterMs = options.retryAfterMs
  }

  get status(): number {
    return errorTable[this.code].status
  }

  get retryable(): boolean {
    return errorTable[this.code].retryable
  }

  /** The same error by shape, so that two copies of the package in one process understand each other. */
  static is(error: unknown): error is HeadraceError {
    return error instanceof Error && error.name === 'HeadraceError' && 'code' in error && String(error.code) in errorTable
  }
}
