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
	format  string
	formats []string
}

// Add registers the flag; more are formats for people that the command knows besides.
func (f *Flag) Add(cmd *cobra.Command, more ...string) {
	f.formats = append(more, JSON, YAML)
	cmd.Flags().StringVarP(&f.format, "output", "o", "", "`format`: "+f.list()+" (default: for people)")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(f.formats, cobra.ShellCompDirectiveNoFileComp))
}

// Check says what is wrong with the flag's value.
func (f *Flag) Check() error {
	if f.format == "" || slices.Contains(f.formats, f.format) {
		return nil
	}
	return fmt.Errorf("--output %q: expected %s", f.format, f.list())
}

// Is says whether a format is asked for.
func (f *Flag) Is(format string) bool { return f.format == format }

// ForPrograms says whether JSON or YAML is.
func (f *Flag) Structured() bool { return f.Is(JSON) || f.Is(YAML) }

func (f *Flag) list() string {
	last := len(f.formats) - 1
	return strings.Join(f.formats[:last], ", ") + " or " + f.formats[last]
}

// Write writes what was found for programs, or has it written for people. An error of the latter is the terminal.Writer's.
func (f *Flag) Write(out io.Writer, value any, writeText func(io.Writer)) error {
	switch {
	case f.Is(JSON):
		encoder := json.NewEncoder(out)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		return encoder.Encode(value)
	case f.Is(YAML):
		text, err := json.Marshal(value)
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
		writeText(out)
		return nil
	}
}
