// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
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
	static, err := policy.NewStatic(config, f.name)
	if err != nil {
		return err
	}
	pointer, err := yaml.Marshal(admissionConfiguration(dir))
	if err != nil {
		return err
	}
	files := map[string][]byte{admissionFile: pointer}
	for plugin, objects := range map[string][]runtime.Object{mutatingDir: static.Mutating, validatingDir: static.Validating} {
		list, err := printed(objects...)
		if err != nil {
			return err
		}
		// JSON: a file of which only a part has been copied is no valid JSON, but may be the YAML of a policy that refuses less.
		if files[filepath.Join(plugin, f.name+".json")], err = encoded(list); err != nil {
			return err
		}
	}
	for name, content := range files {
		if err := replaceFile(filepath.Join(dir, name), content); err != nil {
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

// replaceFile writes a file in one step: an API server that watches the directory sees the old or the new content. It ignores
// the temporary file, whose name ends in neither .json nor .yaml nor .yml.
func replaceFile(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // the API server may run as any user, and the files hold no secret
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), "."+strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))+"-*.tmp")
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	err = errors.Join(err, file.Chmod(0o644), file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		_ = os.Remove(file.Name())
	}
	return err
}
