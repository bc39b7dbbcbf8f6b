// SPDX-License-Identifier: Apache-2.0

// Command release makes what a release needs besides the images and the plugin's archives in dist/. First, of the images:
//
//   - NAME-TAG.tar, the index of an image's platforms, and images.txt with the digests of all indexes;
//   - an SBOM of each image, as SPDX 2.3 in JSON.
//
// Then, with images.txt, and with the archives of a plugin that names an image by its digest:
//
//   - an SBOM of each archive;
//   - a copy of the chart's source that names the images by their digests, for `helm package`.
//
// It reads the finished files, not what they were built from, and it fails if one of them is for another platform, or lacks
// a licence. Its output is byte for byte the same for the same files, arguments and --created.
package main

import (
	"errors"
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
	if len(args) == 0 || args[0] != "images" && args[0] != "files" {
		return errUsage
	}
	flags := flag.NewFlagSet("release "+args[0], flag.ExitOnError)
	registry := flags.String("registry", "", "registry and repository of the images, as ghcr.io/istiod-agent")
	tag := flags.String("tag", "", "tag of the images and version of the chart, as 0.1.0")
	created := flags.Int64("created", 0, "time of creation, in seconds since 1970 (SOURCE_DATE_EPOCH)")
	dist := flags.String("dist", "dist", "directory with the images and archives, to which the rest is written")
	chart := flags.String("chart", "", "directory of the chart")
	staged := flags.String("staged-chart", "", "directory for the copy of the chart; replaced if it exists")
	_ = flags.Parse(args[1:]) // ExitOnError
	r := &release{registry: *registry, tag: *tag, created: time.Unix(*created, 0).UTC(), dist: *dist, say: stdout}
	switch {
	case *registry == "" || *tag == "":
		return errUsage
	case args[0] == "images" && flags.NArg() > 0:
		return r.images(flags.Args())
	case args[0] == "files" && *chart != "" && *staged != "":
		return r.files(*chart, *staged)
	}
	return errUsage
}

var errUsage = errors.New("usage: release images --registry REGISTRY --tag TAG IMAGES, or release files --registry REGISTRY --tag TAG --chart DIRECTORY --staged-chart DIRECTORY")

// list is the file with the images, one REGISTRY/NAME:TAG@DIGEST a line.
const list = "images.txt"

// images writes the index and the SBOMs of each image, and the list.
func (r *release) images(names []string) error {
	var lines strings.Builder
	for _, name := range names {
		digest, err := r.image(name)
		if err != nil {
			return fmt.Errorf("image %s: %w", name, err)
		}
		fmt.Fprintf(&lines, "%s/%s:%s@%s\n", r.registry, name, r.tag, digest)
	}
	return r.write(list, []byte(lines.String()))
}

// files writes the SBOMs of the archives, and the copy of the chart.
func (r *release) files(chart, staged string) error {
	digests, err := r.digests()
	if err != nil {
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
	if err := r.stageChart(chart, staged, digests); err != nil {
		return fmt.Errorf("chart: %w", err)
	}
	return nil
}

// digests reads the list: the digests of the images by their names.
func (r *release) digests() (map[string]string, error) {
	content, err := os.ReadFile(filepath.Join(r.dist, list))
	if err != nil {
		return nil, err
	}
	digests := map[string]string{}
	for line := range strings.Lines(string(content)) {
		reference, digest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "@")
		name, ours := strings.CutPrefix(strings.TrimSuffix(reference, ":"+r.tag), r.registry+"/")
		if !ours || digest == "" {
			return nil, fmt.Errorf("%s: expected %s/NAME:%s@DIGEST, got %q", list, r.registry, r.tag, line)
		}
		digests[name] = digest
	}
	return digests, nil
}

func (r *release) write(name string, content []byte) error {
	file := filepath.Join(r.dist, name)
	if err := os.WriteFile(file, content, 0o644); err != nil { //nolint:gosec // in a directory that is an argument
		return err
	}
	_, err := fmt.Fprintln(r.say, file)
	return err
}
