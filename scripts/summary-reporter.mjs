/**
 * Ends a run with one plain line, `N passed, N failed, N skipped`, for readers
 * that know no test runner. A file that could not be loaded, and an error that
 * belongs to no test, count as failed: a broken run never reads as a clean one.
 */
export default class SummaryReporter {
  onTestRunEnd(modules, unhandledErrors, reason) {
    const counts = { passed: 0, failed: unhandledErrors.length, skipped: 0 }
    for (const module of modules) {
      let failures = 0
      for (const test of module.children.allTests()) {
        const { state } = test.result()
        if (state === 'passed') counts.passed++
        else if (state === 'failed') failures++
        else counts.skipped++
      }
      if (failures === 0 && module.state() === 'failed') failures = 1
      counts.failed += failures
    }
    if (reason !== 'passed' && counts.failed === 0) counts.failed = 1
    process.stdout.write(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped\n`)
  }
}
