/** Where a key goes: the same partition in every client, on every engine. */
import { hash32 } from '../std/hash.ts'

/** The partition of a key, from 0. Changing this moves keys, and with them their order: it never changes. */
export function partitionOf(key: string, partitions: number): number {
  return hash32(key) % partitions
}
