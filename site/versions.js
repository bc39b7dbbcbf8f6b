// SPDX-License-Identifier: Apache-2.0

// Builds the documentation of every release: node versions.js [repository [output]]
//
// The newest release is at the root of the site, the newest patch of each minor version below its number, such as /v0.2/, so that
// links to it last, and the main branch below /main/. Without a release, the main branch is at the root. All are built by this site's own programs.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

// versions returns what the site consists of: the name in the menu, the commit, and the path below the root. Prereleases are
// left out.
export function versions(tags) {
  const releases = new Map() // the newest patch of each minor version
  for (const tag of tags) {
    const numbers = /^v(\d+)\.(\d+)\.(\d+)$/.exec(tag)?.slice(1).map(Number)
    if (!numbers) continue
    const name = `v${numbers[0]}.${numbers[1]}`
    if (!releases.has(name) || releases.get(name).numbers[2] < numbers[2]) {
      releases.set(name, { name, numbers, ref: tag })
    }
  }
  const sorted = [...releases.values()].sort((a, b) => b.numbers[0] - a.numbers[0] || b.numbers[1] - a.numbers[1])
  if (sorted.length === 0) {
    return [{ name: 'main', ref: 'HEAD', path: '' }]
  }
  return [
    { name: `newest (${sorted[0].name})`, ref: sorted[0].ref, path: '' },
    ...sorted.map(({ name, ref }) => ({ name, ref, path: `${name}/` })),
    { name: 'main', ref: 'HEAD', path: 'main/' },
  ]
}

// build builds one version. The folder of the documentation comes from its commit.
function build(repository, output, all, { name, ref, path }) {
  const folder = mkdtempSync(join(tmpdir(), 'docs-'))
  try {
    execFileSync('tar', ['-x', '-C', folder], { input: execFileSync('git', ['-C', repository, 'archive', ref, 'docs'], { maxBuffer: 1 << 28 }) })
    execFileSync('npx', ['--no-install', 'vitepress', 'build'], {
      cwd: fileURLToPath(new URL('.', import.meta.url)),
      stdio: ['ignore', 'ignore', 'inherit'],
      env: {
        ...process.env, VERSION: name, REF: ref === 'HEAD' ? 'main' : ref, DOCS: join(folder, 'docs'), OUTPUT: join(output, path),
        BASE: (process.env.BASE || '/') + path, VERSIONS: JSON.stringify(all.map((v) => ({ name: v.name, path: (path && '../') + (v.path || (path ? '' : './')) }))),
      },
    })
  } finally {
    rmSync(folder, { recursive: true })
  }
}

// buildAll builds all versions, the root first: it empties the output.
export function buildAll(repository, output) {
  const tags = execFileSync('git', ['-C', repository, 'tag', '--list', 'v*'], { encoding: 'utf8' }).split('\n')
  const all = versions(tags)
  for (const version of all) {
    console.log(`Building the documentation of ${version.name} (${version.ref}).`)
    build(repository, output, all, version)
  }
  return all
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const repository = resolve(process.argv[2] ?? fileURLToPath(new URL('..', import.meta.url)))
  buildAll(repository, resolve(process.argv[3] ?? join(repository, 'dist', 'site')))
}
