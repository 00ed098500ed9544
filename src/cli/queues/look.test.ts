import { describe, expect, test } from 'vitest'
import type { PartitionCounts, QueueEngine } from '../../contracts/queue.ts'
import { groupRows, type Look, partitionRows } from './look.ts'

const engine = (stablePositions: boolean): QueueEngine => ({ capabilities: { stablePositions } }) as unknown as QueueEngine

const counts = (fields: Partial<PartitionCounts>): PartitionCounts => ({
  partition: 0,
  depth: 0,
  delayed: 0,
  dead: 0,
  oldestPublishedAt: null,
  acknowledged: 0,
  epoch: 0,
  leased: false,
  ...fields,
})

const seen = (at: number, ...partitions: readonly PartitionCounts[]): Look => ({
  groups: [{ topic: 't', group: 'g', paused: false, at, partitions }],
})

describe('rates', () => {
  const before = seen(1_000, counts({ depth: 10, acknowledged: 100 }), counts({ partition: 1, depth: 5, acknowledged: 7 }))
  const after = seen(3_000, counts({ depth: 14, acknowledged: 130 }), counts({ partition: 1, depth: 1, acknowledged: 11 }))

  test('are what came and went between two looks, by the time between them, and add up over partitions', () => {
    const rows = partitionRows(engine(true), after, before)
    expect(rows).toMatchObject([
      { partition: 0, inPerSecond: 17, outPerSecond: 15, growthPerSecond: 2 },
      { partition: 1, inPerSecond: 0, outPerSecond: 2, growthPerSecond: -2 },
    ])
    expect(groupRows(rows)).toMatchObject([{ depth: 15, inPerSecond: 17, outPerSecond: 17, growthPerSecond: 0 }])
  })

  test('are growth alone where the engine shows no acknowledgements of others', () => {
    expect(groupRows(partitionRows(engine(false), after, before))).toMatchObject([
      { inPerSecond: null, outPerSecond: null, growthPerSecond: 0 },
    ])
  })

  test('are unknown after one look, and for a group that was not there before', () => {
    const unknown = { inPerSecond: null, outPerSecond: null, growthPerSecond: null }
    expect(groupRows(partitionRows(engine(true), after, null))).toMatchObject([unknown])
    expect(groupRows(partitionRows(engine(true), after, { groups: [] }))).toMatchObject([unknown])
  })
})

test('a group is as old as its oldest partition, and counts the partitions that somebody consumes', () => {
  const hourAgo = Date.now() - 3_600_000
  const rows = partitionRows(
    engine(true),
    seen(
      0,
      counts({ depth: 1, oldestPublishedAt: hourAgo, leased: true }),
      counts({ partition: 1, depth: 1, oldestPublishedAt: Date.now() }),
    ),
    null,
  )
  const [row] = groupRows(rows)
  expect(row?.oldestAgeMs).toBeGreaterThanOrEqual(3_600_000)
  expect(row).toMatchObject({ partitions: 2, leased: 1, depth: 2 })
})
