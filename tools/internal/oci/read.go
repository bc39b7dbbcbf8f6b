// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// ReadImage returns the only image of an archive, which it unpacks into a directory. The directory must exist, and stay for
// as long as the image is used.
func ReadImage(archive, directory string) (v1.Image, error) {
	if err := unpack(archive, directory); err != nil {
		return nil, err
	}
	index, err := layout.ImageIndexFromPath(directory)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", archive, err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	if len(manifest.Manifests) != 1 {
		return nil, fmt.Errorf("%s has %d images; expected one", archive, len(manifest.Manifests))
	}
	return index.Image(manifest.Manifests[0].Digest)
}

// Files calls for each file of an image, layer by layer.
func Files(image v1.Image, call func(name string, content []byte) error) error {
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	for _, layer := range layers {
		if err := filesOf(layer, call); err != nil {
			return err
		}
	}
	return nil
}

func filesOf(layer v1.Layer, call func(name string, content []byte) error) (err error) {
	content, err := layer.Uncompressed()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	return eachFile(content, call)
}

func unpack(archive, directory string) (err error) {
	source, err := os.Open(archive) //nolint:gosec // a file of this build
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	return eachFile(source, func(name string, content []byte) error {
		if !filepath.IsLocal(name) {
			return fmt.Errorf("%s has a file outside of it: %s", archive, name)
		}
		file := filepath.Join(directory, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return err
		}
		return os.WriteFile(file, content, 0o600)
	})
}

func eachFile(source io.Reader, call func(name string, content []byte) error) error {
	for reader := tar.NewReader(source); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			return err
		}
		if err := call(header.Name, content); err != nil {
			return err
		}
	}
}
