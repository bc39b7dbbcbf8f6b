// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/istiod-agent/istiod-agent/internal/strict"
)

// MistakesError lists the mistakes in a configuration file, each with its path.
type MistakesError = strict.MistakesError

// Decode reads the content of a configuration file. It returns a configuration with defaults, or every mistake.
func Decode(content []byte) (*InjectionConfiguration, error) {
	tree, err := strict.Parse(content, APIVersion, Kind)
	if err != nil {
		return nil, err
	}
	config, mistakes := strict.Into[InjectionConfiguration](tree)
	config.setDefaults()
	for _, invalid := range config.validate() {
		within := func(misfit *field.Error) bool {
			rest, ok := strings.CutPrefix(invalid.Field, misfit.Field)
			return ok && (rest == "" || strings.ContainsAny(rest[:1], ".["))
		}
		if !slices.ContainsFunc(mistakes, within) {
			mistakes = append(mistakes, invalid)
		}
	}
	if len(mistakes) > 0 {
		return nil, MistakesError(mistakes)
	}
	return config, nil
}
