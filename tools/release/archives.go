// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

const plugin = "kubectl-istiod_agent"

// pluginArchive writes the SBOM of an archive of the plugin, whose name ends with its platform: NAME-OS-ARCHITECTURE.tar.gz.
func (r *release) pluginArchive(file string) error {
	name := strings.TrimSuffix(filepath.Base(file), ".tar.gz")
	platform, _ := strings.CutPrefix(name, plugin+"-")
	system, architecture, ok := strings.Cut(platform, "-")
	if !ok {
		return fmt.Errorf("expected %s-OS-ARCHITECTURE.tar.gz", plugin)
	}
	archive, err := os.ReadFile(file) //nolint:gosec // a file of this build
	if err != nil {
		return err
	}
	files, err := unpack(archive)
	if err != nil {
		return err
	}
	for _, text := range []string{"LICENSE", "licenses.txt"} {
		if len(files[text]) == 0 {
			return fmt.Errorf("it has no %s", text)
		}
	}
	p, err := readProgram(plugin, files[plugin], system, architecture, "v"+r.tag)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(archive)
	return r.sbom(name, subject{
		name: filepath.Base(file), purpose: "ARCHIVE", sha256: hex.EncodeToString(sum[:]),
	}, []*program{p})
}

func unpack(archive []byte) (map[string][]byte, error) {
	uncompressed, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for reader := tar.NewReader(uncompressed); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		if files[header.Name], err = io.ReadAll(reader); err != nil {
			return nil, err
		}
	}
}
