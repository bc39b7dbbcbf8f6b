// SPDX-License-Identifier: Apache-2.0

package cli

import (
	_ "embed" // of the script
	"io"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// completeScript is what kubectl asks for the words of a plugin, found in PATH as kubectl_complete-<plugin> (kubectl
// pkg/cmd/plugin/plugin_completion.go).
//
//go:embed kubectl_complete-istiod_agent
var completeScript string

// addCompletion completes file names for the flags that take a file, and nowhere else. All other commands must have been
// added before.
func addCompletion(root *cobra.Command) {
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	for _, cmd := range root.Commands() {
		cmd.Flags().VisitAll(func(flag *pflag.Flag) {
			if takes, _ := pflag.UnquoteUsage(flag); takes == "file" {
				_ = cmd.RegisterFlagCompletionFunc(flag.Name, cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault)) // the flag exists
			}
		})
	}
	root.AddCommand(completionCommand())
}

func completionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "completion",
		Short: "Print what completes this command's words in a shell",
		Long: `Prints what completes this command's words in a shell. As a plugin of kubectl it needs
the one for kubectl; the others are for calling kubectl-istiod_agent by its own name.`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(completionForKubectl())
	for shell, generate := range map[string]func(root *cobra.Command, out io.Writer) error{
		"bash":       func(root *cobra.Command, out io.Writer) error { return root.GenBashCompletionV2(out, true) },
		"zsh":        func(root *cobra.Command, out io.Writer) error { return root.GenZshCompletion(out) },
		"fish":       func(root *cobra.Command, out io.Writer) error { return root.GenFishCompletion(out, true) },
		"powershell": func(root *cobra.Command, out io.Writer) error { return root.GenPowerShellCompletionWithDesc(out) },
	} {
		cmd.AddCommand(&cobra.Command{
			Use: shell, Short: "Print the script for " + shell, Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return generate(cmd.Root(), cmd.OutOrStdout()) },
		})
	}
	return cmd
}

func completionForKubectl() *cobra.Command {
	return &cobra.Command{
		Use:   "kubectl",
		Short: "Print the program by which kubectl completes this plugin's words",
		Long: `Prints the program by which kubectl, from 1.26 on, completes this plugin's words, once
kubectl's own completion is set up (kubectl completion --help). It must be in PATH under the
name kubectl_complete-istiod_agent.`,
		Example: `  kubectl istiod-agent completion kubectl >~/.local/bin/kubectl_complete-istiod_agent
  chmod +x ~/.local/bin/kubectl_complete-istiod_agent`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := io.WriteString(cmd.OutOrStdout(), completeScript)
			return err
		},
	}
}
