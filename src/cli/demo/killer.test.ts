import { describe, expect, it } from 'vitest'
import { createRandom } from '../../std/random.ts'
import { Killer, type Mortal } from './killer.ts'

/** A node that notes what is done to it. */
function node(): Mortal & { readonly log: string[] } {
  const log: string[] = []
  return {
    log,
    kill: async () => void log.push('kill'),
    start: async () => {
      log.push('start')
      return 1
    },
  }
}

describe('the killer', () => {
  it('kills as often as asked, one in each part of the run, and starts the node again each time', async () => {
    const tryOne = async (seed: number): Promise<void> => {
      const mortal = node()
      const killer = new Killer(mortal, 4, 1_000, createRandom(seed))
      for (let answered = 1; answered <= 1_000; answered++) killer.answered(answered)
      await killer.settled()
      expect(mortal.log).toEqual(['kill', 'start', 'kill', 'start', 'kill', 'start', 'kill', 'start'])
      killer.kills.forEach(({ at }, part) => {
        expect(at).toBeGreaterThan(part * 250)
        expect(at).toBeLessThan((part + 1) * 250)
      })
      expect(killer.down).toBe(false)
    }
    await Promise.all(Array.from({ length: 50 }, (_, seed) => tryOne(seed)))
  })

  it('chooses other moments for another seed, and the same for the same', async () => {
    const moments = async (seed: number): Promise<number[]> => {
      const killer = new Killer(node(), 3, 100_000, createRandom(seed))
      for (let answered = 1; answered <= 100_000; answered++) killer.answered(answered)
      await killer.settled()
      return killer.kills.map(({ at }) => at)
    }
    expect(await moments(1)).toEqual(await moments(1))
    expect(await moments(1)).not.toEqual(await moments(2))
  })

  it('tells of a node that does not come back', async () => {
    const killer = new Killer({ kill: async () => {}, start: () => Promise.reject(new Error('port taken')) }, 1, 10, createRandom(1))
    killer.answered(10)
    await expect(killer.settled()).rejects.toThrow('port taken')
    expect(killer.down).toBe(true)
  })

  it('leaves the node alone when it is asked for no kill', async () => {
    const mortal = node()
    const killer = new Killer(mortal, 0, 10, createRandom(1))
    killer.answered(10)
    await killer.settled()
    expect(mortal.log).toEqual([])
  })
})
