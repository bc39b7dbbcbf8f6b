// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"text/template"
	"time"
)

const (
	program  = "kubectl-istiod_agent"
	manifest = "istiod-agent.yaml" // krew wants the plugin's name
)

// packer writes a release's files.
type packer struct {
	root    fs.FS
	created time.Time
	output  string
	say     io.Writer
}

// release writes the manifest, and the archives that it names.
func (p *packer) release(version string) error {
	source, err := fs.ReadFile(p.root, ".krew.yaml")
	if err != nil {
		return err
	}
	tag := struct{ TagName string }{version}
	described, err := template.New(".krew.yaml").Funcs(template.FuncMap{
		// As in krew-release-bot: the address is a template itself, and what it gives stands in a list of platforms.
		"addURIAndSha": func(address, _ string) (string, error) {
			var uri strings.Builder
			parsed, err := template.New("uri").Parse(address)
			if err != nil {
				return "", err
			}
			if err := parsed.Execute(&uri, tag); err != nil {
				return "", err
			}
			digest, err := p.pack(path.Base(uri.String()))
			return fmt.Sprintf("uri: %s\n    sha256: %s", uri.String(), digest), err
		},
	}).Parse(string(source))
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := described.Execute(&text, tag); err != nil {
		return err
	}
	return p.write(manifest, text.Bytes())
}

// pack writes the archive of a platform, with its digest beside it in the form of sha256sum(1).
func (p *packer) pack(name string) (digest string, err error) {
	platform, archive := strings.CutSuffix(name, ".tar.gz")
	platform, ours := strings.CutPrefix(platform, program+"-")
	if !archive || !ours {
		return "", fmt.Errorf("%s: expected %s-<os>-<arch>.tar.gz", name, program)
	}
	content, err := p.archive(platform)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(content)
	digest = hex.EncodeToString(sum[:])
	if err := p.write(name, content); err != nil {
		return "", err
	}
	return digest, p.write(name+".sha256", []byte(digest+"  "+name+"\n"))
}

func (p *packer) write(name string, content []byte) error {
	file := filepath.Join(p.output, name)
	if err := os.WriteFile(file, content, 0o644); err != nil {
		return err
	}
	_, err := fmt.Fprintln(p.say, file)
	return err
}
