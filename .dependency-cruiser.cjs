/**
 * Which folder may import which. Imports go one way, and types count as imports:
 *
 *   contracts, std  <-  parts, drivers, observe, testing  <-  pipeline  <-  server, cli
 *
 * Each rule lists what a folder may import; all else of src is refused. Tests
 * may import what they need, but nothing may import a test.
 */
const parts = 'queue|lock|cache|transaction|balancer'
const test = String.raw`\.(test|test-d)\.ts$`

/** Files of `folder` may import only `allowed` of src. Both are expressions below src/. */
function only(name, folder, allowed, comment) {
  return {
    name,
    comment,
    severity: 'error',
    from: { path: `^src/(?:${folder})/`, pathNot: test },
    to: { path: '^src/', pathNot: `^src/(?:${allowed})/` },
  }
}

/** The npm packages that a driver may import, by the folder of the driver. A driver without a line here may import none. */
const clients = {
  sqlite: '@photostructure/sqlite',
  postgres: 'pg',
  mysql: 'mysql2',
  redis: 'ioredis',
  rabbitmq: 'amqplib',
  memcached: 'memcache-client',
}

module.exports = {
  forbidden: [
    only('contracts-import-nothing', 'contracts', 'contracts', 'contracts is the ground: it imports nothing of ours.'),
    only('std-imports-nothing', 'std', 'std', 'std has no domain: it imports nothing of ours.'),
    ...parts
      .split('|')
      .map((part) =>
        only(
          `${part}-is-a-part`,
          part,
          `contracts|std|${part}`,
          'A part imports contracts and std, never another part, a driver or the pipeline.',
        ),
      ),
    {
      name: 'drivers-stand-alone',
      comment: 'A driver imports contracts, std and its own files, never a part or another driver.',
      severity: 'error',
      from: { path: '^src/drivers/([^/]+)/', pathNot: test },
      to: { path: '^src/', pathNot: '^src/(?:contracts|std|drivers/$1)/' },
    },
    only('observe-listens', 'observe', 'contracts|std|observe', 'observe hears of the parts through diagnostics channels alone.'),
    only('testing-knows-parts', 'testing', `contracts|std|testing|${parts}`, 'The published suites import contracts, std and parts.'),
    only(
      'pipeline-composes',
      'pipeline',
      `contracts|std|pipeline|drivers|${parts}`,
      'The pipeline imports parts; server, cli and observe import it.',
    ),
    only(
      'server-imports-pipeline',
      'server',
      `contracts|std|pipeline|observe|server|drivers`,
      'The server imports the pipeline and observe.',
    ),
    only(
      'cli-imports-pipeline',
      'cli',
      `contracts|std|pipeline|observe|server|cli|drivers|testing/servers|${parts}`,
      'The command line imports all but the suites of testing; the demo starts servers as tests do.',
    ),
    {
      name: 'drivers-are-loaded-by-name',
      comment: 'A driver is loaded by await import(), or by the import of the user, so that an app loads only the clients it uses.',
      severity: 'error',
      from: { path: '^src/(?:pipeline|server|cli)/', pathNot: test },
      to: { path: '^src/drivers/', dynamic: false },
    },
    {
      name: 'the-entry-has-the-embedded-driver',
      comment: 'src/index.ts composes the embedded default, whose client is a dependency; every other driver has an entry of its own.',
      severity: 'error',
      from: { path: '^src/index\\.ts$' },
      to: { path: '^src/drivers/', pathNot: '^src/drivers/sqlite/' },
    },
    {
      name: 'clients-belong-to-drivers',
      comment:
        'The client of an engine is imported by the driver of that engine. (The command line may read databases with SQL of its own.)',
      severity: 'error',
      from: { path: '^src/', pathNot: [test, '^src/drivers/', '^src/cli/'] },
      to: { path: `node_modules/(?:@types/)?(?:${Object.values(clients).join('|')})/` },
    },
    ...Object.entries(clients).map(([driver, client]) => ({
      name: `driver-${driver}-has-one-client`,
      comment: `The ${driver} driver imports ${client} and no other package.`,
      severity: 'error',
      from: { path: `^src/drivers/${driver}/`, pathNot: test },
      to: { path: 'node_modules/', pathNot: `node_modules/(?:@types/)?(?:${client}|node)/` },
    })),
    {
      name: 'other-drivers-have-no-client',
      comment: 'A new driver names its client in .dependency-cruiser.cjs.',
      severity: 'error',
      from: { path: '^src/drivers/[^/]+/', pathNot: [test, `^src/drivers/(?:${Object.keys(clients).join('|')})/`] },
      to: { path: 'node_modules/', pathNot: 'node_modules/@types/node/' },
    },
    {
      name: 'ground-has-no-packages',
      comment: 'contracts and std import no package, but for the types of Standard Schema.',
      severity: 'error',
      from: { path: '^src/(?:contracts|std)/', pathNot: test },
      to: { path: 'node_modules/', pathNot: 'node_modules/(?:@standard-schema/spec|@types/node)/' },
    },
    {
      name: 'no-circles',
      comment: 'Files that import each other in a circle cannot be read one at a time.',
      severity: 'error',
      from: {},
      to: { circular: true },
    },
    {
      name: 'tests-are-not-imported',
      comment: 'What two tests share goes into a file that is no test.',
      severity: 'error',
      from: {},
      to: { path: test },
    },
    {
      name: 'published-code-imports-published-code',
      comment: 'What is in src must run where only the package and its dependencies are installed.',
      severity: 'error',
      from: { path: '^src/', pathNot: test },
      to: { path: '^(?:bench|docs|examples|scripts|test)/' },
    },
    {
      name: 'published-code-has-its-packages',
      comment: 'A package that src imports is a dependency or a peer, not a tool of development.',
      severity: 'error',
      from: { path: '^src/', pathNot: test },
      to: { dependencyTypes: ['npm-dev', 'npm-no-pkg', 'npm-unknown'], dependencyTypesNot: ['npm-peer', 'npm-optional', 'type-only'] },
    },
    {
      name: 'dist-is-not-source',
      comment:
        'One copy of the package in a process: tests and sources import src, by path or as headrace. A .mjs file under test/ is a process of its own, which runs the build.',
      severity: 'error',
      from: { path: '^(?:src|test)/', pathNot: '^test/.*[.]mjs$' },
      to: { path: '^dist/' },
    },
    {
      name: 'examples-import-the-package',
      comment: 'Examples are written as users write: they import headrace and its subpaths.',
      severity: 'error',
      from: { path: '^examples/', pathNot: test },
      to: { path: '^src/' },
    },
    {
      name: 'benches-measure-the-package',
      comment:
        'Benches import headrace and its subpaths, so that figures are of what users run. The servers that they start may come from src.',
      severity: 'error',
      from: { path: '^bench/', pathNot: test },
      to: { path: '^src/', pathNot: '^src/testing/servers/' },
    },
    {
      name: 'imports-resolve',
      comment: 'An import that leads nowhere fails at run time.',
      severity: 'error',
      from: {},
      to: { couldNotResolve: true },
    },
  ],
  options: {
    doNotFollow: { path: ['node_modules', '^dist/'] },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    moduleSystems: ['es6'],
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['types', 'import', 'node', 'default'],
      mainFields: ['module', 'main', 'types'],
    },
  },
}
