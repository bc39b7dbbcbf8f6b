// SPDX-License-Identifier: Apache-2.0

// Package oci writes and reads archives of OCI image layouts: one tar for each image, or for an image of several platforms.
//
// The archives are byte for byte the same for the same images, names and time.
package oci

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

// WriteImage writes an archive with one image, which appears at path only when it is whole.
// docker load, podman load, ctr images import and kind load image-archive take it and know the image by its name.
func WriteImage(path string, image v1.Image, name string, created time.Time) error {
	return write(path, created, func(directory string) error { return layImage(directory, image, name) })
}

// WriteIndex writes an archive with the index of several images, one for each platform. ctr images import takes it, Docker
// too if it keeps its images in containerd, and a registry by `crane push` of the unpacked directory.
func WriteIndex(path string, index v1.ImageIndex, name string, created time.Time) error {
	return write(path, created, func(directory string) error {
		empty, err := layout.Write(directory, empty.Index)
		if err != nil {
			return err
		}
		return empty.AppendIndex(index, layout.WithAnnotations(names(name)))
	})
}

func write(path string, created time.Time, lay func(directory string) error) (err error) {
	directory, err := os.MkdirTemp("", "image-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(directory) }()
	if err := lay(directory); err != nil {
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

// names are the annotations by which programs know an image.
func names(name string) map[string]string {
	return map[string]string{
		"org.opencontainers.image.ref.name": name, // podman
		"io.containerd.image.name":          name, // containerd and Docker
	}
}

func layImage(directory string, image v1.Image, name string) error {
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
		MediaType:   types.OCIManifestSchema1,
		Size:        size,
		Digest:      digest,
		Platform:    &v1.Platform{OS: config.OS, Architecture: config.Architecture},
		Annotations: names(name),
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
		return WriteFile(writer, path, content, 0o644, modified)
	})
	if err != nil {
		return err
	}
	return writer.Close()
}

// WriteFile adds a file to a tar, owned by root.
func WriteFile(writer *tar.Writer, name string, content []byte, mode fs.FileMode, modified time.Time) error {
	err := writer.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg,
		Name:     name,
		Size:     int64(len(content)),
		Mode:     int64(mode.Perm()),
		ModTime:  modified,
		Format:   tar.FormatPAX,
	})
	if err != nil {
		return err
	}
	_, err = writer.Write(content)
	return err
}
