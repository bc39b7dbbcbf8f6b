// SPDX-License-Identifier: Apache-2.0

// Command krew packs the kubectl plugin for each platform, and writes the manifest that krew installs it by.
//
// .krew.yaml is the only description of the platforms. The archives are byte for byte the same for the same programs and
// --created.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "krew:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("krew", flag.ExitOnError)
	root := flags.String("root", ".", "top of the repository, with .krew.yaml, LICENSE and bin/")
	version := flags.String("version", "", "release, as v0.1.0")
	created := flags.Int64("created", 0, "time of the files in the archives, in seconds since 1970 (SOURCE_DATE_EPOCH)")
	output := flags.String("output", "dist", "directory to write to")
	_ = flags.Parse(args) // ExitOnError
	if *version == "" {
		return fmt.Errorf("--version is missing")
	}
	if err := os.MkdirAll(*output, 0o755); err != nil {
		return err
	}
	p := &packer{root: os.DirFS(*root), created: time.Unix(*created, 0).UTC(), output: *output, say: stdout}
	return p.release(*version)
}
