import { describe, expect, it } from 'vitest'
import { gidPattern } from '../contracts/participant.ts'
import { checkDeployment, checkNode, gidPrefix, GidSource, homeless, homeTag, parseGid, retirementGid } from './gid.ts'

describe('a gid', () => {
  it('fits every engine, with the longest of everything in it', () => {
    const source = new GidSource({ deployment: 'a'.repeat(12), node: '9'.repeat(10), epoch: Number.MAX_SAFE_INTEGER })
    const gid = source.next(homeTag('stock'))
    expect(gid).toMatch(gidPattern)
    const longest = gid.replace(/[^_]+$/, 'z'.repeat(8))
    expect(longest).toMatch(gidPattern)
    expect(parseGid(longest)).toMatchObject({ number: 36 ** 8 - 1 })
  })

  it('says who made it, and where its decision is', () => {
    const source = new GidSource({ deployment: 'shop', node: 'n1', epoch: 77 })
    source.next(homeless)
    const parts = parseGid(source.next(homeTag('stock')))
    expect(parts).toMatchObject({
      deployment: 'shop',
      node: 'n1',
      epoch: 77,
      home: homeTag('stock'),
      number: 2,
      incarnation: source.incarnation,
    })
    expect(parseGid(new GidSource({ deployment: 'shop', node: 'n1' }).next(homeless))).toMatchObject({ epoch: null, home: homeless })
  })

  it('is never made twice, nor taken for one of another coordinator', () => {
    const one = new GidSource({ deployment: 'shop', node: 'n1', epoch: 1 })
    const two = new GidSource({ deployment: 'shop', node: 'n1', epoch: 1 })
    const gids = [one, two].flatMap((source) => Array.from({ length: 1_000 }, () => source.next(homeless)))
    expect(new Set(gids).size).toBe(2_000)
    const parts = parseGid(gids[0] as string)
    expect(parts !== null && one.made(parts)).toBe(true)
    expect(parts !== null && two.made(parts)).toBe(false)
    one.renew()
    expect(parts !== null && one.made(parts)).toBe(true)
    expect(parseGid(one.next(homeless))?.incarnation).not.toBe(parts?.incarnation)
  })

  it('of one deployment does not start like one of another', () => {
    const gid = new GidSource({ deployment: 'shop2', node: 'n' }).next(homeless)
    expect(gid.startsWith(gidPrefix('shop'))).toBe(false)
    expect(gid.startsWith(gidPrefix('shop2'))).toBe(true)
  })

  it('keeps number 0 for the end of an incarnation', () => {
    const gid = new GidSource({ deployment: 'shop', node: 'n' }).next(homeless)
    const parts = parseGid(gid)
    expect(parts?.number).toBe(1)
    if (parts !== null) expect(parseGid(retirementGid(parts))).toEqual({ ...parts, number: 0 })
  })

  it('is not read from what is none', () => {
    for (const text of [
      '',
      'shop_1',
      'Shop_n_abcdefgh_nohome_1',
      'shop_n_abc_nohome_1',
      'shop_n_abcdefgh_nohome_',
      'shop_n_abcdefgh_nohome_1_2',
    ]) {
      expect(parseGid(text), text).toBeNull()
    }
  })

  it('has parts that are checked at the door', () => {
    for (const name of ['', 'Shop', '1shop', 'a_b', 'a'.repeat(13), 7, null]) {
      expect(() => checkDeployment(name), String(name)).toThrow(expect.objectContaining({ code: 'option-invalid' }))
    }
    for (const name of ['', 'N', 'a_b', 'a'.repeat(11), undefined]) {
      expect(() => checkNode(name), String(name)).toThrow(expect.objectContaining({ code: 'option-invalid' }))
    }
  })
})
