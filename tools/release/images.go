// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/istiod-agent/istiod-agent/tools/internal/oci"
)

// architectures of the images.
var architectures = []string{"amd64", "arm64"}

// image joins the images of a name into an index, writes an SBOM for each of them, and returns the index's digest.
func (r *release) image(name string) (digest string, err error) {
	directory, err := os.MkdirTemp("", "release-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(directory) }()
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, architecture := range architectures {
		layout := filepath.Join(directory, architecture)
		if err := os.Mkdir(layout, 0o700); err != nil {
			return "", err
		}
		image, err := oci.ReadImage(filepath.Join(r.dist, name+"-"+r.tag+"-"+architecture+".tar"), layout)
		if err != nil {
			return "", err
		}
		platform := v1.Platform{OS: "linux", Architecture: architecture}
		if err := r.imageSBOM(name, image, platform); err != nil {
			return "", fmt.Errorf("%s: %w", architecture, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{
			MediaType: types.OCIManifestSchema1, Platform: &platform,
		}})
	}
	hash, err := index.Digest()
	if err != nil {
		return "", err
	}
	file := filepath.Join(r.dist, name+"-"+r.tag+".tar")
	if err := oci.WriteIndex(file, index, r.registry+"/"+name+":"+r.tag, r.created); err != nil {
		return "", err
	}
	_, err = fmt.Fprintln(r.say, file)
	return hash.String(), err
}

// imageSBOM writes the SBOM of an image, all of whose files it must know: programs, and the licences of each of them.
func (r *release) imageSBOM(name string, image v1.Image, platform v1.Platform) error {
	config, err := image.ConfigFile()
	if err != nil {
		return err
	}
	if config.OS != platform.OS || config.Architecture != platform.Architecture {
		return fmt.Errorf("the image is for %s/%s", config.OS, config.Architecture)
	}
	var programs []*program
	licences := map[string]bool{} // the programs that have them
	err = oci.Files(image, func(file string, content []byte) error {
		if path.Dir(file) == "licenses" && path.Ext(file) == ".txt" && len(content) > 0 {
			licences[path.Base(file[:len(file)-len(".txt")])] = true
			return nil
		}
		p, err := readProgram(file, content, platform.OS, platform.Architecture, "v"+r.tag)
		programs = append(programs, p)
		return err
	})
	if err != nil {
		return err
	}
	for _, p := range programs {
		if !licences[path.Base(p.file)] {
			return fmt.Errorf("no licences of %s: expected them in /licenses/%s.txt", p.file, path.Base(p.file))
		}
	}
	digest, err := image.Digest()
	if err != nil {
		return err
	}
	return r.sbom(name+"-"+r.tag+"-"+platform.Architecture, subject{
		name: r.registry + "/" + name, purpose: "CONTAINER", sha256: digest.Hex, purl: r.imagePURL(name, digest, platform),
	}, programs)
}
