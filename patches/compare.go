// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"encoding/json"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// asRendered tells whether a stored container is the rendered one.
//
// In a Deployment it must be exactly that, but for what an API server adds of
// itself: known defaults, and fields newer than this program's API types. In a
// Pod it must hold all that was rendered; other admission plugins rightly add
// to it (ServiceAccount its token mount, LimitRanger resources, OpenShift's
// security context constraints a user id), or change its resources.
func asRendered(kind Kind, stored []byte, want *corev1.Container) bool {
	var have corev1.Container
	if json.Unmarshal(stored, &have) != nil {
		return false
	}
	wanted := want.DeepCopy()
	setDefaults(&have)
	setDefaults(wanted)
	if kind == Pod {
		wanted.Resources = corev1.ResourceRequirements{} // a VerticalPodAutoscaler's to change
		return holds(tree(have), tree(*wanted))
	}
	return equality.Semantic.DeepEqual(&have, wanted)
}

// setDefaults adds what an API server adds to the fields that the injection
// renders (pkg/apis/core/v1/defaults.go, Kubernetes 1.37).
func setDefaults(c *corev1.Container) {
	orElse(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	orElse(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	for i := range c.Env {
		from := c.Env[i].ValueFrom
		if from != nil && from.FieldRef != nil {
			orElse(&from.FieldRef.APIVersion, "v1")
		}
		if from != nil && from.FileKeyRef != nil && from.FileKeyRef.Optional == nil {
			from.FileKeyRef.Optional = new(false)
		}
	}
	if probe := c.StartupProbe; probe != nil {
		orElse(&probe.TimeoutSeconds, 1)
		orElse(&probe.PeriodSeconds, 10)
		orElse(&probe.SuccessThreshold, 1)
		orElse(&probe.FailureThreshold, 3)
		if probe.HTTPGet != nil {
			orElse(&probe.HTTPGet.Scheme, corev1.URISchemeHTTP)
		}
	}
}

func orElse[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// tree is the container as plain JSON values.
func tree(c corev1.Container) any {
	raw, err := json.Marshal(c)
	if err != nil {
		return nil
	}
	var value any
	if json.Unmarshal(raw, &value) != nil {
		return nil
	}
	return value
}

// holds tells whether have is want with additions: members of objects, and
// entries of lists that are keyed by name or mountPath.
func holds(have, want any) bool {
	switch want := want.(type) {
	case map[string]any:
		have, ok := have.(map[string]any)
		if !ok {
			return len(want) == 0
		}
		for key, value := range want {
			if !holds(have[key], value) {
				return false
			}
		}
		return true
	case []any:
		have, ok := have.([]any)
		if !ok {
			return false
		}
		if len(want) == 0 || entryKey(want[0]) == "" {
			return reflect.DeepEqual(have, want)
		}
		entries := map[string]any{}
		for _, entry := range have {
			entries[entryKey(entry)] = entry
		}
		for _, entry := range want {
			if !holds(entries[entryKey(entry)], entry) {
				return false
			}
		}
		return true
	default:
		return reflect.DeepEqual(have, want)
	}
}

// entryKey is the name that a list entry is known by in a container: a mount's
// path, a variable's name; "" where a list has no key.
func entryKey(entry any) string {
	fields, ok := entry.(map[string]any)
	if !ok {
		return ""
	}
	for _, key := range []string{"mountPath", "name"} {
		if name, ok := fields[key].(string); ok {
			return key + "=" + name
		}
	}
	return ""
}
