// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// An istiod that starts while Vault is sealed waits with the reason, and starts once Vault is unsealed.
func TestVaultSealed(t *testing.T) {
	environment.Test(t, feature("Vault is sealed while istiod starts", core).
		Assess("istiod waits, with the reason in its status", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			cluster.serials(ctx, t)
			cluster.deployWorkload(ctx, t, "bookinfo")
			cluster.scaleVault(ctx, t, false)
			cluster.kubectl(ctx, t, "rollout restart -n istio-system deployment/istiod")
			eventually(ctx, t, time.Minute, "the new istiod's status has the reason", func(ctx context.Context) error {
				issued, err := cluster.issued(ctx, cluster.certificate())
				if err != nil {
					return err
				}
				for _, pod := range cluster.istiods(ctx, t) {
					if why := issued[pod.Name].Error; strings.Contains(why, "Vault") {
						t.Logf("Pod %s: %s", pod.Name, why)
						return nil
					}
				}
				return fmt.Errorf("reports: %+v", issued)
			})
			// The old istiod keeps running.
			wantCall(ctx, t, cluster, cluster, "bookinfo")
		})).
		Assess("the kubelet tells it too", step(func(ctx context.Context, t *testing.T) {
			if len(clusters) == 1 {
				t.Skip("the init container tries for two minutes first, which is for the whole suite")
			}
			eventually(ctx, t, 4*time.Minute, "the init container's reason is in the Pod's status", func(ctx context.Context) error {
				for _, pod := range clusters[0].istiods(ctx, t) {
					for _, status := range pod.Status.InitContainerStatuses {
						if ended := status.LastTerminationState.Terminated; ended != nil && strings.Contains(ended.Message, "Vault") {
							return nil
						}
					}
				}
				return errNotYet
			})
		})).
		Assess("and comes up when Vault is back", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			cluster.scaleVault(ctx, t, true)
			cluster.kubectl(ctx, t, "rollout status -n istio-system deployment/istiod --timeout=5m")
			cluster.serials(ctx, t)
			wantLastStep(ctx, t)
		})).
		Feature())
}

// scaleVault connects Vault's Service to Vault or disconnects it: a Vault in dev mode loses its data with its Pod.
func (c *target) scaleVault(ctx context.Context, t *testing.T, there bool) {
	t.Helper()
	component := "server"
	if !there {
		component = "nobody"
	}
	c.kubectl(ctx, t, fmt.Sprintf(`patch -n vault service/vault -p '{"spec":{"selector":{"component":%q}}}'`, component))
	if !there {
		eventually(ctx, t, time.Minute, "nothing answers on Vault's address", func(ctx context.Context) error {
			_, err := shell(ctx, "kubectl --context="+c.name+" exec -n bookinfo deployment/workload -- /workload call vault.vault:8200")
			if err == nil || !strings.Contains(err.Error(), "refused") {
				return fmt.Errorf("Vault still answers: %w", err)
			}
			return nil
		})
	}
}

// A renewal during an outage of Vault succeeds after it. istiod keeps its CA meanwhile.
func TestVaultDown(t *testing.T) {
	environment.Test(t, feature("Vault is down across a renewal", full).
		Assess("istiod keeps its CA", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			before := cluster.serials(ctx, t)
			cluster.deployWorkload(ctx, t, "bookinfo")
			cluster.scaleVault(ctx, t, false)
			_, err := shell(ctx, "kubectl istiod-agent renew --all --timeout=20s --context="+cluster.name)
			if err == nil || !strings.Contains(err.Error(), "Vault") {
				t.Errorf("a renewal without Vault: %v", err)
			}
			wantCall(ctx, t, cluster, cluster, "bookinfo")
			issued, err := cluster.issued(ctx, cluster.certificate())
			must(t, err)
			for pod, serial := range before {
				if issued[pod].SerialNumber != serial || !strings.Contains(issued[pod].Error, "Vault") {
					t.Errorf("Pod %s reports %+v", pod, issued[pod])
				}
			}
			cluster.scaleVault(ctx, t, true)
			eventually(ctx, t, 6*time.Minute, "the renewal is made good", func(ctx context.Context) error {
				issued, err := cluster.issued(ctx, cluster.certificate())
				if err != nil {
					return err
				}
				for pod, serial := range before {
					if report := issued[pod]; report.SerialNumber == serial || !report.Confirmed {
						return fmt.Errorf("Pod %s reports %+v", pod, report)
					}
				}
				return nil
			})
		})).
		Feature())
}

// A restart of the API server changes nothing, and the agents continue.
func TestAPIServerRestart(t *testing.T) {
	if started == nil {
		t.Skip("clusters of a kubeconfig: nothing here may stop their API server")
	}
	environment.Test(t, feature("the API server is restarted", full).
		Assess("everything works again", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			before := cluster.serials(ctx, t)
			must(t, started.All[0].KillAPIServer())
			must(t, started.All[0].StartAPIServer(ctx))
			if after := cluster.serials(ctx, t); !maps.Equal(before, after) {
				t.Errorf("CA %v before, %v after", before, after)
			}
			// The agents watch again.
			_, err := shell(ctx, "kubectl istiod-agent renew --all --timeout=2m --context="+cluster.name)
			must(t, err)
			wantCall(ctx, t, cluster, cluster, "bookinfo")
		})).
		Feature())
}

// After a restart of the node istiod starts with a new CA under the same root.
func TestNodeRestart(t *testing.T) {
	if started == nil {
		t.Skip("clusters of a kubeconfig: nothing here may stop their node")
	}
	environment.Test(t, feature("the node is restarted", full).
		Assess("istiod comes up again", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[len(clusters)-1]
			cluster.serials(ctx, t)
			starts := cluster.starts(ctx, t, "discovery")
			must(t, started.All[len(clusters)-1].RestartNode(ctx))
			// Vault in dev mode has forgotten all: it is set up again, with the same root.
			cluster.kubectl(ctx, t, "wait -n vault pod/vault-0 --for=jsonpath='{.status.containerStatuses[0].restartCount}'=1 --timeout=120s")
			blocks, err := scripts(filepath.Join(folder, "docs", "try-it.md"), "Vault")
			must(t, err)
			_, err = shell(ctx, "CONTEXT_1= CONTEXT_2="+cluster.name+"\n"+blocks[len(blocks)-1])
			must(t, err)
			eventually(ctx, t, 4*time.Minute, "istiod is started again", func(context.Context) error {
				if cluster.starts(ctx, t, "discovery") == starts {
					return errNotYet
				}
				return nil
			})
			cluster.serials(ctx, t)
			wantLastStep(ctx, t)
			cluster.deployWorkload(ctx, t, "bookinfo")
			wantCall(ctx, t, cluster, cluster, "bookinfo")
		})).
		Feature())
}

// Without the webhook istiods cannot change, and the error names it. Nothing else is affected.
func TestWebhookDown(t *testing.T) {
	environment.Test(t, feature("the webhook is down", full).
		Assess("istiod cannot change, and all else can", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			cluster.scaleWebhook(ctx, t, 0)
			n := 0
			eventually(ctx, t, time.Minute, "istiod's change is refused", func(ctx context.Context) error {
				n++ // a change of nothing calls no webhook
				_, err := shell(ctx, "kubectl --context="+cluster.name+" label -n istio-system deployment/istiod suite/change="+strconv.Itoa(n)+" --overwrite")
				if err == nil {
					return errNotYet
				}
				if !strings.Contains(err.Error(), "istiod-agent.io") {
					return fmt.Errorf("the error does not name the webhook: %w", err)
				}
				return nil
			})
			cluster.kubectl(ctx, t, "create configmap -n istio-system unaffected")
			cluster.kubectl(ctx, t, "delete configmap -n istio-system unaffected")
			cluster.deployWorkload(ctx, t, "bookinfo")
			cluster.kubectl(ctx, t, "rollout restart -n bookinfo deployment/workload")
			cluster.kubectl(ctx, t, "rollout status -n bookinfo deployment/workload --timeout=60s")
			wantCall(ctx, t, cluster, cluster, "bookinfo")
		})).
		Assess("and istiod's Pod can be replaced", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			cluster.kubectl(ctx, t, "delete pod -n istio-system -l app=istiod --wait")
			cluster.kubectl(ctx, t, "rollout status -n istio-system deployment/istiod --timeout=120s")
			cluster.serials(ctx, t)
		})).
		Teardown(teardown(func(ctx context.Context, t *testing.T) {
			clusters[0].scaleWebhook(ctx, t, 2)
			clusters[0].kubectl(ctx, t, "label -n istio-system deployment/istiod suite/change-")
		})).
		Feature())
}

// The guard alone refuses an istiod without the agent.
func TestGuardAlone(t *testing.T) {
	environment.Test(t, feature("the guard alone", full).
		Assess("an istiod without the agent is refused", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			cluster.kubectl(ctx, t, "get mutatingwebhookconfiguration istiod-agent -o yaml >webhook.yaml")
			cluster.scaleWebhook(ctx, t, 0)
			cluster.kubectl(ctx, t, "delete mutatingwebhookconfiguration istiod-agent")
			eventually(ctx, t, time.Minute, "the guard refuses it", func(ctx context.Context) error {
				_, err := shell(ctx, "kubectl --context="+cluster.name+` patch -n istio-system deployment istiod --type=json --dry-run=server -p '[{"op":"remove","path":"/spec/template/spec/initContainers"}]'`)
				if err == nil || !strings.Contains(err.Error(), "ValidatingAdmissionPolicy") {
					return fmt.Errorf("it is not refused: %w", err)
				}
				return nil
			})
		})).
		Teardown(teardown(func(ctx context.Context, t *testing.T) {
			_, err := shell(ctx, "helm upgrade istiod-agent charts/istiod-agent -n istiod-agent-system --reset-then-reuse-values --kube-context="+clusters[0].name)
			must(t, err)
			clusters[0].scaleWebhook(ctx, t, 2)
		})).
		Feature())
}
