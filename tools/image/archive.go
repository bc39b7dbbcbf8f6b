// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// writeArchive writes an OCI image layout as one tar, which appears at path only when it is whole.
// docker load, podman load, ctr images import and kind load image-archive take it and know the image by its name.
func writeArchive(path string, image v1.Image, name string, created time.Time) (err error) {
	directory, err := os.MkdirTemp("", "image-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(directory) }()
	if err := writeLayout(directory, image, name); err != nil {
		return err
	}

	output, err := os.CreateTemp(filepath.Dir(path), ".image-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(output.Name())
		}
	}()
	err = writeTar(output, directory, created)
	if closeErr := output.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	if err := os.Chmod(output.Name(), 0o644); err != nil {
		return err
	}
	return os.Rename(output.Name(), path)
}

func writeLayout(directory string, image v1.Image, name string) error {
	index, err := layout.Write(directory, empty.Index)
	if err != nil {
		return err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return err
	}
	// Not index.AppendImage, which marks the image as an artifact of its configuration's type.
	if err := index.WriteImage(image); err != nil {
		return err
	}
	digest, err := image.Digest()
	if err != nil {
		return err
	}
	size, err := image.Size()
	if err != nil {
		return err
	}
	err = index.AppendDescriptor(v1.Descriptor{
		MediaType: types.OCIManifestSchema1,
		Size:      size,
		Digest:    digest,
		Platform:  &v1.Platform{OS: config.OS, Architecture: config.Architecture},
		Annotations: map[string]string{
			"org.opencontainers.image.ref.name": name, // podman
			"io.containerd.image.name":          name, // containerd and Docker
		},
	})
	if err != nil {
		return err
	}
	return writeDockerManifest(directory, image, name)
}

// writeDockerManifest adds the list that docker load reads where Docker does not keep its images in containerd.
// Other programs leave it aside.
func writeDockerManifest(directory string, image v1.Image, name string) error {
	blob := func(hash v1.Hash) string { return "blobs/" + hash.Algorithm + "/" + hash.Hex }
	manifest, err := image.Manifest()
	if err != nil {
		return err
	}
	var layers []string
	for _, layer := range manifest.Layers {
		layers = append(layers, blob(layer.Digest))
	}
	content, err := json.Marshal([]any{map[string]any{
		"Config":   blob(manifest.Config.Digest),
		"RepoTags": []string{name},
		"Layers":   layers,
	}})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(directory, "manifest.json"), content, 0o600)
}

// writeTar packs a directory's files in the order of their names.
func writeTar(output *os.File, directory string, modified time.Time) error {
	writer := tar.NewWriter(output)
	root := os.DirFS(directory)
	err := fs.WalkDir(root, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := fs.ReadFile(root, path)
		if err != nil {
			return err
		}
		return writeFile(writer, path, content, 0o644, modified)
	})
	if err != nil {
		return err
	}
	return writer.Close()
}
