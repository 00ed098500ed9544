/** `postgres(name, …)`: a PostgreSQL database by name, for an app or a coordinator. It connects when it is asked to. */
import type { PoolConfig } from 'pg'
import { HeadraceError } from '../../contracts/errors.ts'
import type { ConnectOptions, Participant, ParticipantHandle } from '../../contracts/participant.ts'
import { Connections } from './connections.ts'
import { type KnownOptions, knownOptions, type PostgresOptions, shownOptions } from './options.ts'
import { PostgresParticipant } from './participant.ts'
import { Plans } from './prepared.ts'

/** Connections beside those of branches, for what is asked about transactions. */
const callsMax = 2

/** Names a PostgreSQL database. Throws 'option-invalid' and 'option-unknown'. */
export function postgres<const Name extends string>(name: Name, options: PostgresOptions): ParticipantHandle<Name> {
  const known = knownOptions(name, options)
  return Object.freeze({
    kind: 'database',
    name,
    engine: 'postgres',
    options: shownOptions(options),
    connect: (connectOptions: ConnectOptions = {}) => connect(name, known, connectOptions),
  })
}

async function connect(name: string, options: KnownOptions, { branchesMax }: ConnectOptions): Promise<Participant> {
  const { url, pool, poolMax, readersMax, connectTimeoutMs, statementTimeoutMs, pipeline } = options
  const bounds = { connectTimeoutMs, plans: new Plans(options.preparedStatementsMax) }
  if (pool !== undefined) return new PostgresParticipant(name, options, new Connections(name, pool, false, bounds), null)
  const { Pool } = await driver()
  const config = (what: string): PoolConfig => ({
    ...(url === undefined ? {} : { connectionString: url }),
    application_name: `headrace:${name}:${what}`,
    pipeline,
  })
  const branches = Connections.open(
    name,
    Pool,
    { ...config('transactions'), max: branchesMax === undefined ? poolMax : branchesMax + callsMax },
    bounds,
  )
  const readers = Connections.open(
    name,
    Pool,
    { ...config('reads'), max: readersMax },
    { ...bounds, prelude: `set default_transaction_read_only = on; set statement_timeout = ${statementTimeoutMs}` },
  )
  return new PostgresParticipant(name, options, branches, readers)
}

/** The client library, which is the user's to install. */
async function driver(): Promise<typeof import('pg')> {
  try {
    const module = (await import('pg')) as typeof import('pg') & { readonly default?: typeof import('pg') }
    return module.default ?? module
  } catch (error) {
    throw new HeadraceError('engine-refused', 'The package pg is missing: npm install pg', { cause: error })
  }
}
