// SPDX-License-Identifier: Apache-2.0

// Command image builds one target of the Dockerfile into an OCI image archive, without Docker and without a registry.
//
// The Dockerfile is the only description of the images, so that Docker gives the same.
// The archive is byte for byte the same for the same binary, arguments and --created.
package main

import (
	"cmp"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/istiod-agent/istiod-agent/tools/internal/oci"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("image", flag.ExitOnError)
	context := flags.String("context", ".", "directory that COPY takes files from")
	path := flags.String("file", "", "Dockerfile (default: the one in the context)")
	target := flags.String("target", "", "stage of the Dockerfile to build")
	arch := flags.String("arch", "", "architecture that the image is for, as Go names it; TARGETARCH in the Dockerfile")
	name := flags.String("name", "", "full name under which the image is loaded, as registry/repository:tag")
	created := flags.Int64("created", 0, "time of creation, in seconds since 1970 (SOURCE_DATE_EPOCH)")
	output := flags.String("output", "", "archive to write")
	buildArgs := map[string]string{}
	flags.Func("build-arg", "NAME=VALUE for an ARG of the Dockerfile; may be repeated", func(arg string) error {
		key, value, found := strings.Cut(arg, "=")
		if !found {
			return fmt.Errorf("%q is not NAME=VALUE", arg)
		}
		buildArgs[key] = value
		return nil
	})
	_ = flags.Parse(args) // ExitOnError

	for _, required := range []string{"target", "arch", "name", "output"} {
		if flags.Lookup(required).Value.String() == "" {
			return fmt.Errorf("--%s is missing", required)
		}
	}
	buildArgs["TARGETARCH"] = *arch

	dockerfile, err := os.Open(cmp.Or(*path, filepath.Join(*context, "Dockerfile")))
	if err != nil {
		return err
	}
	defer func() { _ = dockerfile.Close() }()
	recipe, err := readRecipe(dockerfile, *target, buildArgs)
	if err != nil {
		return fmt.Errorf("%s: %w", dockerfile.Name(), err)
	}

	at := time.Unix(*created, 0).UTC()
	image, err := build(recipe, os.DirFS(*context), *arch, at)
	if err != nil {
		return err
	}
	digest, err := image.Digest()
	if err != nil {
		return err
	}
	if err := oci.WriteImage(*output, image, *name, at); err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "%s  %s@%s\n", *output, *name, digest)
	return err
}
