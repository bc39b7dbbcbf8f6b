// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/istiod-agent/istiod-agent/tools/internal/oci"
)

// build makes the image that a recipe describes: one layer with its files, for Linux on arch.
// The only time in it is created.
func build(recipe recipe, context fs.FS, arch string, created time.Time) (v1.Image, error) {
	content, err := layerContent(recipe.files, context, created)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	}, tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
	if err != nil {
		return nil, err
	}

	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	at := v1.Time{Time: created}
	image, err = mutate.Append(image, mutate.Addendum{Layer: layer, History: v1.History{Created: at, CreatedBy: "Dockerfile"}})
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", arch, at
	config.Config = v1.Config{User: recipe.user, Entrypoint: recipe.entrypoint, Labels: recipe.labels}
	return mutate.ConfigFile(image, config)
}

// layerContent is a tar with the files alone, owned by root.
func layerContent(files []file, context fs.FS, created time.Time) ([]byte, error) {
	var buffer bytes.Buffer
	writer := tar.NewWriter(&buffer)
	for _, file := range files {
		content, err := fs.ReadFile(context, file.source)
		if err != nil {
			return nil, fmt.Errorf("what COPY takes: %w", err)
		}
		err = oci.WriteFile(writer, strings.TrimPrefix(file.path, "/"), content, file.mode, created)
		if err != nil {
			return nil, err
		}
	}
	err := writer.Close()
	return buffer.Bytes(), err
}
