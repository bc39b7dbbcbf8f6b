// SPDX-License-Identifier: Apache-2.0

// Package output has every command write what it found in the same formats.
package output

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/cli/terminal"
)

// The formats that every command knows, besides the one for people.
const (
	JSON = "json"
	YAML = "yaml"
)

// Flag is --output.
type Flag struct {
	format string
	known  []string
}

// Add registers the flag; more are formats for people that the command knows besides.
func (f *Flag) Add(cmd *cobra.Command, more ...string) {
	f.known = append(more, JSON, YAML)
	cmd.Flags().StringVarP(&f.format, "output", "o", "", "`format`: "+f.list()+" (default: for people)")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(f.known, cobra.ShellCompDirectiveNoFileComp))
}

// Check says what is wrong with the flag's value.
func (f *Flag) Check() error {
	if f.format == "" || slices.Contains(f.known, f.format) {
		return nil
	}
	return fmt.Errorf("--output %q: expected %s", f.format, f.list())
}

// Is says whether a format is asked for.
func (f *Flag) Is(format string) bool { return f.format == format }

// ForPrograms says whether JSON or YAML is.
func (f *Flag) ForPrograms() bool { return f.Is(JSON) || f.Is(YAML) }

func (f *Flag) list() string {
	last := len(f.known) - 1
	return strings.Join(f.known[:last], ", ") + " or " + f.known[last]
}

// Write writes what was found for programs, or has it written for people. An error of the latter is the terminal.Writer's.
func (f *Flag) Write(out io.Writer, found any, forPeople func(io.Writer)) error {
	switch {
	case f.Is(JSON):
		encoder := json.NewEncoder(out)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		return encoder.Encode(found)
	case f.Is(YAML):
		text, err := json.Marshal(found)
		if err != nil {
			return err
		}
		// YAML takes more characters as they are than a terminal may get.
		if text, err = yaml.JSONToYAML([]byte(terminal.PlainJSON(string(text)))); err != nil {
			return err
		}
		_, err = out.Write(text)
		return err
	default:
		forPeople(out)
		return nil
	}
}
