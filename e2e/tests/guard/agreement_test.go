// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/istiod-agent/istiod-agent/api/config/v1alpha1"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/patches"
	"github.com/istiod-agent/istiod-agent/webhook"
)

// The guard, the engine, the webhook and `check` (which uses the engine) agree on random paths: the guard admits what the engine
// would not change, and refuses what the engine would change or deny.
func TestAgreement(t *testing.T) {
	namespace := namespaceOf(t, shared)
	base := newIstiod(t, v1alpha1.TargetDeployments, cluster.Istiod(t, namespace)).injected(t, v1alpha1.SidecarContainer)
	engine, err := patches.New(v1alpha1.Default())
	if err != nil {
		t.Fatal(err)
	}
	handler := webhook.NewHandler(patches.Deployment, engine, nil, logr.Discard())
	random := rand.New(rand.NewPCG(1, 2))
	verdicts := map[bool]int{}
	for range 400 {
		i := base.copied()
		path := randomPath(random)
		switch random.IntN(4) {
		case 0:
			i.ownMount().MountPath = path
		case 1:
			mount(path)(&i)
		case 2:
			rootCADir(corev1.EnvVar{Value: path})(&i)
		case 3:
			i.own().WorkingDir = path
			rootCADir(corev1.EnvVar{Value: randomPath(random)})(&i)
		}
		i.object().SetNamespace(namespace)
		raw, err := json.Marshal(i.object())
		if err != nil {
			t.Fatal(err)
		}
		decided := engine.Inject(patches.Deployment, raw)
		answer := handler.Handle(t.Context(), admission.Request{AdmissionRequest: admissionv1.AdmissionRequest{
			Operation: admissionv1.Create, Kind: metav1.GroupVersionKind{Kind: "Deployment"}, Object: runtime.RawExtension{Raw: raw},
		}})
		state, _ := engine.Inspect(patches.Deployment, raw)
		err = shared.Create(t.Context(), i.object(), client.DryRunAll)
		if err != nil && !strings.Contains(err.Error(), "ValidatingAdmissionPolicy") {
			continue // no valid path
		}
		wanted := decided.Reason == patches.AlreadyInjected
		if reason := answer.AuditAnnotations["reason"]; reason != string(decided.Reason) || (state == patches.StateInjected) != wanted {
			t.Errorf("the engine says %s, the webhook %s, and check %s", decided.Reason, reason, state)
		}
		if verdicts[wanted]++; (err == nil) != wanted {
			t.Errorf("mounts %v, env %v, workingDir %q: the engine says %s: %s, the guard says %v",
				i.own().VolumeMounts, i.own().Env, i.own().WorkingDir, decided.Reason, decided.Message, err)
		}
	}
	if verdicts[true] < 20 || verdicts[false] < 20 {
		t.Errorf("the test compares too little: %v", verdicts)
	}
}

// randomPath returns /etc/cacerts or a similar path in an unusual spelling.
func randomPath(random *rand.Rand) string {
	noise := func() string {
		return []string{"", "", "", "/", "./", "//", "/./", "../", "x/", ".../"}[random.IntN(10)]
	}
	path := noise() + []string{"/", "/", "", "./"}[random.IntN(4)] + "etc/" + noise() + []string{"cacerts", "cacerts", "cacerts", "cacerts-old", "", "."}[random.IntN(6)]
	return path + []string{"", "", "/", "/.", "/..data", "/x", "/.."}[random.IntN(7)]
}
