// SPDX-License-Identifier: Apache-2.0

// Tests the built site in a real browser: npm run build && npm test
import assert from 'node:assert/strict'
import { readdir, readFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { extname, join, normalize } from 'node:path'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import AxeBuilder from '@axe-core/playwright'
import { chromium } from 'playwright-core'

const root = fileURLToPath(new URL('../dist/site/', import.meta.url))
const docs = new URL('../docs/', import.meta.url)
const types = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.json': 'application/json', '.svg': 'image/svg+xml' }

const pages = (await readdir(root)).filter((name) => name.endsWith('.html') && name !== '404.html')
const server = createServer(async (request, response) => {
  const path = normalize(decodeURIComponent(new URL(request.url, 'http://localhost').pathname))
  try {
    const content = await readFile(join(root, path.endsWith('/') ? path + 'index.html' : path))
    response.writeHead(200, { 'Content-Type': types[extname(path)] ?? 'text/html' }).end(content)
  } catch {
    response.writeHead(404).end()
  }
})
let browser, origin

before(async () => {
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
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
  assert.ok(pages.length >= 19, `${pages.length} pages`)
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
