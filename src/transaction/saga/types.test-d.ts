/** What a user's editor knows of sagas and TCCs: inputs, results of earlier steps, what must be given. */
import { describe, expectTypeOf, it } from 'vitest'
import { z } from 'zod'
import {
  createHttpClient,
  defineSaga,
  defineTcc,
  defineThreePhase,
  httpParticipant,
  httpStep,
  type Orchestrator,
  type RunEnd,
} from '../index.ts'

declare const orchestrator: Orchestrator
const http = createHttpClient({ allow: ['https://wallet.internal'] })
const input = z.object({ person: z.string(), seats: z.int() })

const trip = defineSaga('trip', {
  input,
  steps: (saga) =>
    saga
      .step('flight', {
        async do({ input: given, results, signal, attempt }) {
          expectTypeOf(given).toEqualTypeOf<{ person: string; seats: number }>()
          expectTypeOf(results).toEqualTypeOf<unknown>()
          expectTypeOf(signal).toEqualTypeOf<AbortSignal>()
          expectTypeOf(attempt).toEqualTypeOf<number>()
          return { booking: 'f1' }
        },
        undo({ result }) {
          expectTypeOf(result).toEqualTypeOf<{ booking: string } | undefined>()
        },
      })
      .group((both) =>
        both
          .step('hotel', {
            do({ results }) {
              expectTypeOf(results).toEqualTypeOf<{ readonly flight: { booking: string } }>()
              return 7
            },
            undo: ({ result }) => expectTypeOf(result).toEqualTypeOf<number | undefined>(),
          })
          .step('car', { do: () => 'c', undo: () => undefined }),
      )
      .step(
        'wallet',
        httpStep(http, {
          do: ({ input: given, results }) => {
            expectTypeOf(given.seats).toEqualTypeOf<number>()
            expectTypeOf(results.hotel).toEqualTypeOf<number>()
            return { url: 'https://wallet.internal/debit', body: given }
          },
          undo: ({ result }) => {
            expectTypeOf(result).toEqualTypeOf<{ id: string } | undefined>()
            return { url: 'https://wallet.internal/credit' }
          },
          result: z.object({ id: z.string() }),
        }),
      )
      .step('ticket', {
        do: ({ results }) => {
          expectTypeOf(results.car).toEqualTypeOf<string>()
          expectTypeOf(results.wallet).toEqualTypeOf<{ id: string }>()
          return true
        },
        final: true,
      }),
})

describe('a saga', () => {
  it('tells the types of its results', () => {
    expectTypeOf(orchestrator.wait(trip, 'a')).resolves.toEqualTypeOf<
      RunEnd<{
        readonly flight: { booking: string }
        readonly hotel: number
        readonly car: string
        readonly wallet: { id: string }
        readonly ticket: boolean
      }>
    >()
  })

  it('takes no step without a way back, unless it is final', () => {
    defineSaga('a', {
      input,
      steps: (saga) =>
        // @ts-expect-error a step needs undo, or final: true
        saga.step('a', { do: () => 1 }),
    })
    defineSaga('a', { input, steps: (saga) => saga.step('a', { do: () => 1, final: true }) })
    defineSaga('a', {
      input,
      // @ts-expect-error after a final step nothing goes back
      steps: (saga) => saga.step('a', { do: () => 1, final: true }).step('b', { do: () => 1, undo: () => 1 }),
    })
    defineSaga('a', {
      input,
      // @ts-expect-error a group may have to go back
      steps: (saga) => saga.group((group) => group.step('a', { do: () => 1, final: true })),
    })
  })

  it('knows no step that does not come before', () => {
    defineSaga('a', {
      input,
      steps: (saga) =>
        saga
          .step('a', { do: () => 1, undo: () => 1 })
          // @ts-expect-error there is no step c
          .step('b', { do: ({ results }) => results.c, undo: () => 1 }),
    })
  })
})

describe('a TCC', () => {
  it('gives confirm what try returned, and cancel perhaps', () => {
    const order = defineTcc('order', {
      input,
      participants: (tcc) =>
        tcc
          .participant('stock', {
            try: async ({ input: given }) => ({ held: given.seats }),
            confirm: ({ result }) => expectTypeOf(result).toEqualTypeOf<{ held: number }>(),
            cancel: ({ result }) => expectTypeOf(result).toEqualTypeOf<{ held: number } | undefined>(),
          })
          .participant(
            'wallet',
            httpParticipant(http, {
              try: ({ input: given }) => ({ url: `https://wallet.internal/${given.person}` }),
              confirm: () => ({ url: 'https://wallet.internal/' }),
              cancel: () => ({ url: 'https://wallet.internal/' }),
              result: z.object({ id: z.string() }),
            }),
          ),
    })
    expectTypeOf(orchestrator.wait(order, 'a')).resolves.toEqualTypeOf<
      RunEnd<{ readonly stock: { held: number }; readonly wallet: { id: string } }>
    >()
    defineTcc('a', {
      input,
      // @ts-expect-error cancel is missing
      participants: (tcc) => tcc.participant('a', { try: () => 1, confirm: () => 1 }),
    })
  })
})

describe('a three-phase commit', () => {
  it('gives its participants the input', () => {
    defineThreePhase('move', {
      input,
      participants: {
        a: {
          canCommit: ({ input: given }) => expectTypeOf(given.person).toEqualTypeOf<string>(),
          preCommit: () => undefined,
          doCommit: () => undefined,
          abort: () => undefined,
        },
        // @ts-expect-error abort is missing
        b: { canCommit: () => undefined, preCommit: () => undefined, doCommit: () => undefined },
      },
    })
  })
})
