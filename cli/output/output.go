// SPDX-License-Identifier: Apache-2.0

// Package output is the --output flag: the same formats for every command.
package output

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/cli/exit"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
)

// The formats of every command, in addition to text.
const (
	jsonFormat = "json"
	yamlFormat = "yaml"
)

// Flag is --output.
type Flag struct {
	format  string
	formats []string
}

// Add registers the flag, and its check before the command runs; more are further text formats of the command.
func (f *Flag) Add(cmd *cobra.Command, more ...string) {
	f.formats = append(more, jsonFormat, yamlFormat)
	cmd.Flags().StringVarP(&f.format, "output", "o", "", "`format`: "+f.list()+" (default: text)")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(f.formats, cobra.ShellCompDirectiveNoFileComp))
	cmd.PreRunE = func(*cobra.Command, []string) error { return exit.Result(f.check(), false, false) }
}

func (f *Flag) check() error {
	if f.format == "" || slices.Contains(f.formats, f.format) {
		return nil
	}
	return fmt.Errorf("--output %q: expected %s", f.format, f.list())
}

// Is reports whether the flag has this value.
func (f *Flag) Is(format string) bool { return f.format == format }

// Structured reports whether the flag is JSON or YAML.
func (f *Flag) Structured() bool { return f.Is(jsonFormat) || f.Is(yamlFormat) }

func (f *Flag) list() string {
	last := len(f.formats) - 1
	return strings.Join(f.formats[:last], ", ") + " or " + f.formats[last]
}

// Write writes a value as JSON or YAML, or calls writeText, whose errors the terminal.Writer keeps.
func (f *Flag) Write(out io.Writer, value any, writeText func(io.Writer)) error {
	switch {
	case f.Is(jsonFormat):
		encoder := json.NewEncoder(out)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		return encoder.Encode(value)
	case f.Is(yamlFormat):
		text, err := json.Marshal(value)
		if err != nil {
			return err
		}
		// YAML leaves characters unescaped that a terminal must not get.
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
