// SPDX-License-Identifier: Apache-2.0

// Command chart generates what follows from the Helm chart: the schema of its
// values and their table in the README, both from the comments in values.yaml, and
// the same installation for kustomize, in config/. The CRDs go the other way: from
// config/crd into the chart's templates.
//
// A value's comment describes its purpose. It may contain two kinds of directives:
//
//	# @schema {enum: [a, b]}    JSON schema keywords, in YAML
//	# @default the release      what the table shows in place of the default
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	root := flag.String("root", ".", "top of the repository")
	flag.Parse()
	if err := generate(*root); err != nil {
		fmt.Fprintln(os.Stderr, "chart:", err)
		os.Exit(1)
	}
}

func generate(root string) error {
	chart := filepath.Join(root, "charts", "istiod-agent")
	values, err := readValues(filepath.Join(chart, "values.yaml"))
	if err != nil {
		return err
	}
	if err := writeSchema(filepath.Join(chart, "values.schema.json"), values); err != nil {
		return err
	}
	if err := writeTable(filepath.Join(chart, "README.md"), values); err != nil {
		return err
	}
	config := filepath.Join(root, "config")
	if err := writeCRDs(config, chart); err != nil {
		return err
	}
	return writeManifests(config, chart)
}
