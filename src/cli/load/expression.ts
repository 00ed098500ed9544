/**
 * The small language inside of `{ … }` in a template: whole-number arithmetic
 * over the number of the command, and random choices from the run's seed.
 *
 *   expression = term { ("+" | "-") term }
 *   term       = factor { ("*" | "/" | "%") factor }
 *   factor     = number | 'text' | i | name "(" expression { "," expression } ")" | "(" expression ")" | "-" factor
 *
 * Names: random(low, high), pick(a, b, …), zipf(n).
 */
import type { Random } from '../../std/random.ts'

export type Value = number | string
export type Expression = (index: number, random: Random) => Value

export class ExpressionError extends Error {}

const functionNames = 'random(low, high), pick(a, b, …), zipf(n)'
const token = /\s*(?:(\d+(?:\.\d+)?)|'([^']*)'|([A-Za-z]+)|([-+*/%(),]))/y

interface Token {
  readonly kind: 'number' | 'text' | 'name' | 'sign' | 'end'
  readonly text: string
}

export function compileExpression(source: string): Expression {
  const tokens = tokensOf(source)
  let at = 0
  const peek = (): Token => tokens[at] as Token
  const take = (sign: string): boolean => {
    if (peek().kind !== 'sign' || peek().text !== sign) return false
    at += 1
    return true
  }
  const need = (sign: string): void => {
    if (!take(sign)) throw new ExpressionError(`'${sign}' is missing in {${source}}`)
  }

  const chain = (signs: readonly string[], part: () => Expression): Expression => {
    let left = part()
    for (;;) {
      const sign = signs.find((candidate) => take(candidate))
      if (sign === undefined) return left
      const first = left
      const second = part()
      left = (index, random) => arithmetic(source, sign, first(index, random), second(index, random))
    }
  }
  const sum = (): Expression => chain(['+', '-'], product)
  const product = (): Expression => chain(['*', '/', '%'], factor)
  const factor = (): Expression => {
    const { kind, text } = peek()
    if (take('-')) {
      const inner = factor()
      return (index, random) => arithmetic(source, '-', 0, inner(index, random))
    }
    if (take('(')) {
      const inner = sum()
      need(')')
      return inner
    }
    at += 1
    if (kind === 'number') return () => Number(text)
    if (kind === 'text') return () => text
    if (kind === 'name' && text === 'i') return (index) => index
    if (kind === 'name') return call(text)
    throw new ExpressionError(kind === 'end' ? `{${source}} ends too early` : `{${source}} has '${text}' where a value is expected`)
  }
  const call = (name: string): Expression => {
    need('(')
    const given: Expression[] = []
    do given.push(sum())
    while (take(','))
    need(')')
    return functionOf(source, name, given)
  }

  const expression = sum()
  if (peek().kind !== 'end') throw new ExpressionError(`{${source}} has '${peek().text}' where it should end`)
  return expression
}

function functionOf(source: string, name: string, given: readonly Expression[]): Expression {
  const wanted = { random: 2, zipf: 1, pick: given.length }[name]
  if (wanted === undefined) throw new ExpressionError(`there is no '${name}' in {${source}}; known: i, ${functionNames}`)
  if (given.length !== wanted) throw new ExpressionError(`${name} in {${source}} takes ${wanted} values: ${functionNames}`)
  const numberOf = (position: number, index: number, random: Random): number => {
    const value = given[position]?.(index, random)
    if (typeof value !== 'number') throw new ExpressionError(`${name} in {${source}} takes numbers`)
    return value
  }
  if (name === 'random') {
    return (index, random) => {
      const low = numberOf(0, index, random)
      const high = numberOf(1, index, random)
      if (high < low) throw new ExpressionError(`random in {${source}} takes the lower bound first`)
      return random.between(low, high)
    }
  }
  if (name === 'zipf') {
    // Its table is made once; n is a constant as a rule.
    let known = { n: 0, draw: (_random: Random): number => 0 }
    return (index, random) => {
      const n = numberOf(0, index, random)
      if (n !== known.n) known = { n, draw: createZipf(n) }
      return known.draw(random)
    }
  }
  return (index, random) => random.pick(given)(index, random)
}

/** Numbers from 0 to n - 1, of which k is drawn in proportion to 1 / (k + 1): a few are hot, most are cold (Zipf's law). */
export function createZipf(n: number): (random: Random) => number {
  if (!Number.isSafeInteger(n) || n < 1 || n > 10_000_000)
    throw new ExpressionError(`zipf takes a whole number from 1 to 10,000,000, not ${n}`)
  const sums = new Float64Array(n)
  let total = 0
  for (let k = 0; k < n; k++) sums[k] = total += 1 / (k + 1)
  return (random) => {
    const wanted = random.next() * total
    let low = 0
    let high = n - 1
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((sums[middle] as number) <= wanted) low = middle + 1
      else high = middle
    }
    return low
  }
}

function arithmetic(source: string, sign: string, left: Value, right: Value): number {
  if (typeof left !== 'number' || typeof right !== 'number') throw new ExpressionError(`{${source}} calculates with a text`)
  if (sign === '+') return left + right
  if (sign === '-') return left - right
  if (sign === '*') return left * right
  if (right === 0) throw new ExpressionError(`{${source}} divides by zero`)
  return sign === '/' ? Math.floor(left / right) : left % right
}

function tokensOf(source: string): Token[] {
  const tokens: Token[] = []
  token.lastIndex = 0
  while (token.lastIndex < source.trimEnd().length) {
    const from = token.lastIndex
    const match = token.exec(source)
    if (match === null) throw new ExpressionError(`{${source}} has '${source.slice(from).trim().slice(0, 1)}', which is not understood`)
    const [, number, text, name, sign] = match
    if (number !== undefined) tokens.push({ kind: 'number', text: number })
    else if (text !== undefined) tokens.push({ kind: 'text', text })
    else if (name !== undefined) tokens.push({ kind: 'name', text: name })
    else tokens.push({ kind: 'sign', text: sign ?? '' })
  }
  tokens.push({ kind: 'end', text: '' })
  return tokens
}
