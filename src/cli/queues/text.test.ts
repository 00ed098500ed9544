import { expect, test } from 'vitest'
import { shown } from './text.ts'

test('a text of others cannot move the cursor, change colours or turn the writing', () => {
  expect(shown('a\u001b[31mred\u0007\r\n\u202e\u2028z', 100)).toBe('a\\u001b[31mred\\u0007\\u000d\\n\\u202e\\u2028z')
  expect(shown('köln 🙂', 100)).toBe('köln 🙂')
})

test('a long text is cut, and says so', () => {
  expect(shown('x'.repeat(50), 10)).toBe(`${'x'.repeat(9)}…`)
  expect(shown('x'.repeat(10), 10)).toBe('x'.repeat(10))
  expect(shown('🙂'.repeat(50), 4)).toBe('🙂🙂🙂…')
  expect([...shown('\u0000'.repeat(5_000_000), 10)]).toHaveLength(10)
})
