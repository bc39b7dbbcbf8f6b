// SPDX-License-Identifier: Apache-2.0

// Command modules raises what the repository's Go modules share to one version each.
//
// A package is compiled once for all programs when it and all that it imports have equal versions: with different ones,
// a clean machine compiled Kubernetes' client and API packages six times. The servers of the tests are so built with versions
// as high as the product's, which may be higher than those they are shipped with.
//
// In go.mod files it writes versions alone, and lets `go mod tidy` do the rest.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
)

// rounds is how often raised versions may raise others.
const rounds = 5

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	root := flag.String("root", "..", "the repository's `FOLDER`")
	flag.Parse()
	if err := align(ctx, *root); err != nil {
		fmt.Fprintln(os.Stderr, "modules:", err)
		os.Exit(1)
	}
}

func align(ctx context.Context, root string) error {
	for range rounds {
		modules, err := read(root)
		if err != nil {
			return err
		}
		raises := lower(modules)
		if len(raises) == 0 {
			return nil
		}
		for _, folder := range slices.Sorted(maps.Keys(raises)) {
			fmt.Printf("%s: %d versions raised\n", folder, len(raises[folder]))
			arguments := []string{"mod", "edit"}
			for _, raise := range raises[folder] {
				arguments = append(arguments, "-require="+raise.path+"@"+raise.to)
			}
			if err := run(ctx, filepath.Join(root, folder), arguments...); err != nil {
				return err
			}
			if err := run(ctx, filepath.Join(root, folder), "mod", "tidy"); err != nil {
				return err
			}
		}
	}
	return errors.New("the versions still differ: run it again, or add what cannot be equal to the exceptions in tools/modules/versions.go")
}

func run(ctx context.Context, folder string, arguments ...string) error {
	command := exec.CommandContext(ctx, "go", arguments...) //nolint:gosec // versions of the repository's own go.mod files
	command.Dir = folder
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s %s in %s: %w\n%s", arguments[0], arguments[1], folder, err, output)
	}
	return nil
}
