// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/istiod-agent/istiod-agent/agent/ca/vault"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// stored is an API server with the values of one Secret, and of ConfigMaps by name and key.
type stored struct {
	secret map[string][]byte
	values map[string]string
	read   []string
}

func (s *stored) ConfigMapValue(_ context.Context, namespace, name, key string, limit int) (string, error) {
	s.read = append(s.read, namespace+"/"+name)
	value, found := s.values[name+"/"+key]
	if !found || len(value) > limit {
		return "", fmt.Errorf("no such value of at most %d bytes", limit)
	}
	return value, nil
}

func (s *stored) Token(context.Context, string, string, string) (string, error) {
	return "", errors.New("not asked for")
}

func (s *stored) Secret(_ context.Context, namespace, name string) (map[string][]byte, error) {
	s.read = append(s.read, namespace+"/"+name)
	return s.secret, nil
}

func TestPermitRoots(t *testing.T) {
	t.Parallel()
	for namespace, problem := range map[string]string{"": "", me.Namespace: "", "kube-system": "spec.agentCa.trustedRoots.configMapRef.namespace: Forbidden: expected none, or istiod's own namespace"} {
		certificate := named("mine", 1)
		certificate.Spec.AgentCA.TrustedRoots = &certificatesv1.TrustedRoots{ConfigMapRef: &certificatesv1.ConfigMapKeyRef{Name: "roots", Namespace: namespace}}
		_, err := (&Agent{Identity: me, Vault: vault.Options{Namespace: me.Namespace}}).sourceOf(certificate)
		if (problem == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), problem) {
			t.Errorf("%q: want %q, got %v", namespace, problem, err)
		}
	}
}

// A specification that is not permitted leaves the one before it in force.
func TestASpecificationThatIsNotPermittedIsNotActedOn(t *testing.T) {
	t.Parallel()
	a, specifications, reporter := newAgent(t)
	a.Vault.AllowedServers = []string{"https://vault:8200"}
	specifications.certificate = named("mine", 1)
	a.observe(a.started)
	hostile := named("mine", 2)
	hostile.Spec.AgentCA.Vault.Server = "https://evil:8200"
	specifications.certificate = hostile
	a.observe(a.started)
	a.report()
	if a.desired.Spec.AgentCA.Vault.Server != "https://vault:8200" {
		t.Errorf("acts on server %s", a.desired.Spec.AgentCA.Vault.Server)
	}
	if !strings.Contains(reporter.status.Error, "injection.agent.allowedServers") {
		t.Errorf("status: %s", reporter.status.Error)
	}
}
