// SPDX-License-Identifier: Apache-2.0

// Package b uses a.
package b

import (
	"fmt"

	"example.test/module/a"
)

// Print is declared here and used nowhere: package main of a program would call it.
func print() { fmt.Println(a.Thing{}.Used(), a.Make()) }

var _ = print
