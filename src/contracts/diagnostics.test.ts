import { describe, expect, it } from 'vitest'
import { listen, tell } from './diagnostics.ts'

describe('what the parts tell of themselves', () => {
  it('is not even built while nobody listens', () => {
    let built = 0
    const say = (): void =>
      tell('headrace:append', () => {
        built += 1
        return { app: 'a', commands: 1, ms: 1 }
      })
    say()
    expect(built).toBe(0)
    const stop = listen('headrace:append', () => undefined)
    say()
    expect(built).toBe(1)
    stop()
    say()
    expect(built).toBe(1)
  })

  it('goes to everybody who listens to that event, until they stop', () => {
    const heard: string[] = []
    const stopFirst = listen('headrace:append', ({ app }) => heard.push(`first ${app}`))
    const stopSecond = listen('headrace:append', ({ app }) => heard.push(`second ${app}`))
    const say = (app: string): void => tell('headrace:append', () => ({ app, commands: 1, ms: 1 }))
    say('a')
    stopFirst()
    say('b')
    stopSecond()
    say('c')
    expect(heard).toEqual(['first a', 'second a', 'second b'])
  })
})
