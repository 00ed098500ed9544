import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { Mutex } from './mutex.ts'

describe('a mutex', () => {
  it('lets one in at a time, in the order they came, however long each stays', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.nat(5), { maxLength: 30 }), async (stays) => {
        const mutex = new Mutex()
        const order: number[] = []
        let inside = 0
        await Promise.all(
          stays.map(async (stay, index) => {
            await mutex.acquire()
            inside += 1
            expect(inside).toBe(1)
            order.push(index)
            for (let turn = 0; turn < stay; turn++) await Promise.resolve()
            inside -= 1
            mutex.release()
          }),
        )
        expect(order).toEqual(stays.map((_, index) => index))
      }),
    )
  })

  it('is free again when nobody waits any more', async () => {
    const mutex = new Mutex()
    await mutex.acquire()
    mutex.release()
    await mutex.acquire()
    let entered = false
    const waiting = mutex.acquire().then(() => {
      entered = true
    })
    await Promise.resolve()
    expect(entered).toBe(false)
    mutex.release()
    await waiting
    expect(entered).toBe(true)
  })

  it('goes straight to the one who waits: a newcomer does not slip in between', async () => {
    const mutex = new Mutex()
    await mutex.acquire()
    const order: string[] = []
    const waiter = mutex.acquire().then(() => order.push('waiter'))
    mutex.release()
    const newcomer = mutex.acquire().then(() => order.push('newcomer'))
    await waiter
    mutex.release()
    await newcomer
    expect(order).toEqual(['waiter', 'newcomer'])
  })
})
