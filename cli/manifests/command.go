// SPDX-License-Identifier: Apache-2.0

// Package manifests is the injection on a person's machine, by the same engine and
// the same configuration file as the webhook: it reads manifests and writes
// manifests, and talks to no cluster.
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

// ErrWouldChange is the answer of --check when something would change.
var ErrWouldChange = errors.New("--check: not as it would be written")

// flags that inject and uninject share.
type flags struct {
	filenames []string
	recursive bool
	config    string
	output    string
	check     bool
}

func (f *flags) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&f.filenames, "filename", "f", nil, "manifest `file` to read, - for standard input, or a directory whose .yaml, .yml and .json files are read; may be repeated")
	cmd.Flags().BoolVarP(&f.recursive, "recursive", "R", false, "read directories below the given ones too")
	cmd.Flags().StringVarP(&f.output, "output", "o", "yaml", "`format` to write: yaml (the manifests), json (the same) or patch (one JSON patch a line for each istiod)")
	cmd.Flags().BoolVar(&f.check, "check", false, "write nothing; say what would change and exit with 1 when something would")
	_ = cmd.MarkFlagRequired("filename") // the flag exists: it was added above
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"yaml", "json", "patch"}, cobra.ShellCompDirectiveNoFileComp))
}

// InjectCommand is `inject`.
func InjectCommand() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "inject -f FILE",
		Short: "Inject the agent into the istiod of a stream of manifests",
		Long: `Injects the agent into each Deployment or Pod labelled app=istiod, exactly as
the webhook would. All else in the stream passes through unchanged. What was
done, and why, goes to standard error.

Exit codes: 0 done; 1 an error, and nothing was written; with --check also 1
when something would change.`,
		Example: `  # See what the webhook would do to Istio's chart
  helm template istiod istio/istiod -n istio-system | kubectl istiod-agent inject -f - >injected.yaml

  # In CI: fail when the committed manifests are not injected as configured
  kubectl istiod-agent inject --check -f manifests/ --config injection.yaml

  # The JSON patch for a Deployment that is already in the cluster
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
	cmd.Flags().StringVar(&f.config, "config", "", "the webhook's configuration `file` (default: its defaults)")
	return cmd
}

// UninjectCommand is `uninject`.
func UninjectCommand() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "uninject -f FILE",
		Short: "Take the agent out of the istiod of a stream of manifests",
		Long: `Takes out of each Deployment or Pod labelled app=istiod what was injected, and
puts back the volume that was replaced. All else in the stream passes through
unchanged. What was done goes to standard error.

Exit codes: as for inject.`,
		Example: `  # What istiod's Deployment looks like without the agent
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

// run reads everything, decides everything, and only then writes, so that a
// mistake anywhere leaves nothing half-written.
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
		fmt.Fprintln(cmd.ErrOrStderr(), "No istiod found: looked for a Deployment or Pod with the label app=istiod.")
	}
	if f.check {
		if changed {
			return ErrWouldChange
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
