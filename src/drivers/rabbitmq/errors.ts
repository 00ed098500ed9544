/**
 * What RabbitMQ and its client say, as errors of our table. Nothing of theirs
 * leaves this folder, not even as a cause; no message carries a password.
 */
import { HeadraceError } from '../../contracts/errors.ts'
import type { Target } from './options.ts'

/** An error of the client may carry the reply code of the broker. */
export function replyCode(error: unknown): number | null {
  const code = typeof error === 'object' && error !== null && 'code' in error ? error.code : null
  return typeof code === 'number' ? code : null
}

export const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error))

/** Why a connection could not be opened. */
export function connectError(target: Target, error: unknown): HeadraceError {
  if (HeadraceError.is(error)) return error
  const where = `RabbitMQ at ${target.address}`
  const said = messageOf(error)
  if (/ACCESS[_-]REFUSED|Login was refused/i.test(said))
    return new HeadraceError('engine-refused', `${where} refused the user '${target.username}' or its password. Correct them in its url.`)
  // The client tells only that the broker closed the connection instead of opening the virtual host.
  if (/Expected ConnectionOpenOk; got <ConnectionClose/.test(said) || /NOT[_-]ALLOWED/.test(said)) {
    const { vhost, username } = target
    return new HeadraceError(
      'engine-refused',
      `${where} does not open the virtual host '${vhost}' for the user '${username}': it does not exist, or the user has no rights there. Run rabbitmqctl add_vhost '${vhost}' and rabbitmqctl set_permissions -p '${vhost}' ${username} '.*' '.*' '.*', or correct the url.`,
    )
  }
  if (/SASL mechanism/.test(said))
    return new HeadraceError('engine-refused', `${where} offers no login by user and password: ${target.clean(said)}. Allow PLAIN there.`)
  if (/^connect ETIMEDOUT$/.test(said))
    return new HeadraceError('engine-unavailable', `${where} did not answer while connecting. Start it, or correct its address.`)
  return new HeadraceError('engine-unavailable', `${where} cannot be reached: ${target.clean(said)}. Start it, or correct its address.`)
}

/** What ended a call on a channel. `what` names the call: 'declaring queue x'. */
export function channelError(target: Target, what: string, error: unknown): HeadraceError {
  if (HeadraceError.is(error)) return error
  const where = `RabbitMQ at ${target.address}`
  const said = target.clean(messageOf(error))
  switch (replyCode(error)) {
    case 403:
      return new HeadraceError(
        'engine-refused',
        `${where} does not let the user '${target.username}' do this: ${what}. It says: ${reasonIn(said)}. Give it configure, write and read rights on headrace:.* (rabbitmqctl set_permissions).`,
      )
    case 404:
      return new HeadraceError(
        'topic-unknown',
        `${where} has lost what this needs: ${what}. It says: ${reasonIn(said)}. Declare the topic again.`,
      )
    case 405:
      return new HeadraceError('engine-refused', `${where} has it locked: ${what}. It says: ${reasonIn(said)}.`)
    case 406:
      return new HeadraceError('engine-failed', `${where} refused ${what}: ${reasonIn(said)}.`)
    default:
      return new HeadraceError('engine-unavailable', `${where} went away while ${what}: ${said}.`)
  }
}

/** The part that the broker wrote. */
export function reasonIn(said: string): string {
  return (/with message "(.*)"\.?$/.exec(said)?.[1] ?? said).replace(/\.$/, '')
}

export const queueClosed = (): HeadraceError => new HeadraceError('queue-closed', 'The queue is closed: do not use it after close().')
