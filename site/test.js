// SPDX-License-Identifier: Apache-2.0

// Tests the built site in a real browser: npm run build && npm test
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtemp, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { extname, join, normalize } from 'node:path'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import AxeBuilder from '@axe-core/playwright'
import { chromium } from 'playwright-core'

import { buildAll, versions } from './versions.js'

const root = fileURLToPath(new URL('../dist/site/', import.meta.url))
const docs = new URL('../docs/', import.meta.url)
const types = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.json': 'application/json', '.svg': 'image/svg+xml' }

const pages = (await readdir(root)).filter((name) => name.endsWith('.html') && name !== '404.html')
let browser, origin, server

// serve serves a folder, and returns the server.
async function serve(folder) {
  const server = createServer(async (request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url, 'http://localhost').pathname))
    try {
      const content = await readFile(join(folder, path.endsWith('/') ? path + 'index.html' : path))
      response.writeHead(200, { 'Content-Type': types[extname(path)] ?? 'text/html' }).end(content)
    } catch {
      response.writeHead(404).end()
    }
  })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  return server
}

before(async () => {
  server = await serve(root)
  origin = `http://127.0.0.1:${server.address().port}`
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-first-run'],
  })
})
after(async () => {
  await browser?.close()
  server.close()
})

// open loads a page, and requires that nothing fails in it or is loaded from elsewhere.
async function open(page, settings = {}) {
  const context = await browser.newContext(settings)
  const tab = await context.newPage()
  const problems = []
  tab.on('console', (message) => message.type() === 'error' && problems.push(message.text()))
  tab.on('pageerror', (error) => problems.push(String(error)))
  tab.on('request', (request) => request.url().startsWith(origin) || request.url().startsWith('data:') || problems.push(`loads ${request.url()}`))
  tab.on('response', (response) => response.ok() || problems.push(`${response.status()} ${response.url()}`))
  await tab.goto(`${origin}/${page}`, { waitUntil: 'networkidle' })
  return { tab, problems, close: () => context.close() }
}

test('pages render, and their links have a target', { timeout: 300_000 }, async () => {
  assert.ok(pages.length >= 28, `${pages.length} pages`)
  const anchors = new Map(), links = []
  for (const page of pages) {
    const { tab, problems, close } = await open(page)
    assert.deepEqual(problems, [], page)
    assert.ok(await tab.locator('h1').count() === 1, `${page} has a heading`)
    anchors.set(page, new Set(await tab.locator('[id]').evaluateAll((all) => all.map((e) => e.id))))
    for (const href of await tab.locator('a[href]').evaluateAll((all) => all.map((e) => e.href))) {
      links.push([page, href])
    }
    await close()
  }
  const dead = links.filter(([, href]) => {
    const url = new URL(href)
    if (url.origin !== origin) return false
    const ids = anchors.get(url.pathname.slice(1) || 'index.html')
    return !ids || (url.hash && !ids.has(decodeURIComponent(url.hash.slice(1))))
  })
  assert.deepEqual(dead, [])
})

test('the sidebar has every page', { timeout: 60_000 }, async () => {
  const { tab, close } = await open('index.html')
  const listed = await tab.locator('.VPSidebar a').evaluateAll((all) => all.map((e) => new URL(e.href).pathname.slice(1)))
  assert.deepEqual(listed.sort(), pages.filter((page) => page !== 'index.html').sort())
  await close()
})

for (const colorScheme of ['light', 'dark']) {
  test(`pages have no violation of WCAG A or AA in the ${colorScheme} form`, { timeout: 600_000 }, async () => {
    for (const page of pages) {
      const { tab, close } = await open(page, { colorScheme })
      const { violations } = await new AxeBuilder({ page: tab }).withTags(['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa']).analyze()
      assert.deepEqual(violations.map((v) => [v.id, v.nodes.length, v.nodes[0].html.slice(0, 200)]), [], page)
      await close()
    }
  })
}

test('pages fit a screen of 360 pixels', { timeout: 300_000 }, async () => {
  for (const page of pages) {
    const { tab, close } = await open(page, { viewport: { width: 360, height: 740 } })
    const width = await tab.evaluate(() => document.documentElement.scrollWidth)
    assert.ok(width <= 360, `${page} is ${width} pixels wide`)
    await close()
  }
})

test('the search finds every reason key', { timeout: 300_000 }, async () => {
  const text = await readFile(new URL('reasons.md', docs), 'utf8')
  const keys = [...text.matchAll(/^### (\w+)$/gm)].map((match) => match[1])
  assert.ok(keys.length > 100, `${keys.length} keys`)
  const { tab, close } = await open('index.html')
  await tab.keyboard.press('Control+k')
  const input = tab.locator('#localsearch-input')
  for (const key of keys) {
    await input.fill(key)
    await tab.locator('#localsearch-list .result mark', { hasText: new RegExp(`^${key}`, 'i') }).first().waitFor({ timeout: 10_000 })
      .catch(() => assert.fail(`the search does not find ${key}`))
  }
  await close()
})

test('versions are the newest patches of each minor version, and main', () => {
  assert.deepEqual(versions(['', 'other']), [{ name: 'main', ref: 'HEAD', path: '' }])
  assert.deepEqual(versions(['v0.9.0', 'v0.10.1', 'v0.10.0', 'v0.10.10', 'v1.0.0-rc.1', 'v0.9', 'v0.10.2']), [
    { name: 'newest (v0.10)', ref: 'v0.10.10', path: '' },
    { name: 'v0.10', ref: 'v0.10.10', path: 'v0.10/' },
    { name: 'v0.9', ref: 'v0.9.0', path: 'v0.9/' },
    { name: 'main', ref: 'HEAD', path: 'main/' },
  ])
})

test('the menu leads from each version to the others', { timeout: 600_000 }, async () => {
  const folder = await mkdtemp(join(tmpdir(), 'versions-'))
  const git = (...args) => execFileSync('git', ['-C', folder, '-c', 'user.name=test', '-c', 'user.email=test@example.com', ...args])
  let other
  try {
    await mkdir(join(folder, 'docs'))
    git('init', '-q')
    for (const ref of ['v0.1.0', 'main']) {
      await writeFile(join(folder, 'docs', 'index.md'), `# Documentation of ${ref}\n\n[LICENSE](../LICENSE)\n`)
      git('add', '.')
      git('commit', '-q', '-m', ref)
      if (ref !== 'main') git('tag', ref)
    }
    buildAll(folder, join(folder, 'out'))
    other = await serve(join(folder, 'out'))
    const at = `http://127.0.0.1:${other.address().port}/`
    const tab = await browser.newPage()
    for (const [start, ref] of [['', 'v0.1.0'], ['v0.1/', 'v0.1.0'], ['main/', 'main']]) {
      await tab.goto(at + start, { waitUntil: 'networkidle' })
      assert.match(await tab.locator('h1').innerText(), new RegExp(`^Documentation of ${ref}`))
      assert.match(await tab.locator('.vp-doc a', { hasText: 'LICENSE' }).getAttribute('href'), new RegExp(`/blob/${ref}/LICENSE$`))
      const menu = tab.locator('.VPNavBarMenuGroup')
      await menu.locator('button').hover()
      const found = await menu.locator('a').evaluateAll((all) => all.map((a) => [a.textContent.trim(), a.href]))
      assert.deepEqual(found.slice(0, 3), [['newest (v0.1)', at], ['v0.1', at + 'v0.1/'], ['main', at + 'main/']])
    }
    await tab.locator('.VPNavBarMenuGroup a', { hasText: /^v0.1/ }).click()
    await tab.waitForURL(at + 'v0.1/')
    await tab.close()
  } finally {
    other?.close()
    await rm(folder, { recursive: true })
  }
})
