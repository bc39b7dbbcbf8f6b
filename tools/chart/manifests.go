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

	namespaceObject = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: " + namespace + "\n"

	header = "# Generated from charts/istiod-agent by `make generate`: change it there.\n"
)

// helmLabels mark an object as installed by Helm, which is wrong in config/.
var helmLabels = regexp.MustCompile(`(?m)^ +(helm\.sh/chart|app\.kubernetes\.io/managed-by): .*\n`)

// byPolicy is the folder of config/ with the installation whose injection.by is policy.
const byPolicy = "by-policy"

// writeManifests writes what the chart renders with its own values, one object
// per file under its template's path, with a kustomization per folder; default
// puts them together. Below by-policy are the folders that differ in the other
// form of the injection.
func writeManifests(config, chart string) error {
	objects, err := render(chart, nil)
	if err != nil {
		return err
	}
	standard := folders(objects)
	all := []string{"namespace.yaml"}
	for _, folder := range slices.Sorted(maps.Keys(standard)) {
		all = append(all, "../"+folder)
		if folder == crdFolder {
			continue // the chart has them from there
		}
		if err := writeFolder(filepath.Join(config, folder), standard[folder]); err != nil {
			return err
		}
	}
	if err := writeFolder(filepath.Join(config, "default"), map[string]string{"namespace.yaml": namespaceObject}, all[1:]...); err != nil {
		return err
	}

	objects, err = render(chart, map[string]any{"injection": map[string]any{"by": "policy"}})
	if err != nil {
		return err
	}
	changed := filepath.Join(config, byPolicy)
	if err := os.RemoveAll(changed); err != nil {
		return err
	}
	all = nil
	for folder, files := range folders(objects) {
		if maps.Equal(files, standard[folder]) {
			all = append(all, "../"+folder)
			continue
		}
		all = append(all, folder)
		if err := writeFolder(filepath.Join(changed, folder), files); err != nil {
			return err
		}
	}
	slices.Sort(all)
	return write(changed, map[string]string{"namespace.yaml": namespaceObject}, all...)
}

// folders are the objects by folder, then by file.
func folders(objects map[string]string) map[string]map[string]string {
	folders := map[string]map[string]string{}
	for name, content := range objects {
		folder, file := path.Split(name)
		folder = path.Clean(folder)
		if folders[folder] == nil {
			folders[folder] = map[string]string{}
		}
		folders[folder][file] = content
	}
	return folders
}

// writeFolder replaces a folder by files and a kustomization of them and of other folders.
func writeFolder(folder string, files map[string]string, others ...string) error {
	if err := os.RemoveAll(folder); err != nil { // manifests that are no longer rendered
		return err
	}
	return write(folder, files, others...)
}

// render gives the objects that the chart's templates render, by the template's path.
func render(chart string, changed map[string]any) (map[string]string, error) {
	loaded, err := loader.Load(chart)
	if err != nil {
		return nil, err
	}
	values, err := util.ToRenderValues(loaded, changed, common.ReleaseOptions{
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

// write writes files, and a kustomization of them and of other folders, into a folder.
func write(folder string, files map[string]string, others ...string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	names := slices.Sorted(maps.Keys(files))
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(header+files[name]), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(folder, "kustomization.yaml"), []byte(header+kustomization(append(names, others...))), 0o644)
}
