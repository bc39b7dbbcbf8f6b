// SPDX-License-Identifier: Apache-2.0

// Command licenses writes the licence texts of a program into one file: the product's, Go's, and those of every module
// that the program links.
//
// It fails when a module has no licence, so that no program is released without one. The file is byte for byte the same
// for the same program.
package main

import (
	"context"
	"debug/buildinfo"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "licenses:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("licenses", flag.ExitOnError)
	root := flags.String("root", ".", "directory of the program's module")
	output := flags.String("output", "", "file to write")
	_ = flags.Parse(args) // ExitOnError
	if *output == "" || flags.NArg() != 1 {
		return fmt.Errorf("usage: licenses --root DIRECTORY --output FILE PROGRAM")
	}

	program, err := buildinfo.ReadFile(flags.Arg(0))
	if err != nil {
		return err
	}
	modules, err := linkedModules(ctx, *root, program)
	if err != nil {
		return err
	}
	texts, err := licenceTexts(modules)
	if err != nil {
		return err
	}
	content, err := render(filepath.Base(program.Path), modules, texts)
	if err != nil {
		return err
	}
	return os.WriteFile(*output, content, 0o644)
}
