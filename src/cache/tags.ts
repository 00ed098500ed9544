/**
 * Tags: names that many entries share, so that they fall together.
 *
 * Every tag has a mark: a stamp, which an invalidation without a version
 * changes, and a floor, which one with a version raises. An entry keeps the
 * stamps it was loaded under and a reference to the marks, so that a fallen tag
 * costs nothing but the change of one mark, however many entries carry it.
 */
import type { TagMark } from '../contracts/cache.ts'

interface Mark {
  stamp: string
  floor: number
}

/** The mark of a tag, and how it stood when the load began. */
export interface Seal {
  readonly tag: string
  readonly mark: Mark
  readonly stamp: string
  readonly floor: number
}

export class Tags {
  readonly #marks = new Map<string, Mark>()
  readonly #max: number
  #stamps = 0
  /** Grows with every change of a tag that is made here or told by the bus. */
  changes = 0

  constructor(max: number) {
    this.#max = max
  }

  /** The marks of these tags as they stand, or null when one is not known. */
  known(tags: readonly string[]): Seal[] | null {
    const seals: Seal[] = []
    for (const tag of tags) {
      const mark = this.#marks.get(tag)
      if (mark === undefined) return null
      seals.push(seal(tag, mark))
    }
    return seals
  }

  /** The marks of these tags; new ones for those that are not known: right when there is no shared store. */
  sealed(tags: readonly string[]): Seal[] {
    return tags.map((tag) => {
      let mark = this.#marks.get(tag)
      if (mark === undefined) {
        mark = { stamp: this.#newStamp(), floor: 0 }
        this.#marks.set(tag, mark)
      }
      return seal(tag, mark)
    })
  }

  /** Takes over what the shared store says of a tag. */
  learn(tag: string, { stamp, floor }: TagMark): void {
    const mark = this.#marks.get(tag)
    if (mark === undefined) {
      this.#marks.set(tag, { stamp, floor })
      return
    }
    mark.stamp = stamp
    mark.floor = Math.max(mark.floor, floor)
  }

  raise(tag: string, version: number): void {
    this.changes++
    const mark = this.#marks.get(tag)
    if (mark !== undefined && mark.floor < version) mark.floor = version
  }

  /** Lets everything that carries the tag fall. `forget` when the shared store has the next stamp. */
  cut(tag: string, forget: boolean): void {
    this.changes++
    const mark = this.#marks.get(tag)
    if (mark === undefined) return
    mark.stamp = this.#newStamp()
    if (forget) this.#marks.delete(tag)
  }

  get full(): boolean {
    return this.#marks.size > this.#max
  }

  /** Forgets all marks; what was sealed under them falls. */
  clear(): void {
    this.changes++
    for (const mark of this.#marks.values()) mark.stamp = this.#newStamp()
    this.#marks.clear()
  }

  #newStamp(): string {
    return `local-${++this.#stamps}`
  }
}

function seal(tag: string, mark: Mark): Seal {
  return { tag, mark, stamp: mark.stamp, floor: mark.floor }
}

/** Whether no tag has changed since the seals were taken. */
export function sealsUntouched(seals: readonly Seal[]): boolean {
  for (const { mark, stamp, floor } of seals) {
    if (mark.stamp !== stamp || mark.floor !== floor) return false
  }
  return true
}

/** Whether every tag still has the stamp of the load, and no floor above the version. */
export function sealsHold(seals: readonly Seal[], version: number): boolean {
  for (const { mark, stamp } of seals) {
    if (mark.stamp !== stamp || mark.floor > version) return false
  }
  return true
}

/** The highest floor among the tags, as it was when the seals were taken. */
export function sealsFloor(seals: readonly Seal[]): number {
  let highest = 0
  for (const { floor } of seals) highest = Math.max(highest, floor)
  return highest
}
