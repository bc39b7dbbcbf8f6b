// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"context"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/e2e-framework/pkg/envconf"
	"sigs.k8s.io/e2e-framework/pkg/features"
)

// feature begins a test in clusters that are set up by the guide.
func feature(name, suite string) *features.FeatureBuilder {
	return features.New(name).WithLabel(label, suite).
		Setup(func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
			followed(ctx, t)
			return ctx
		})
}

// istiod loads a renewed CA, and nothing restarts.
func TestRenewal(t *testing.T) {
	environment.Test(t, feature("a renewal", core).
		Assess("istiod signs under a new CA, and was not started again", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			before, starts := cluster.serials(ctx, t), cluster.starts(ctx, t, "discovery")
			done := cluster.load(ctx, t)
			output, err := shell(ctx, "kubectl istiod-agent renew --all --timeout=2m --context="+cluster.name)
			must(t, err)
			t.Log(output)
			after := cluster.serials(ctx, t)
			done()
			for pod, serial := range after {
				if before[pod] == "" || before[pod] == serial {
					t.Errorf("Pod %s: CA %s before, %s after", pod, before[pod], serial)
				}
			}
			if now := cluster.starts(ctx, t, "discovery"); now != starts {
				t.Errorf("istiod was started again: %d times, %d before", now, starts)
			}
			wantCall(ctx, t, cluster, clusters[len(clusters)-1], "bookinfo")
		})).
		Feature())
}

// With an audience the agent logs in with the token that the injection mounts, and needs no right to request one.
func TestVaultAudience(t *testing.T) {
	role := func(ctx context.Context, t *testing.T, cluster *target, audience string) {
		t.Helper()
		cluster.kubectl(ctx, t, `exec -n vault vault-0 -- /bin/sh -c 'vault write auth/kubernetes/role/gen-int-ca-istio audience="`+audience+`" bound_service_account_names=istiod,istiod-service-account bound_service_account_namespaces=istio-system policies=gen-int-ca-istio ttl=2400h'`)
	}
	specify := func(ctx context.Context, t *testing.T, cluster *target, audience string) {
		t.Helper()
		cluster.kubectl(ctx, t, `patch virtualmesh -n gloo-mesh virtual-mesh --type=merge -p '{"spec":{"mtlsConfig":{"shared":{"intermediateCertificateAuthority":{"vault":{"kubernetesAuth":{"audience":`+audience+`}}}}}}}'`)
	}
	bound := func(ctx context.Context, t *testing.T, cluster *target, status string) {
		t.Helper()
		cluster.kubectl(ctx, t, "wait --for=condition=TokenAudienceBound="+status+" --timeout=60s -n istio-system issuedcertificate/"+cluster.certificate())
	}
	environment.Test(t, feature("a token for Vault alone", core).
		Assess("without an audience, the condition names the exposure", step(func(ctx context.Context, t *testing.T) {
			bound(ctx, t, clusters[0], "False")
		})).
		Assess("with one, a renewal succeeds", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			role(ctx, t, cluster, "vault")
			specify(ctx, t, cluster, `"vault"`)
			before := cluster.serials(ctx, t)
			output, err := shell(ctx, "kubectl istiod-agent renew --all --timeout=2m --context="+cluster.name)
			must(t, err)
			t.Log(output)
			for pod, serial := range cluster.serials(ctx, t) {
				if before[pod] == serial {
					t.Errorf("Pod %s: CA %s before and after", pod, serial)
				}
			}
			bound(ctx, t, cluster, "True")
		})).
		Teardown(teardown(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			role(ctx, t, cluster, "")
			specify(ctx, t, cluster, "null")
			_, err := shell(ctx, "kubectl istiod-agent renew --all --timeout=2m --context="+cluster.name)
			must(t, err)
		})).
		Feature())
}

// Killed processes start again with the same CA: the agent adopts the published one, and istiod reads it.
func TestKilledProcesses(t *testing.T) {
	builder := feature("killed", full)
	for container, program := range map[string]string{"istiod-agent": "istiod-agent", "discovery": "pilot-discovery"} {
		builder = builder.Assess(program, step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			before, starts := cluster.serials(ctx, t), cluster.starts(ctx, t, container)
			cluster.kill(ctx, t, program)
			eventually(ctx, t, time.Minute, container+" is started again", func(context.Context) error {
				if cluster.starts(ctx, t, container) == starts {
					return errNotYet
				}
				return nil
			})
			if after := cluster.serials(ctx, t); !maps.Equal(before, after) {
				t.Errorf("CA %v before, %v after", before, after)
			}
			cluster.deployWorkload(ctx, t, "bookinfo")
			wantCall(ctx, t, cluster, cluster, "bookinfo")
		}))
	}
	environment.Test(t, builder.Feature())
}

// Three replicas have three CAs under one root. No workload fails during a rolling update under load.
func TestReplicas(t *testing.T) {
	environment.Test(t, feature("replicas", full).
		Assess("each has a CA of its own", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			cluster.kubectl(ctx, t, "delete hpa -n istio-system --all")
			// Half a processor each is more than a machine for tests may have for six of them.
			cluster.kubectl(ctx, t, "set resources -n istio-system deployment/istiod -c discovery --requests=cpu=10m,memory=64Mi")
			cluster.kubectl(ctx, t, "scale -n istio-system deployment/istiod --replicas=3")
			cluster.kubectl(ctx, t, "rollout status -n istio-system deployment/istiod --timeout=120s")
			serials := cluster.serials(ctx, t)
			different := map[string]bool{}
			for _, serial := range serials {
				different[serial] = true
			}
			if len(serials) != 3 || len(different) != 3 {
				t.Errorf("CAs of three replicas: %v", serials)
			}
			wantLastStep(ctx, t)
		})).
		Assess("a rolling update under load stops no workload", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			done := cluster.load(ctx, t)
			cluster.kubectl(ctx, t, "rollout restart -n istio-system deployment/istiod")
			cluster.kubectl(ctx, t, "rollout status -n istio-system deployment/istiod --timeout=180s")
			cluster.serials(ctx, t)
			done()
		})).
		Teardown(teardown(func(ctx context.Context, t *testing.T) {
			clusters[0].kubectl(ctx, t, "scale -n istio-system deployment/istiod --replicas=1")
			clusters[0].kubectl(ctx, t, "rollout status -n istio-system deployment/istiod --timeout=60s")
		})).
		Feature())
}

// A canary revision of Istio is injected as well, and can be removed.
func TestCanary(t *testing.T) {
	environment.Test(t, feature("a canary revision", full).
		Assess("it has a CA of the same root", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			cluster.addCanary(ctx, t)
			_, err := shell(ctx, installIstio+cluster.name+" --revision=canary")
			must(t, err)
			eventually(ctx, t, time.Minute, "the canary's CA is confirmed", func(ctx context.Context) error {
				issued, err := cluster.issued(ctx, "istiod-canary-istio-system-"+cluster.name)
				if err != nil {
					return err
				}
				for _, report := range issued {
					if report.Confirmed {
						return nil
					}
				}
				return errNotYet
			})
			wantLastStep(ctx, t)
		})).
		Assess("and it goes again", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			cluster.removeCanary(ctx, t)
			eventually(ctx, t, time.Minute, "its IssuedCertificate is deleted", func(ctx context.Context) error {
				if output := cluster.kubectl(ctx, t, "get issuedcertificates -n istio-system -o name"); strings.Contains(output, "canary") {
					return errNotYet
				}
				return nil
			})
			cluster.serials(ctx, t)
			wantCall(ctx, t, cluster, cluster, "bookinfo")
		})).
		Teardown(teardown(func(ctx context.Context, t *testing.T) {
			clusters[0].kubectl(ctx, t, "apply -f config/samples/virtualmesh.yaml")
		})).
		Feature())
}

// addCanary prepares the cluster for a canary revision: its mesh, the rights of its service account, and its Vault role.
func (c *target) addCanary(ctx context.Context, t *testing.T) {
	t.Helper()
	c.kubectl(ctx, t, `patch virtualmesh -n gloo-mesh virtual-mesh --type=json -p '[{"op":"add","path":"/spec/meshes/-","value":{"name":"istiod-canary-istio-system-`+c.name+`"}}]'`)
	_, err := shell(ctx, "helm upgrade istiod-agent charts/istiod-agent -n istiod-agent-system --reset-then-reuse-values --kube-context="+c.name+
		" --set 'istiodSidecar.serviceAccounts[0].name=istiod,istiodSidecar.serviceAccounts[0].namespace=istio-system,istiodSidecar.serviceAccounts[1].name=istiod-canary,istiodSidecar.serviceAccounts[1].namespace=istio-system'")
	must(t, err)
	c.kubectl(ctx, t, `exec -n vault vault-0 -- /bin/sh -c 'vault write auth/kubernetes/role/gen-int-ca-istio bound_service_account_names=istiod,istiod-canary bound_service_account_namespaces=istio-system policies=gen-int-ca-istio ttl=2400h'`)
}

// removeCanary uninstalls the canary revision and removes its mesh.
func (c *target) removeCanary(ctx context.Context, t *testing.T) {
	t.Helper()
	_, err := shell(ctx, "istioctl uninstall -y --context="+c.name+" --revision=canary")
	must(t, err)
	// Nothing is deleted that a VirtualMesh still names: its istiod may come back.
	c.kubectl(ctx, t, `patch virtualmesh -n gloo-mesh virtual-mesh --type=json -p '[{"op":"remove","path":"/spec/meshes/2"}]'`)
}

// No change of an istiod fails while the webhook is replaced.
func TestWebhookReplacement(t *testing.T) {
	environment.Test(t, feature("the webhook is replaced", full).
		Assess("no change of istiod's fails meanwhile", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			cluster.kubectl(ctx, t, "rollout restart -n istiod-agent-system deployment/istiod-agent-webhook")
			rolling, cancel := context.WithCancel(ctx)
			defer cancel()
			changes := make(chan error, 1)
			go func() {
				for n := 0; ; n++ {
					if rolling.Err() != nil {
						changes <- nil
						return
					}
					if _, err := shell(ctx, "kubectl --context="+cluster.name+" label -n istio-system deployment/istiod suite/change="+strings.Repeat("x", 1+n%50)+" --overwrite"); err != nil {
						changes <- err
						return
					}
				}
			}()
			cluster.kubectl(ctx, t, "rollout status -n istiod-agent-system deployment/istiod-agent-webhook --timeout=120s")
			cancel()
			must(t, <-changes)
		})).
		Teardown(teardown(func(ctx context.Context, t *testing.T) {
			clusters[0].kubectl(ctx, t, "label -n istio-system deployment/istiod suite/change-")
		})).
		Feature())
}

// istiod runs on during an upgrade from the previous commit's chart and a rollback.
func TestChartUpgrade(t *testing.T) {
	environment.Test(t, feature("the chart is upgraded", full).
		Assess("from the previous commit's, and back", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			before := cluster.serials(ctx, t)
			root, err := filepath.EvalSymlinks(filepath.Join(folder, "charts"))
			must(t, err)
			_, err = shell(ctx, `mkdir -p previous && git -C `+filepath.Dir(root)+` archive HEAD~1 charts | tar -x -C previous`)
			must(t, err)
			for _, command := range []string{
				"helm upgrade istiod-agent previous/charts/istiod-agent -n istiod-agent-system --reset-then-reuse-values --wait --timeout=2m",
				"helm upgrade istiod-agent charts/istiod-agent -n istiod-agent-system --reset-then-reuse-values --wait --timeout=2m",
				"helm rollback istiod-agent -n istiod-agent-system --wait --timeout=2m",
				"helm upgrade istiod-agent charts/istiod-agent -n istiod-agent-system --reset-then-reuse-values --wait --timeout=2m",
			} {
				_, err := shell(ctx, command+" --kube-context="+cluster.name)
				must(t, err)
				// Changes of istiod are still admitted and injected.
				cluster.kubectl(ctx, t, "label -n istio-system deployment/istiod suite/change=chart --overwrite")
				for _, pod := range cluster.istiods(ctx, t) {
					wantInjected(t, cluster, &pod)
				}
			}
			if after := cluster.serials(ctx, t); !maps.Equal(before, after) {
				t.Errorf("istiod was restarted by an upgrade of the webhook: CA %v before, %v after", before, after)
			}
		})).
		Teardown(teardown(func(ctx context.Context, t *testing.T) {
			clusters[0].kubectl(ctx, t, "label -n istio-system deployment/istiod suite/change-")
		})).
		Feature())
}

// The injection meets the restricted Pod Security Standard where istiod does, and works with NetworkPolicies.
func TestPodSecurity(t *testing.T) {
	environment.Test(t, feature("restricted Pod Security", full).
		Assess("istiod comes up under it", step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			cluster.kubectl(ctx, t, "label namespace istio-system pod-security.kubernetes.io/enforce=restricted")
			// istiod's own chart sets no seccomp profile by default.
			_, err := shell(ctx, installIstio+cluster.name+" --set values.pilot.seccompProfile.type=RuntimeDefault")
			must(t, err)
			cluster.kubectl(ctx, t, "rollout status -n istio-system deployment/istiod --timeout=120s")
			cluster.serials(ctx, t)
		})).
		Teardown(teardown(func(ctx context.Context, t *testing.T) {
			clusters[0].kubectl(ctx, t, "label namespace istio-system pod-security.kubernetes.io/enforce-")
			_, err := shell(ctx, installIstio+clusters[0].name)
			must(t, err)
		})).
		Feature())
}

// Every form of the injection runs.
func TestForms(t *testing.T) {
	builder := feature("forms of the injection", full)
	for _, form := range []struct {
		name, values string
		istiod       func(context.Context, *testing.T, *corev1.Pod)
	}{
		{"a native sidecar", "injection.sidecar=native", func(_ context.Context, t *testing.T, pod *corev1.Pod) {
			for _, container := range pod.Spec.InitContainers {
				if container.Name == "istiod-agent" && container.RestartPolicy != nil && *container.RestartPolicy == corev1.ContainerRestartPolicyAlways {
					return
				}
			}
			t.Errorf("Pod %s has no native sidecar", pod.Name)
		}},
		{"Pods", "injection.target=pods", func(ctx context.Context, t *testing.T, _ *corev1.Pod) {
			if stored := clusters[0].kubectl(ctx, t, "get deployment -n istio-system istiod -o jsonpath='{.spec.template.spec.containers[*].name}'"); strings.Contains(stored, "istiod-agent") {
				t.Errorf("the Deployment has the agent: %s", stored)
			}
		}},
		{"containers", "injection.target=deployments", func(_ context.Context, t *testing.T, pod *corev1.Pod) {
			if len(pod.Spec.Containers) != 2 {
				t.Errorf("Pod %s has %d containers", pod.Name, len(pod.Spec.Containers))
			}
		}},
	} {
		builder = builder.Assess(form.name, step(func(ctx context.Context, t *testing.T) {
			cluster := clusters[0]
			_, err := shell(ctx, "helm upgrade istiod-agent charts/istiod-agent -n istiod-agent-system --wait --timeout=2m --kube-context="+cluster.name+
				" --set clusterName="+cluster.name+" --set injection.rollout=automatic --set "+form.values)
			must(t, err)
			cluster.webhookSettled(ctx, t)
			if strings.Contains(form.values, "pods") {
				// Injected Deployments stay injected until the agent is removed from them.
				must(t, reinstall(ctx, cluster))
			}
			cluster.kubectl(ctx, t, "rollout restart -n istio-system deployment/istiod")
			cluster.kubectl(ctx, t, "rollout status -n istio-system deployment/istiod --timeout=120s")
			cluster.serials(ctx, t)
			for _, pod := range cluster.istiods(ctx, t) {
				wantInjected(t, cluster, &pod)
				form.istiod(ctx, t, &pod)
			}
			for _, each := range clusters {
				each.deployWorkload(ctx, t, "bookinfo")
			}
			wantLastStep(ctx, t)
		}))
	}
	environment.Test(t, builder.Feature())
}

// reinstall deletes istiod's Deployment and installs it again.
func reinstall(ctx context.Context, cluster *target) error {
	_, err := shell(ctx, "kubectl --context="+cluster.name+" delete deployment -n istio-system istiod --wait && "+installIstio+cluster.name)
	return err
}

// wantLastStep runs the guide's last step for the clusters' existing namespace bookinfo.
func wantLastStep(ctx context.Context, t *testing.T) {
	t.Helper()
	blocks, err := scripts(filepath.Join(folder, "docs", "try-it.md"), "The last step")
	must(t, err)
	output, err := shell(ctx, blocks[len(blocks)-1])
	must(t, err)
	if output != "" {
		t.Errorf("the published root is not Vault's:\n%s", output)
	}
}

func teardown(do func(context.Context, *testing.T)) features.Func {
	return func(ctx context.Context, t *testing.T, _ *envconf.Config) context.Context {
		do(ctx, t)
		return ctx
	}
}
