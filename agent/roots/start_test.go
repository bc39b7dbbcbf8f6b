// SPDX-License-Identifier: Apache-2.0

package roots

import (
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// Which roots an istiod may begin under, by what the other replicas have and what is allowed.
func TestStart(t *testing.T) {
	t.Parallel()
	was, is, other := strings.Repeat("a", 64), strings.Repeat("b", 64), strings.Repeat("c", 64)
	replica := func(pod, root string, trusted ...string) Replica { return Replica{pod, root, trusted} }
	for name, test := range map[string]struct {
		start     Start
		strangers []string
	}{
		"the first replica":                           {Start{}, nil},
		"the first replica, beside a self-signed":     {Start{Mesh: []string{was}}, nil},
		"beside one of the same root":                 {Start{Replicas: []Replica{replica("a", is, is)}}, nil},
		"the same, the mesh is behind":                {Start{Replicas: []Replica{replica("a", is, is)}, Mesh: []string{was}}, nil},
		"beside one of another root":                  {Start{Replicas: []Replica{replica("a", was, was)}}, []string{"a"}},
		"the same, the mesh has it too":               {Start{Replicas: []Replica{replica("a", was, was)}, Mesh: []string{was}}, []string{"a"}},
		"beside one that does not say what it trusts": {Start{Replicas: []Replica{replica("a", was)}}, []string{"a"}},
		"beside some of the same root":                {Start{Replicas: []Replica{replica("a", is, is), replica("b", was, was)}}, []string{"b"}},
		"the mesh trusts both":                        {Start{Replicas: []Replica{replica("a", was, was)}, Mesh: []string{was, is}}, nil},
		"the mesh trusts it already":                  {Start{Replicas: []Replica{replica("a", was, was)}, Mesh: []string{is}}, nil},
		"beside one that trusts both":                 {Start{Replicas: []Replica{replica("a", was, was, is)}}, nil},
		"while the root changes in stages":            {Start{Replicas: []Replica{replica("a", was, was)}, Staged: []string{was, is}}, nil},
		"in stages to another one":                    {Start{Replicas: []Replica{replica("a", was, was)}, Staged: []string{was, other}}, []string{"a"}},
		"where all Pods are restarted":                {Start{Replicas: []Replica{replica("a", was, was)}, Restarts: true}, nil},
		"accepted":                                    {Start{Replicas: []Replica{replica("a", was, was)}, Accepted: is}, nil},
		"accepted in capitals":                        {Start{Replicas: []Replica{replica("a", was, was)}, Accepted: strings.ToUpper(is)}, nil},
		"another one accepted":                        {Start{Replicas: []Replica{replica("a", was, was)}, Accepted: other}, []string{"a"}},
		"anything accepted":                           {Start{Replicas: []Replica{replica("a", was, was)}, Accepted: "true"}, []string{"a"}},
		"the beginning accepted":                      {Start{Replicas: []Replica{replica("a", was, was)}, Accepted: is[:16]}, []string{"a"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var pods []string
			for _, replica := range test.start.strangers(is) {
				pods = append(pods, replica.Pod)
			}
			if !slices.Equal(pods, test.strangers) {
				t.Errorf("waits for %q, want %q", pods, test.strangers)
			}
		})
	}
}

// What counts of a status: the other Pods that have a CA that is valid.
func TestStartOf(t *testing.T) {
	t.Parallel()
	now := time.Now()
	end := func(d time.Duration) *metav1.Time { return &metav1.Time{Time: now.Add(d)} }
	certificate := &certificatesv1.IssuedCertificate{ObjectMeta: metav1.ObjectMeta{Name: "mine", Namespace: "istio-system"}}
	certificate.Annotations = map[string]string{certificatesv1.AcceptRootAnnotation: " r\n"}
	certificate.Status.Certificates = []certificatesv1.CertificateStatus{
		{Pod: "z", RootFingerprint: "r", TrustedRoots: []string{"q", "r"}, NotAfter: end(time.Second)},
		{Pod: "istiod-0", RootFingerprint: "own"},
		{Pod: "waiting", OfferedRootFingerprint: "r"},
		{Pod: "expired", RootFingerprint: "r", NotAfter: end(0)},
		{Pod: "a", RootFingerprint: "r"},
	}
	got := StartOf(certificate, "istiod-0", []string{"s"}, now)
	want := Start{Accepted: "r", Staged: []string{"s"}, Replicas: []Replica{{"a", "r", nil}, {"z", "r", []string{"q", "r"}}}}
	if !got.Same(want) || got.Restarts {
		t.Errorf("got %+v, want %+v", got, want)
	}
	certificate.Spec.PodBounceDirective = &certificatesv1.ObjectRef{Name: "mine"}
	if again := StartOf(certificate, "istiod-0", []string{"s"}, now); !again.Restarts || again.Same(got) {
		t.Errorf("got %+v", again)
	}
}
