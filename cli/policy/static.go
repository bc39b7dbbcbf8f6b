// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/cli/files"
	"github.com/istiod-agent/istiod-agent/policy"
)

// The API server reads each plugin's policies from a directory of its own, in which it takes no other kinds.
const (
	mutatingDir   = "mutating"
	validatingDir = "validating"
	// admissionFile is what the API server's flag names.
	admissionFile = "admission-control.yaml"
)

// writeStatic writes the policies as files that an API server reads from its own disk, and the file that points it at them.
func (f *flags) writeStatic(cmd *cobra.Command, config *v1alpha1.InjectionConfiguration) error {
	dir, err := filepath.Abs(f.static)
	if err != nil {
		return fmt.Errorf("--static: %w", err)
	}
	p, err := policy.NewStatic(config, f.name)
	if err != nil {
		return err
	}
	pointer, err := yaml.Marshal(admissionConfiguration(dir))
	if err != nil {
		return err
	}
	contents := map[string][]byte{admissionFile: pointer}
	for plugin, objects := range map[string][]runtime.Object{
		mutatingDir:   {p.MutatingBinding, p.Mutating},
		validatingDir: {p.GuardBinding, p.Guard, p.ValidatingBinding, p.Validating, p.WarningBinding, p.Warning},
	} {
		list, err := printed(objects...)
		if err != nil {
			return err
		}
		// JSON: a file of which only a part has been copied is no valid JSON, but may be the YAML of a policy that refuses less.
		if contents[filepath.Join(plugin, f.name+".json")], err = encoded(list); err != nil {
			return err
		}
	}
	for name, content := range contents {
		// In one step, since a running API server watches these directories. It ignores names without .json, .yaml or .yml.
		if err := files.Replace(filepath.Join(dir, name), content); err != nil {
			return fmt.Errorf("--static: %w", err)
		}
	}
	path := filepath.Join(dir, admissionFile)
	fmt.Fprintf(cmd.ErrOrStderr(), "Note: on each control-plane node, put %s at the same path, let kube-apiserver (Kubernetes 1.%d or later) read it there, and start kube-apiserver with --admission-control-config-file=%s.\n", dir, policy.OldestStaticMinor, path)
	fmt.Fprintf(cmd.ErrOrStderr(), "Note: if kube-apiserver has that flag already, add the plugins of %s to its file instead. Without the plugin MutatingAdmissionPolicy, nothing is injected, and the guard still refuses.\n", admissionFile)
	return nil
}

// admissionConfiguration is an AdmissionConfiguration of k8s.io/apiserver (pkg/apis/apiserver/v1). Its paths are absolute, as
// the API server requires.
func admissionConfiguration(dir string) map[string]any {
	const group = "apiserver.config.k8s.io/v1"
	plugin := func(name, manifests string) map[string]any {
		return map[string]any{"name": name, "configuration": map[string]any{
			"apiVersion": group, "kind": name + "Configuration", "staticManifestsDir": filepath.Join(dir, manifests),
		}}
	}
	return map[string]any{
		"apiVersion": group, "kind": "AdmissionConfiguration",
		"plugins": []any{plugin("ValidatingAdmissionPolicy", validatingDir), plugin("MutatingAdmissionPolicy", mutatingDir)},
	}
}
