// SPDX-License-Identifier: Apache-2.0

// Command release makes of the images and of the plugin's archives in dist/ what a release needs besides them:
//
//   - NAME-TAG.tar, the index of an image's platforms, and images.txt with the digests of all indexes;
//   - an SBOM of each image and of each archive of the plugin, as SPDX 2.3 in JSON;
//   - a copy of the chart's source that names these images by their digests, for `helm package`.
//
// It reads the finished files, not what they were built from, and it fails if one of them is for another platform, or lacks
// a licence. Its output is byte for byte the same for the same files, arguments and --created.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// release is a release's version and place.
type release struct {
	registry string
	tag      string
	created  time.Time
	dist     string // directory
	say      io.Writer
}

func run(args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("release", flag.ExitOnError)
	registry := flags.String("registry", "", "registry and repository of the images, as ghcr.io/istiod-agent")
	tag := flags.String("tag", "", "tag of the images and version of the chart, as 0.1.0")
	created := flags.Int64("created", 0, "time of creation, in seconds since 1970 (SOURCE_DATE_EPOCH)")
	dist := flags.String("dist", "dist", "directory with the images and archives, to which the rest is written")
	chart := flags.String("chart", "", "directory of the chart")
	staged := flags.String("staged-chart", "", "directory for the copy of the chart; replaced if it exists")
	_ = flags.Parse(args) // ExitOnError
	if *registry == "" || *tag == "" || *chart == "" || *staged == "" || flags.NArg() == 0 {
		return fmt.Errorf("usage: release --registry REGISTRY --tag TAG --chart DIRECTORY --staged-chart DIRECTORY IMAGES")
	}
	r := &release{registry: *registry, tag: *tag, created: time.Unix(*created, 0).UTC(), dist: *dist, say: stdout}

	digests := map[string]string{} // by the image's name
	var list strings.Builder
	for _, name := range flags.Args() {
		digest, err := r.image(name)
		if err != nil {
			return fmt.Errorf("image %s: %w", name, err)
		}
		digests[name] = digest
		fmt.Fprintf(&list, "%s/%s:%s@%s\n", r.registry, name, r.tag, digest)
	}
	if err := r.write("images.txt", []byte(list.String())); err != nil {
		return err
	}
	archives, err := filepath.Glob(filepath.Join(r.dist, "*.tar.gz"))
	if err != nil {
		return err
	}
	for _, archive := range archives {
		if err := r.pluginArchive(archive); err != nil {
			return fmt.Errorf("%s: %w", archive, err)
		}
	}
	if err := r.stageChart(*chart, *staged, digests); err != nil {
		return fmt.Errorf("chart: %w", err)
	}
	return nil
}

func (r *release) write(name string, content []byte) error {
	file := filepath.Join(r.dist, name)
	if err := os.WriteFile(file, content, 0o644); err != nil {
		return err
	}
	_, err := fmt.Fprintln(r.say, file)
	return err
}
