/**
 * Disks of a test's own, that can be filled, and that lose power.
 *
 * Both need the right to mount. Where it is missing the tests are skipped with
 * the reason in their name; a tool that a package brings must be there in CI.
 */
import { execFileSync, spawn } from 'node:child_process'
import { closeSync, fsyncSync, ftruncateSync, mkdirSync, mkdtempSync, openSync, rmSync, statfsSync, truncateSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

type AtEnd = (clean: () => void) => void

const imageBytes = 64 * 1024 ** 2
const pageBytes = 4096

/** Null when this machine lets a test mount a small disk in memory; else what is missing. */
export function whyNoSmallDisk(): string | null {
  return attempt(['mount:mount'], (atEnd) => void smallDisk(1024 ** 2, atEnd))
}

/** Null when this machine lets a test cut the power of a disk; else what is missing. */
export function whyNoPowerCut(): string | null {
  return attempt(['mount:mount', 'mkfs.ext4:e2fsprogs', 'perl:perl-base'], (atEnd) => {
    const disk = new Disk(atEnd)
    execFileSync('perl', ['-e', shutdown, disk.folder], { input: '\n', stdio: ['pipe', 'pipe', 'pipe'] })
    disk.powerOn()
  })
}

/** Null when a program may be run under strace here; else what is missing. */
export function whyNoStrace(): string | null {
  return attempt(['strace:strace'], () => void execFileSync('strace', ['-f', '-o', '/dev/null', 'true'], { stdio: 'pipe' }), false)
}

/** The end of the name of a group of tests. */
export function because(why: string | null): string {
  if (why !== null) console.warn(`skipped: ${why}`)
  return why === null ? '' : ` (skipped: ${why})`
}

function attempt(tools: readonly string[], action: (atEnd: AtEnd) => void, asRoot = true): string | null {
  if (process.platform !== 'linux') return 'this needs Linux'
  if (asRoot && process.getuid?.() !== 0) return 'this needs root'
  for (const [program = '', debian] of tools.map((tool) => tool.split(':'))) {
    if (isThere(program)) continue
    if (process.env['CI']) throw new Error(`${program} is missing: install the Debian package ${debian}.`)
    return `${program} is missing; the Debian package ${debian} brings it`
  }
  const cleanings: (() => void)[] = []
  try {
    action((clean) => cleanings.push(clean))
    return null
  } catch (error) {
    const { stderr, message } = error as Error & { readonly stderr?: Buffer }
    return `this machine does not allow it: ${(stderr?.toString().trim() || message).split('\n')[0]}`
  } finally {
    for (const clean of cleanings.reverse()) clean()
  }
}

function isThere(program: string): boolean {
  const folders = [...(process.env['PATH'] ?? '').split(':'), '/usr/sbin', '/sbin']
  return folders.some((folder) => {
    try {
      execFileSync('test', ['-x', join(folder, program)])
      return true
    } catch {
      return false
    }
  })
}

function run(program: string, ...args: readonly string[]): void {
  execFileSync(program, args, { stdio: 'pipe', env: { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` } })
}

/** A folder on a disk in memory of so many bytes. */
export function smallDisk(bytes: number, atEnd: AtEnd): string {
  const folder = mkdtempSync(join(tmpdir(), 'headrace-disk-'))
  atEnd(() => rmSync(folder, { recursive: true, force: true }))
  run('mount', '-t', 'tmpfs', '-o', `size=${bytes}`, 'headrace-test', folder)
  atEnd(() => run('umount', '-l', folder))
  return folder
}

/** Takes the space of a disk but so many bytes. Returns the way back. */
export function fill(folder: string, leaveBytes: number): () => void {
  const path = join(folder, 'ballast')
  const file = openSync(path, 'w')
  let written = 0
  try {
    for (const size of [64 * 1024, pageBytes]) {
      const piece = Buffer.alloc(size, 1)
      while (statfsSync(folder).bavail * statfsSync(folder).bsize >= size) written += writeSync(file, piece)
    }
    ftruncateSync(file, Math.max(0, written - leaveBytes))
    fsyncSync(file)
  } finally {
    closeSync(file)
  }
  return () => rmSync(path, { force: true })
}

/** EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH: from now on nothing reaches the disk, what is in memory neither. */
const shutdown = `
use Fcntl;
sysopen(my $folder, $ARGV[0], O_RDONLY | O_DIRECTORY) or die "open: $!\\n";
$| = 1;
print "there\\n";
<STDIN>;
my $flag = pack("L", 2);
ioctl($folder, 0x8004587d, $flag) or die "ioctl: $!\\n";
print "cut\\n";`

/** A disk that keeps through a power cut what was synced, and nothing that is sure beyond that. */
export class Disk {
  readonly folder: string
  readonly #image: string

  constructor(atEnd: AtEnd) {
    const home = mkdtempSync(join(tmpdir(), 'headrace-power-'))
    this.folder = join(home, 'disk')
    this.#image = join(home, 'image')
    atEnd(() => rmSync(home, { recursive: true, force: true }))
    mkdirSync(this.folder)
    closeSync(openSync(this.#image, 'w'))
    truncateSync(this.#image, imageBytes)
    run('mkfs.ext4', '-q', '-F', this.#image)
    this.#mount()
    atEnd(() => run('umount', '-l', this.folder))
  }

  /** Resolves to what cuts the power, at once: it is all prepared. */
  async switch(): Promise<() => Promise<void>> {
    const perl = spawn('perl', ['-e', shutdown, this.folder], { stdio: ['pipe', 'pipe', 'inherit'] })
    const said = createInterface({ input: perl.stdout })[Symbol.asyncIterator]()
    const ended = new Promise<number | null>((resolve) => perl.on('close', resolve))
    if ((await said.next()).value !== 'there') throw new Error('The power switch did not start.')
    return async () => {
      perl.stdin.end('\n')
      const { value } = await said.next()
      const code = await ended
      if (value !== 'cut' || code !== 0) throw new Error(`The power was not cut: ${String(value)}, code ${code}`)
    }
  }

  /** Power comes back: the disk is what it was at the cut. Nothing may use it any more. */
  powerOn(): void {
    run('umount', this.folder)
    this.#mount()
  }

  #mount(): void {
    run('mount', '-o', 'loop', this.#image, this.folder)
  }
}
