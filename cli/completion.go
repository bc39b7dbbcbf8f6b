// SPDX-License-Identifier: Apache-2.0

package cli

import (
	_ "embed" // of the script
	"io"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// completeScript is the program that kubectl runs to complete the arguments of a plugin, kubectl_complete-<plugin> in PATH
// (kubectl pkg/cmd/plugin/plugin_completion.go).
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
		Short: "Print the completion script for a shell",
		Long: `Prints a completion script. The script for kubectl completes kubectl istiod-agent; the
others complete kubectl-istiod_agent, called by its own name.`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(completionForKubectl())
	for shell, generate := range map[string]func(root *cobra.Command, out io.Writer) error{
		"bash":       func(root *cobra.Command, out io.Writer) error { return root.GenBashCompletionV2(out, true) },
		"zsh":        (*cobra.Command).GenZshCompletion,
		"fish":       func(root *cobra.Command, out io.Writer) error { return root.GenFishCompletion(out, true) },
		"powershell": (*cobra.Command).GenPowerShellCompletionWithDesc,
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
		Short: "Print the program that completes kubectl istiod-agent",
		Long: `Prints the program that kubectl 1.26 and later runs to complete the arguments of this
plugin. Save it in PATH as kubectl_complete-istiod_agent. kubectl's own completion must be
set up (kubectl completion --help).`,
		Example: `  kubectl istiod-agent completion kubectl >~/.local/bin/kubectl_complete-istiod_agent
  chmod +x ~/.local/bin/kubectl_complete-istiod_agent`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := io.WriteString(cmd.OutOrStdout(), completeScript)
			return err
		},
	}
}
