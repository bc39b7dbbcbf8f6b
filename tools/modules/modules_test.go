// SPDX-License-Identifier: Apache-2.0

package main

import (
	"reflect"
	"testing"
)

// What the modules share has one version, so that each package is compiled once on a clean machine.
func TestEqualVersions(t *testing.T) {
	modules, err := read("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{".", "traffic", "e2e", "e2e/binaries/istio", "e2e/binaries/kubernetes", "e2e/binaries/vault"} {
		if modules[folder]["golang.org/x/sys"] == "" {
			t.Errorf("%s/go.mod was not read", folder)
		}
	}
	for folder, raises := range lower(modules) {
		for _, raise := range raises {
			t.Errorf("%s/go.mod has %s %s, another module %s: run `make modules`", folder, raise.path, raise.from, raise.to)
		}
	}
}

// An exception is listed only while it is one.
func TestExceptions(t *testing.T) {
	modules, err := read("../..")
	if err != nil {
		t.Fatal(err)
	}
	for path := range exceptions {
		found := map[string]bool{}
		for _, module := range modules {
			if version := module[path]; version != "" {
				found[version] = true
			}
		}
		if len(found) < 2 {
			t.Errorf("%s has one version: remove it from the exceptions", path)
		}
	}
}

func TestLower(t *testing.T) {
	got := lower(map[string]versions{
		"a": {"one": "v1.2.0", "two": "v1.0.0", "three": "v0.0.0-20250101000000-aaaaaaaaaaaa", "alone": "v1.0.0"},
		"b": {"one": "v1.10.0", "two": "v1.0.1-0.20250101000000-bbbbbbbbbbbb", "three": "v0.0.0-20260101000000-bbbbbbbbbbbb"},
	})
	want := map[string][]raise{"a": {
		{"one", "v1.2.0", "v1.10.0"},
		{"three", "v0.0.0-20250101000000-aaaaaaaaaaaa", "v0.0.0-20260101000000-bbbbbbbbbbbb"},
	}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("lower: %v, want %v", got, want)
	}
}
