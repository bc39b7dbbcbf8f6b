// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// The table stands between these lines.
const (
	tableBegin = "<!-- Generated from values.yaml by `make generate`. -->\n"
	tableEnd   = "<!-- End of the generated part. -->\n"
)

// writeTable replaces the table of values in a Markdown file.
func writeTable(file string, values []value) error {
	content, err := os.ReadFile(file) //nolint:gosec // a file of the repository
	if err != nil {
		return err
	}
	before, rest, found := bytes.Cut(content, []byte(tableBegin))
	_, after, foundEnd := bytes.Cut(rest, []byte(tableEnd))
	if !found || !foundEnd {
		return fmt.Errorf("%s: expected the lines %q and %q, for the table between them", file, tableBegin, tableEnd)
	}

	var table bytes.Buffer
	table.Write(before)
	table.WriteString(tableBegin + "\n| Value | Default | Description |\n| --- | --- | --- |\n")
	if err := writeRows(&table, values); err != nil {
		return err
	}
	table.WriteString("\n" + tableEnd)
	table.Write(after)
	return os.WriteFile(file, table.Bytes(), 0o644)
}

func writeRows(table *bytes.Buffer, values []value) error {
	for _, v := range values {
		if v.isGroup() {
			if err := writeRows(table, v.group); err != nil {
				return err
			}
			continue
		}
		shown := v.defaultText
		if shown == "" {
			decoded, err := v.decoded()
			if err != nil {
				return err
			}
			asJSON, err := json.Marshal(decoded)
			if err != nil {
				return err
			}
			shown = "`" + string(asJSON) + "`"
		}
		cell := strings.NewReplacer("|", `\|`)
		fmt.Fprintf(table, "| `%s` | %s | %s |\n", v.path, cell.Replace(shown), cell.Replace(v.description))
	}
	return nil
}
