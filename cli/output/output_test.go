// SPDX-License-Identifier: Apache-2.0

package output_test

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/istiod-agent/istiod-agent/cli/output"
)

func TestFormats(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"":     "for people",
		"wide": "for people",
		"json": "{\n  \"a\": \"<b>\"\n}\n",
		"yaml": "a: <b>\n",
		"xml":  `--output "xml": expected wide, json or yaml`,
	} {
		t.Run(given, func(t *testing.T) {
			t.Parallel()
			var flag output.Flag
			cmd := &cobra.Command{}
			flag.Add(cmd, "wide")
			if err := cmd.ParseFlags([]string{"-o", given}); err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			err := cmd.PreRunE(cmd, nil)
			if err == nil {
				err = flag.Write(&got, map[string]string{"a": "<b>"}, func(out io.Writer) { fmt.Fprint(out, "for people") })
			}
			if err != nil {
				got.WriteString(err.Error())
			}
			if got.String() != want {
				t.Errorf("got %q, want %q", &got, want)
			}
			if flag.Structured() != (given == "json" || given == "yaml") {
				t.Error("it is taken for one of the others")
			}
		})
	}
	if help := new(cobra.Command); !strings.Contains(usage(help), "wide, json or yaml") {
		t.Error(usage(help))
	}
}

func usage(cmd *cobra.Command) string {
	new(output.Flag).Add(cmd, "wide")
	return cmd.Flags().FlagUsages()
}
