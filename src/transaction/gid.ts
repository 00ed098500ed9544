/**
 * The names of global transactions.
 *
 *   shop_n1_1zk3f9q2x_04ht2b_2s
 *   │    │  │         │      └ number: counts the transactions of this incarnation, base 36
 *   │    │  │         └ home: a digest of the name of the log that keeps the decision
 *   │    │  └ incarnation: the epoch when there is one, base 36, and 8 random characters
 *   │    └ node
 *   └ deployment
 *
 * What must hold:
 * - a gid is never made twice: the incarnation is new for each coordinator;
 * - parts hold no underscore, so that no prefix of one deployment fits another's;
 * - the gid itself says where its decision is. Were that left to configuration,
 *   a recoverer that runs with another home than the coordinator did would find
 *   no decision there, decide 'abort' there, and undo half of a committed
 *   transaction. A recoverer that does not know the home of a gid leaves it
 *   alone and reports it.
 */
import { randomInt } from 'node:crypto'
import { HeadraceError } from '../contracts/errors.ts'
import { gidPattern } from '../contracts/participant.ts'
import { hash53 } from '../std/hash.ts'

const deploymentPattern = /^[a-z][a-z0-9]{0,11}$/
const nodePattern = /^[a-z0-9]{1,10}$/
const partsPattern = /^([a-z][a-z0-9]{0,11})_([a-z0-9]{1,10})_([a-z0-9]{8,19})_([a-z0-9]{6})_([a-z0-9]{1,8})$/
const randomLength = 8
const numberMax = 36 ** 8 - 1
/** Own incarnations that are remembered; a coordinator takes a new one only after another process has declared it dead. */
const incarnationsMax = 16

export interface GidParts {
  readonly deployment: string
  readonly node: string
  readonly incarnation: string
  /** Null when the coordinator was not given one. */
  readonly epoch: number | null
  /** The digest of the name of home: `homeTag(name)`. */
  readonly home: string
  readonly number: number
}

/** The home of transactions whose databases cannot decide: they have one branch that writes, or none. */
export const homeless = 'nohome'

/** Six characters for the name of a log. */
export function homeTag(name: string): string {
  return (hash53(name) % 36 ** 6).toString(36).padStart(6, '0')
}

export function checkDeployment(deployment: unknown): asserts deployment is string {
  if (typeof deployment === 'string' && deploymentPattern.test(deployment)) return
  throw new HeadraceError('option-invalid', `deployment must be 1 to 12 lower-case letters and digits, and start with a letter.`, {
    details: { option: 'deployment' },
  })
}

export function checkNode(node: unknown): asserts node is string {
  if (typeof node === 'string' && nodePattern.test(node)) return
  throw new HeadraceError('option-invalid', `node must be 1 to 10 lower-case letters and digits.`, { details: { option: 'node' } })
}

/** What the gids of a deployment start with. */
export function gidPrefix(deployment: string): string {
  return `${deployment}_`
}

/** Null when it is not a gid of ours. */
export function parseGid(gid: string): GidParts | null {
  const match = partsPattern.exec(gid)
  if (match === null) return null
  const [, deployment = '', node = '', incarnation = '', home = '', number = ''] = match
  const epoch = incarnation.slice(0, -randomLength)
  return { deployment, node, incarnation, epoch: epoch === '' ? null : parseInt(epoch, 36), home, number: parseInt(number, 36) }
}

/** The gid under which a home keeps that an incarnation is over: number 0, which no transaction has. */
export function retirementGid({ deployment, node, incarnation, home }: GidParts): string {
  return `${deployment}_${node}_${incarnation}_${home}_0`
}

export interface GidSourceOptions {
  readonly deployment: string
  readonly node: string
  readonly epoch?: number | undefined
  /** A number from 0 up to, but not including, its argument; must not repeat between processes. Default: that of node:crypto. */
  readonly randomInt?: (bound: number) => number
}

/** Makes the gids of one coordinator. */
export class GidSource {
  readonly #options: GidSourceOptions
  readonly #own: string[] = []
  #number = 0

  constructor(options: GidSourceOptions) {
    this.#options = options
    this.renew()
  }

  get incarnation(): string {
    return this.#own[0] as string
  }

  next(home: string): string {
    if (this.#number >= numberMax) this.renew()
    this.#number += 1
    const gid = `${this.#options.deployment}_${this.#options.node}_${this.incarnation}_${home}_${this.#number.toString(36)}`
    if (!gidPattern.test(gid)) throw new HeadraceError('internal', `'${gid}' is not a gid.`)
    return gid
  }

  /** Whether this coordinator made it. */
  made({ node, incarnation }: GidParts): boolean {
    return node === this.#options.node && this.#own.includes(incarnation)
  }

  /** Goes on as another incarnation. */
  renew(): void {
    const draw = this.#options.randomInt ?? randomInt
    const random = Array.from({ length: randomLength }, () => draw(36).toString(36)).join('')
    this.#own.unshift(`${this.#options.epoch === undefined ? '' : this.#options.epoch.toString(36)}${random}`)
    this.#own.length = Math.min(this.#own.length, incarnationsMax)
    this.#number = 0
  }
}
