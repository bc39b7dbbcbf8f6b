// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io/fs"
	"path"
)

// archive is a tar.gz with what a platform's archive holds: the program, what completes its words, the licence.
func (p *packer) archive(platform string) ([]byte, error) {
	var buffer bytes.Buffer
	compressed, err := gzip.NewWriterLevel(&buffer, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	writer := tar.NewWriter(compressed) // the header of gzip names no file and no time
	for _, file := range []struct {
		source string
		mode   int64
	}{
		{"LICENSE", 0o644},
		{path.Join("bin", "plugin", platform, program), 0o755},
		{"cli/kubectl_complete-istiod_agent", 0o755},
	} {
		content, err := fs.ReadFile(p.root, file.source)
		if err != nil {
			return nil, err
		}
		if err := writer.WriteHeader(&tar.Header{
			Typeflag: tar.TypeReg, Name: path.Base(file.source), Size: int64(len(content)), Mode: file.mode, ModTime: p.created, Format: tar.FormatPAX,
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
