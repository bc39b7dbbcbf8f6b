// SPDX-License-Identifier: Apache-2.0

package testca_test

import (
	"crypto/x509"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/istiod-agent/istiod-agent/internal/testca"
)

func TestSign(t *testing.T) {
	t.Parallel()
	root := testca.Root("root")
	intermediate := root.Sign(testca.Authority("intermediate"), nil)
	leaf := intermediate.Sign(x509.Certificate{DNSNames: []string{"localhost"}}, nil)
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	if !roots.AppendCertsFromPEM(root.PEM()) || !intermediates.AppendCertsFromPEM(intermediate.PEM()) {
		t.Fatal("no certificate in PEM")
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, DNSName: "localhost"}); err != nil {
		t.Error(err)
	}
	if serials := []string{root.SerialNumber.String(), intermediate.SerialNumber.String(), leaf.SerialNumber.String()}; len(slices.Compact(slices.Sorted(slices.Values(serials)))) != 3 {
		t.Errorf("serial numbers %v, want different ones", serials)
	}
}

// Tests alone may depend on a package that panics.
func TestNoProgramImportsIt(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	files := 0
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() && (strings.HasPrefix(name, ".") && name != ".." || path == filepath.Join(root, "e2e")) {
			return fs.SkipDir
		}
		if filepath.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		files++
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, imported := range file.Imports {
			if strings.HasSuffix(imported.Path.Value, `/internal/testca"`) {
				t.Errorf("%s imports testca", path)
			}
		}
		return nil
	})
	if err != nil || files < 100 {
		t.Errorf("%d files read: %v", files, err)
	}
}
