// SPDX-License-Identifier: Apache-2.0

// The documentation site: the pages of docs/, as they are on GitHub.
import { fileURLToPath } from 'node:url'
import { defineConfig } from 'vitepress'

const repository = 'https://github.com/istiod-agent/istiod-agent'
const icon = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="6" fill="#0969da"/><g fill="none" stroke="#fff" stroke-width="3"><circle cx="11" cy="16" r="5"/><path d="M16 16h11v5M22 16v4"/></g></svg>`
const version = process.env.VERSION || 'main'

// A page links to a file outside docs/ by its path in the repository.
function repositoryLinks(md) {
  md.core.ruler.push('repository-links', (state) => {
    for (const block of state.tokens) {
      for (const token of block.children ?? []) {
        const href = token.type === 'link_open' && token.attrGet('href')
        if (href && href.startsWith('../')) {
          token.attrSet('href', `${repository}/blob/main/${href.slice(3)}`)
          token.attrSet('target', '_blank')
          token.attrSet('rel', 'noreferrer')
        }
      }
    }
  })
}

export default defineConfig({
  title: 'istiod-agent',
  description: "Istio's CA from Vault or cert-manager, with its key in memory only",
  lang: 'en',
  // A key in a square: without an icon of its own, a browser asks for one that is not there.
  head: [['link', { rel: 'icon', type: 'image/svg+xml', href: `data:image/svg+xml,${encodeURIComponent(icon)}` }]],
  base: process.env.BASE || '/',
  srcDir: '../docs',
  outDir: '../dist/site',
  // The pages are outside the folder of the modules.
  vite: { resolve: { alias: { vue: fileURLToPath(new URL('../node_modules/vue', import.meta.url)) } } },
  // GitHub's own heading ids, which the pages link to.
  markdown: {
    anchor: { slugify: githubSlug },
    config: repositoryLinks,
    theme: { light: 'github-light-high-contrast', dark: 'github-dark-high-contrast' },
  },
  themeConfig: {
    nav: [
      { text: 'Documentation', link: '/' },
      { text: version, items: [{ text: 'Releases', link: `${repository}/releases` }, { text: 'Changes', link: `${repository}/blob/main/CHANGELOG.md` }] },
    ],
    sidebar: [
      { text: 'Begin', items: pages({ 'try-it': 'Try it', concepts: 'Concepts', comparison: 'Comparison', faq: 'Questions and answers' }) },
      {
        text: 'Set up',
        items: pages({ 'ca-sources': 'CA sources', vault: 'Vault', 'cert-manager': 'cert-manager', install: 'Install', 'virtual-mesh': 'VirtualMesh', multicluster: 'Several clusters', 'trust-bundles': 'Trust bundles', gitops: 'Argo CD and Flux', platforms: 'Platforms' }),
      },
      {
        text: 'Operate',
        items: pages({ 'command-line': 'The command line', monitoring: 'Monitoring', troubleshooting: 'Troubleshooting', reasons: 'Reasons', rotation: 'Changing the root of trust', restarts: 'Restarts', upgrade: 'Upgrade and roll back', uninstall: 'Uninstall' }),
      },
      { text: 'Reference', items: pages({ api: 'API', configuration: 'Configuration file', agent: 'The agent', security: 'Security', compatibility: 'Compatibility', 'verify-release': 'Verify a release' }) },
    ],
    outline: [2, 3],
    search: { provider: 'local', options: { detailedView: true } },
    editLink: { pattern: `${repository}/edit/main/docs/:path`, text: 'Edit this page' },
    socialLinks: [{ icon: 'github', link: repository }],
  },
})

function pages(titles) {
  return Object.entries(titles).map(([page, text]) => ({ text, link: `/${page}` }))
}

// githubSlug is the id that GitHub gives a heading.
function githubSlug(text) {
  return text.trim().toLowerCase().replace(/[^\p{L}\p{N}\s_-]/gu, '').replace(/\s/g, '-')
}
