// SPDX-License-Identifier: Apache-2.0

// Command generate writes the specs of the policies into a folder of the chart, DIR/TARGET/POLICY.yaml, and that of the guard,
// DIR/TARGET/guard.yaml, since the same text serves every release. The chart's templates add names and parameters, and
// replace REMEDY in the guard.
package main

import (
	"errors"
	"fmt"
	"os"
	"path"

	"sigs.k8s.io/yaml"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/patches"
	"github.com/istiod-agent/istiod-agent/policy"
)

const header = "# Generated from package policy by `make generate`: change it there.\n"

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: generate DIR")
		os.Exit(2)
	}
	if err := generate(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func generate(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	for _, target := range []v1alpha1.Target{v1alpha1.TargetDeployments, v1alpha1.TargetPods} {
		config := v1alpha1.Default()
		config.Target = target
		p, err := policy.New(config, policy.Names{})
		if err != nil {
			return err
		}
		folder := string(target)
		if err := errors.Join(root.RemoveAll(folder), root.Mkdir(folder, 0o755)); err != nil {
			return err
		}
		injects := patches.Deployment
		if target == v1alpha1.TargetPods {
			injects = patches.Pod
		}
		for name, spec := range map[string]any{"injection": p.Mutating.Spec, "decision": p.Validating.Spec, "warnings": p.Warning.Spec, "guard": policy.Guard(injects, "REMEDY")} {
			text, err := yaml.Marshal(spec)
			if err != nil {
				return err
			}
			if err := root.WriteFile(path.Join(folder, name+".yaml"), append([]byte(header), text...), 0o644); err != nil {
				return err
			}
		}
	}
	return root.Close()
}
