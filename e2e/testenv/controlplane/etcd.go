// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"io/fs"
	"os"
	"path/filepath"
)

// Stored reports whether etcd's files hold a private key: its PEM or its DER, as they are or in base64. The files have what was
// deleted too, until etcd is compacted and defragmented.
func (c *ControlPlane) Stored(key []byte) (found bool, err error) {
	err = filepath.WalkDir(c.env.ControlPlane.Etcd.DataDir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, form := range forms(key) {
			found = found || bytes.Contains(content, form)
		}
		return nil
	})
	return found, err
}

// forms returns parts of a PEM key that are nowhere else, in each form in which it may be stored.
func forms(key []byte) (all [][]byte) {
	block, _ := pem.Decode(key)
	lines := bytes.Split(key, []byte("\n"))
	parts := [][]byte{block.Bytes, lines[1], lines[2]} // beyond the first line there is no header that other keys have
	for _, part := range parts {
		all = append(all, part)
		for shift := range 3 { // base64 of a text that it is a part of
			encoded := base64.RawStdEncoding.EncodeToString(part[shift:])
			all = append(all, []byte(encoded[:len(encoded)-3]))
		}
	}
	return all
}
