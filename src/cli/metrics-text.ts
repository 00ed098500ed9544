/** Reads the text of /metrics, as Prometheus writes it: https://prometheus.io/docs/instrumenting/exposition_formats/ */
export interface MetricSample {
  readonly name: string
  readonly labels: Readonly<Record<string, string>>
  readonly value: number
}

/** The samples whose names begin with `prefix`; lines that are none are left out. */
export function samplesIn(text: string, prefix: string): MetricSample[] {
  const samples: MetricSample[] = []
  for (const line of text.split('\n')) {
    if (!line.startsWith(prefix)) continue
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line)
    if (match === null) continue
    const [, name = '', labels = '', value = ''] = match
    samples.push({ name, labels: labelsIn(labels), value: Number(value) })
  }
  return samples
}

function labelsIn(text: string): Record<string, string> {
  const labels: Record<string, string> = {}
  for (const [, name = '', value = ''] of text.matchAll(/([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g))
    labels[name] = value.replace(/\\(.)/g, (_, sign: string) => (sign === 'n' ? '\n' : sign))
  return labels
}
