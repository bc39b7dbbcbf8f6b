// SPDX-License-Identifier: Apache-2.0

package manifests_test

import (
	"reflect"
	"testing"

	"k8s.io/apimachinery/pkg/util/diff"

	"github.com/istiod-agent/istiod-agent/cli/clitest"
)

const (
	istiod, service = clitest.Istiod, clitest.Service
	// refused is an istiod that cannot be injected.
	refused = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: istiod-other, labels: {app: istiod}}
spec: {template: {spec: {containers: [{name: pilot}]}}}
`
)

func wantSame(t *testing.T, want, got any) {
	t.Helper()
	if !reflect.DeepEqual(want, got) {
		t.Errorf("not the same (-want +got):\n%s", diff.Diff(want, got))
	}
}
