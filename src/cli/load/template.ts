/**
 * Inputs from a template: a JSON document in whose texts `{ … }` is replaced.
 *
 *   { "sku": "s{zipf(10)}", "buyer": "b{i % 1000}", "quantity": "{random(1, 5)}" }
 *
 * A text that is one expression and nothing else becomes its value, so that
 * numbers stay numbers. `{{` and `}}` stand for the braces themselves.
 */
import type { Random } from '../../std/random.ts'
import { compileExpression, ExpressionError, type Expression } from './expression.ts'

/** Gives the input of command `index` as JSON text. Deterministic for a seed when called in order. */
export type Template = (index: number, random: Random) => string

type Piece = string | Expression

/** Throws an ExpressionError that says what is wrong, also for a template that is not JSON. */
export function compileTemplate(source: string): Template {
  let document: unknown
  try {
    document = JSON.parse(source)
  } catch (error) {
    throw new ExpressionError(
      `the input is not JSON (${error instanceof Error ? error.message : String(error)}); put expressions inside of texts: {"buyer":"b{i % 1000}"}`,
    )
  }
  const pieces = joined(documentPieces(document))
  return (index, random) => {
    let text = ''
    for (const piece of pieces) text += typeof piece === 'string' ? piece : String(piece(index, random))
    return text
  }
}

/** Pieces of JSON text; expressions among them give JSON text too. */
function documentPieces(value: unknown): Piece[] {
  if (typeof value === 'string') return textPieces(value)
  if (Array.isArray(value)) return ['[', ...between(value.map(documentPieces)), ']']
  if (typeof value !== 'object' || value === null) return [JSON.stringify(value)]
  const members = Object.entries(value).map(([name, member]) => [`${JSON.stringify(name)}:`, ...documentPieces(member)])
  return ['{', ...between(members), '}']
}

const expressionPattern = /\{\{|\}\}|\{([^{}]*)\}/g

function textPieces(text: string): Piece[] {
  const alone = /^\{([^{}]*)\}$/.exec(text)
  if (alone !== null) {
    const expression = compileExpression(alone[1] ?? '')
    return [(index, random) => JSON.stringify(expression(index, random))]
  }
  const pieces: Piece[] = ['"']
  let end = 0
  for (const match of text.matchAll(expressionPattern)) {
    pieces.push(escaped(text.slice(end, match.index)))
    end = match.index + match[0].length
    if (match[1] === undefined) {
      pieces.push(match[0].slice(1))
      continue
    }
    const expression = compileExpression(match[1])
    pieces.push((index, random) => escaped(String(expression(index, random))))
  }
  pieces.push(escaped(text.slice(end)), '"')
  return pieces
}

function escaped(text: string): string {
  return JSON.stringify(text).slice(1, -1)
}

function between(parts: readonly Piece[][]): Piece[] {
  return parts.flatMap((part, index) => (index === 0 ? part : [',', ...part]))
}

function joined(pieces: readonly Piece[]): Piece[] {
  const result: Piece[] = []
  for (const piece of pieces) {
    const last = result.at(-1)
    if (typeof piece === 'string' && typeof last === 'string') result[result.length - 1] = last + piece
    else result.push(piece)
  }
  return result
}
