// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
)

const (
	// The arguments of `helm install` in the README.
	releaseName = "istiod-agent"
	namespace   = "istiod-agent-system"

	header = "# Generated from charts/istiod-agent by `make generate`: change it there.\n"
)

// helmLabels mark an object as installed by Helm, which is wrong in config/.
var helmLabels = regexp.MustCompile(`(?m)^ +(helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n`)

// writeManifests writes what the chart renders with its own values, one object
// per file under its template's path, with a kustomization per folder; default
// puts them together.
func writeManifests(config, chart string) error {
	objects, err := render(chart)
	if err != nil {
		return err
	}
	folders := map[string][]string{}
	for _, name := range slices.Sorted(maps.Keys(objects)) {
		folder := path.Dir(name)
		folders[folder] = append(folders[folder], path.Base(name))
	}

	all := []string{"namespace.yaml"}
	for _, folder := range slices.Sorted(maps.Keys(folders)) {
		all = append(all, "../"+folder)
		if folder == crdFolder {
			continue // the chart has them from there
		}
		// Remove manifests that are no longer rendered.
		if err := os.RemoveAll(filepath.Join(config, folder)); err != nil {
			return err
		}
		for _, file := range folders[folder] {
			if err := write(filepath.Join(config, folder, file), objects[path.Join(folder, file)]); err != nil {
				return err
			}
		}
		if err := write(filepath.Join(config, folder, "kustomization.yaml"), kustomization(folders[folder])); err != nil {
			return err
		}
	}
	if err := write(filepath.Join(config, "default", "namespace.yaml"),
		"apiVersion: v1\nkind: Namespace\nmetadata:\n  name: "+namespace+"\n"); err != nil {
		return err
	}
	return write(filepath.Join(config, "default", "kustomization.yaml"), kustomization(all))
}

// render gives the objects that the chart's templates render, by the template's path.
func render(chart string) (map[string]string, error) {
	loaded, err := loader.Load(chart)
	if err != nil {
		return nil, err
	}
	values, err := util.ToRenderValues(loaded, nil, common.ReleaseOptions{
		Name: releaseName, Namespace: namespace, Revision: 1, IsInstall: true,
	}, common.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	files, err := engine.Render(loaded, values)
	if err != nil {
		return nil, err
	}

	objects := map[string]string{}
	for name, content := range files {
		name = strings.TrimPrefix(name, loaded.Name()+"/templates/")
		isTest := strings.HasPrefix(name, "tests/") // a hook, which only Helm runs
		if strings.Contains(content, "\nkind: ") && !isTest {
			objects[name] = helmLabels.ReplaceAllString(strings.TrimLeft(content, "\n"), "")
		}
	}
	return objects, nil
}

func kustomization(resources []string) string {
	var b strings.Builder
	b.WriteString("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n")
	for _, resource := range resources {
		fmt.Fprintf(&b, "- %s\n", resource)
	}
	return b.String()
}

func write(file, content string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(header+content), 0o644)
}
