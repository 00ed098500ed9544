/** A line that shows how far a run is: a bar on a terminal, now and then a plain line elsewhere. Always on standard error. */
import { Presets, SingleBar } from 'cli-progress'
import { count, duration, type Terminal } from './terminal.ts'

export interface ProgressState {
  readonly done: number
  /** Milliseconds; NaN while unknown. */
  readonly p99Ms: number
  /** Anything else worth a few words. */
  readonly remark: string
}

export interface Progress {
  stop(): void
}

const drawMs = 100
/** Between two lines when nobody watches. */
const lineMs = 5_000
/** The shown rate is that of the last seconds, so that a stall can be seen. */
const rateWindowMs = 2_000

/** Shows `read()` until stopped. `total` is null when the end is not known. */
export function showProgress(terminal: Terminal, label: string, total: number | null, read: () => ProgressState): Progress {
  const rate = rateMeter()
  const text = (): string => {
    const { done, p99Ms, remark } = read()
    const parts = [total === null ? count(done) : `${count(done)}/${count(total)}`, `${count(rate(done))}/s`, `p99 ${duration(p99Ms)}`]
    return [...parts, remark].filter((part) => part !== '').join('   ')
  }
  if (!terminal.live) {
    const timer = setInterval(() => terminal.note(`${label}   ${text()}`), lineMs)
    return { stop: () => clearInterval(timer) }
  }
  const barSize = Math.max(10, Math.min(30, terminal.columns - 80))
  const format = total === null ? `  ${label}  {text}` : `  ${label}  {bar}   {percentage} %   {text}`
  const bar = new SingleBar(
    {
      format,
      barsize: barSize,
      barCompleteChar: '━',
      barIncompleteChar: '─',
      hideCursor: true,
      autopadding: true,
      linewrap: true,
      clearOnComplete: true,
      gracefulExit: false,
      stream: process.stderr,
    },
    Presets.legacy,
  )
  bar.start(total ?? 1, 0, { text: text() })
  const draw = (): void => bar.update(total === null ? 0 : Math.min(total, read().done), { text: text() })
  const timer = setInterval(draw, drawMs)
  return {
    stop() {
      clearInterval(timer)
      draw()
      bar.stop()
    },
  }
}

function rateMeter(): (done: number) => number {
  const samples: { readonly at: number; readonly done: number }[] = [{ at: performance.now(), done: 0 }]
  return (done) => {
    const at = performance.now()
    samples.push({ at, done })
    while (samples.length > 2 && at - (samples[1] as { at: number }).at > rateWindowMs) samples.shift()
    const first = samples[0] as { at: number; done: number }
    return at === first.at ? 0 : ((done - first.done) * 1000) / (at - first.at)
  }
}
