// SPDX-License-Identifier: Apache-2.0

// Package a exports what b uses, and more.
package a

// Left is used by its own package alone.
func Left() string { return "left" }

// OnlyTested is used by this package's test alone.
const OnlyTested = 1

// Thing is used by b.
type Thing struct{}

// Used is called by b.
func (Thing) Used() string { return Left() }

// Unused has no caller.
func (Thing) Unused() {}

// String is asked for by fmt.Stringer.
func (Thing) String() string { return "thing" }

// Kind is the type of a field of Thing's result.
type Kind int

// The kinds.
const (
	Small Kind = iota
	Large
)

// Result is what Make gives: b never names it.
type Result struct{ Kind Kind }

// Make is called by b.
func Make() *Result { return &Result{Kind: Small} }
