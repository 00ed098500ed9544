/** The client library `mysql2`: an optional peer dependency, loaded when the first participant connects. */
import type { Connection, ConnectionOptions, Pool, PoolOptions } from 'mysql2/promise'
import { HeadraceError } from '../../contracts/errors.ts'

export interface MysqlDriver {
  createPool(options: PoolOptions): Pool
  createConnection(options: ConnectionOptions): Promise<Connection>
  escape(value: unknown): string
}

/** Throws 'engine-refused' with the command that installs the library when it is missing. */
export async function loadDriver(load: () => Promise<unknown> = () => import('mysql2/promise')): Promise<MysqlDriver> {
  let loaded: unknown
  try {
    loaded = await load()
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (code !== 'ERR_MODULE_NOT_FOUND' && code !== 'MODULE_NOT_FOUND') throw error
    throw new HeadraceError(
      'engine-refused',
      `The driver library of MySQL and MariaDB is not installed: npm install mysql2 (${message.split('\n')[0] ?? ''})`,
    )
  }
  const { default: named, ...others } = loaded as { default?: MysqlDriver } & MysqlDriver
  return named ?? (others as MysqlDriver)
}
