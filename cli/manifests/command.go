// SPDX-License-Identifier: Apache-2.0

// Package manifests injects the agent into manifests, with the engine and the
// configuration file of the webhook. It connects to no cluster.
package manifests

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/cli/files"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
	"github.com/istiod-agent/istiod-agent/patches"
)

// errWouldChange is the result of --check for manifests that would change.
var errWouldChange = errors.New("--check: the manifests would change")

// flags that inject and uninject share.
type flags struct {
	filenames []string
	recursive bool
	config    string
	output    string
	check     bool
}

func (f *flags) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&f.filenames, "filename", "f", nil, "manifest `file` to read, - for standard input, or a directory with .yaml, .yml and .json files; may be repeated")
	cmd.Flags().BoolVarP(&f.recursive, "recursive", "R", false, "read subdirectories too")
	cmd.Flags().StringVarP(&f.output, "output", "o", "yaml", "output `format`: yaml, json or patch (one JSON patch per line for each istiod)")
	cmd.Flags().BoolVar(&f.check, "check", false, "print what would change, without output; exit with 1 if anything would change")
	_ = cmd.MarkFlagRequired("filename") // the flag exists
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"yaml", "json", "patch"}, cobra.ShellCompDirectiveNoFileComp))
}

// InjectCommand is `inject`.
func InjectCommand() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "inject -f FILE",
		Short: "Inject the agent into the istiods in manifests",
		Long: `Injects the agent into each Deployment or Pod labelled app=istiod, exactly as the
webhook does. Other objects pass through unchanged. The changes and their reasons go to
standard error.

Exit codes: 0 done; 1 an error, without output; with --check also 1 if anything would
change.`,
		Example: `  # Show what the webhook does to Istio's chart
  helm template istiod istio/istiod -n istio-system | kubectl istiod-agent inject -f - >injected.yaml

  # In CI: fail if the committed manifests are not injected as configured
  kubectl istiod-agent inject --check -f manifests/ --config injection.yaml

  # Print the JSON patch for a Deployment in the cluster
  kubectl get -n istio-system deployment istiod -o yaml | kubectl istiod-agent inject -f - -o patch`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := f.configuration()
			if err != nil {
				return err
			}
			injector, err := patches.New(config)
			if err != nil {
				return err
			}
			return f.run(cmd, injector.Inject)
		},
	}
	f.add(cmd)
	cmd.Flags().StringVar(&f.config, "config", "", "configuration `file` of the webhook (default: its default configuration)")
	return cmd
}

// UninjectCommand is `uninject`.
func UninjectCommand() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "uninject -f FILE",
		Short: "Remove the agent from the istiods in manifests",
		Long: `Removes the injected agent from each Deployment or Pod labelled app=istiod, and
restores the volume that it replaced. Other objects pass through unchanged. The changes
go to standard error.

Exit codes: as for inject.`,
		Example: `  # Show istiod's Deployment without the agent
  kubectl get -n istio-system deployment istiod -o yaml | kubectl istiod-agent uninject -f -`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd, patches.Uninject)
		},
	}
	f.add(cmd)
	return cmd
}

func (f *flags) configuration() (*v1alpha1.InjectionConfiguration, error) {
	if f.config == "" {
		return v1alpha1.Default(), nil
	}
	content, err := files.Read(f.config, files.MaxSmall)
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	config, err := v1alpha1.Decode(content)
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", f.config, err)
	}
	return config, nil
}

// run reads and decides everything before it writes, so that an error leaves no
// partial output.
func (f *flags) run(cmd *cobra.Command, decide decision) error {
	printer, known := printers[f.output]
	if !known {
		return fmt.Errorf("--output: expected yaml, json or patch, got %q", f.output)
	}
	documents, err := readAll(f.filenames, f.recursive, cmd.InOrStdin())
	if err != nil {
		return err
	}
	changed, found := false, false
	for i := range documents {
		if err := documents[i].apply(decide, f.check, cmd.ErrOrStderr()); err != nil {
			return err
		}
		changed = changed || documents[i].changed()
		found = found || documents[i].decided()
	}
	if !found {
		fmt.Fprintln(cmd.ErrOrStderr(), "No istiod found (a Deployment or Pod with the label app=istiod).")
	}
	if f.check {
		if changed {
			return errWouldChange
		}
		return nil
	}
	var out bytes.Buffer
	if err := printer(documents, &out); err != nil {
		return err
	}
	_, err = out.WriteTo(terminal.Data(cmd.OutOrStdout()))
	return err
}
