// SPDX-License-Identifier: Apache-2.0

// Package policy is `policy`: it prints the injection as objects that the API server evaluates itself, for those who install
// neither the chart nor the controllers. It talks to no cluster.
package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/cli/files"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
	"github.com/istiod-agent/istiod-agent/policy"
)

type flags struct {
	config    string
	name      string
	namespace string
	output    string
	static    string
}

// Command is `policy`.
func Command() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Print the injection as an admission policy, which needs no webhook",
		Long: fmt.Sprintf(`Prints the injection as a MutatingAdmissionPolicy with its parameter, and
ValidatingAdmissionPolicies: one refuses what cannot be injected, one warns, and
the guard refuses an istiod without the agent. The API server evaluates them
itself: no Pod, port or certificate of istiod-agent takes part. It needs
Kubernetes 1.%d or later.

The parameter comes last. Until it is stored, changes of istiod in labelled
namespaces are refused.

With --static, it writes the injection and the guard, which refuses an istiod
without the agent, as files that the API server of Kubernetes 1.%d or later reads
from its own disk. No API request changes or removes these policies. They need no
parameter.

Exit codes: 0 done; 1 an error, and nothing was written, or not all files.`, policy.OldestMinor, policy.OldestStaticMinor),
		Example: `  # Install: the second time for the parameter, whose definition is new the first time
  kubectl istiod-agent policy --config injection.yaml >policy.yaml
  kubectl apply -f policy.yaml || kubectl apply -f policy.yaml
  # Write files for a control-plane node
  kubectl istiod-agent policy --config injection.yaml --static /etc/kubernetes/istiod-agent`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	cmd.Flags().StringVar(&f.config, "config", "", "the injection's configuration `file` (default: its defaults)")
	cmd.Flags().StringVar(&f.name, "name", "istiod-agent", "`name` of the policies and of the parameter")
	cmd.Flags().StringVarP(&f.namespace, "namespace", "n", "istiod-agent-system", "`namespace` of the parameter")
	cmd.Flags().StringVarP(&f.output, "output", "o", "yaml", "`format` to write: yaml or json")
	cmd.Flags().StringVar(&f.static, "static", "", "write files for the API server's own disk to this `directory`, which has the same path there")
	cmd.MarkFlagsMutuallyExclusive("static", "namespace")
	cmd.MarkFlagsMutuallyExclusive("static", "output")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"yaml", "json"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (f *flags) run(cmd *cobra.Command) error {
	if f.output != "yaml" && f.output != "json" {
		return fmt.Errorf("--output: expected yaml or json, got %q", f.output)
	}
	config := v1alpha1.Default()
	if f.config != "" {
		content, err := files.Read(f.config, files.MaxSmall)
		if err != nil {
			return fmt.Errorf("--config: %w", err)
		}
		if config, err = v1alpha1.Decode(content); err != nil {
			return fmt.Errorf("configuration %s: %w", f.config, err)
		}
	}
	if f.static != "" {
		return f.writeStatic(cmd, config)
	}
	p, err := policy.New(config, policy.Names{Policy: f.name, Namespace: f.namespace})
	if err != nil {
		return err
	}
	if problems := validation.IsDNS1123Label(f.namespace); len(problems) > 0 {
		return fmt.Errorf("--namespace: %q: %s", f.namespace, problems[0])
	}
	if problems := validation.IsDNS1123Subdomain(p.MutatingBinding.Name); len(problems) > 0 { // the longest of the names
		return fmt.Errorf("--name: %q: %s", f.name, problems[0])
	}
	namespace := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Namespace"}, ObjectMeta: metav1.ObjectMeta{Name: f.namespace}}
	// In the order in which an API server can take them: what the parameter needs, the policies, the parameter.
	objects, err := printed(slices.Concat([]runtime.Object{p.Definition, namespace, p.Guard, p.GuardBinding}, p.Policies(), []runtime.Object{p.Parameter})...)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if f.output == "json" {
		text, err := encoded(objects)
		if err != nil {
			return err
		}
		out.Write(text)
	} else {
		for i := range objects {
			text, err := yaml.Marshal(objects[i].Object)
			if err != nil {
				return err
			}
			fmt.Fprintf(&out, "---\n%s", text)
		}
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "Note: every API server of the cluster must run Kubernetes 1.%d or later.\n", policy.OldestMinor)
	_, err = out.WriteTo(terminal.Data(cmd.OutOrStdout()))
	return err
}

// printed are objects as they are written: without empty fields.
func printed(objects ...runtime.Object) ([]unstructured.Unstructured, error) {
	var all []unstructured.Unstructured
	for _, o := range objects {
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
		if err != nil {
			return nil, err
		}
		unstructured.RemoveNestedField(content, "metadata", "creationTimestamp")
		unstructured.RemoveNestedField(content, "status")
		all = append(all, unstructured.Unstructured{Object: content})
	}
	return all, nil
}

// encoded is a List of objects in JSON.
func encoded(objects []unstructured.Unstructured) ([]byte, error) {
	list := &unstructured.UnstructuredList{Object: map[string]any{"apiVersion": "v1", "kind": "List"}, Items: objects}
	text, err := json.MarshalIndent(list, "", "  ")
	return append(text, '\n'), err
}
