// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io/fs"
	"path"
)

// archive returns a platform's archive: the program, the script that completes its words, the project's licence, and the
// licences of all that the program links.
func (p *packer) archive(platform string) ([]byte, error) {
	var buffer bytes.Buffer
	compressed, err := gzip.NewWriterLevel(&buffer, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	writer := tar.NewWriter(compressed) // the header of gzip names no file and no time
	for _, file := range []struct {
		source string
		name   string
		mode   int64
	}{
		{"LICENSE", "LICENSE", 0o644},
		{path.Join("bin", "plugin", platform, program+".licenses"), "licenses.txt", 0o644},
		{path.Join("bin", "plugin", platform, program), program, 0o755},
		{"cli/kubectl_complete-istiod_agent", "kubectl_complete-istiod_agent", 0o755},
	} {
		content, err := fs.ReadFile(p.root, file.source)
		if err != nil {
			return nil, err
		}
		if err := writer.WriteHeader(&tar.Header{
			Typeflag: tar.TypeReg, Name: file.name, Size: int64(len(content)), Mode: file.mode, ModTime: p.created, Format: tar.FormatPAX,
		}); err != nil {
			return nil, err
		}
		if _, err := writer.Write(content); err != nil {
			return nil, err
		}
	}
	if err := writer.Close(); err != nil {
		return nil, err
	}
	if err := compressed.Close(); err != nil {
		return nil, err
	}
	return buffer.Bytes(), nil
}
