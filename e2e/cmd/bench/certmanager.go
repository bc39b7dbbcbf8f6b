// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"github.com/istiod-agent/istiod-agent/agent/ca"
	"github.com/istiod-agent/istiod-agent/agent/cacerts"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/agents"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/certmanager"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/cluster"
	"github.com/istiod-agent/istiod-agent/e2e/testenv/istiodserver"
	"github.com/istiod-agent/istiod-agent/internal/testca"
)

const benchIssuer = "istio-ca"

// measureCertManager runs the agent with a CA issuer of a real cert-manager, and beside it a client that does nothing but have a
// CertificateRequest signed.
func measureCertManager(ctx context.Context) (results []result, err error) {
	c, err := cluster.Start()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Stop()) }()
	if err := agents.Install(ctx, c); err != nil {
		return nil, err
	}
	running, err := certmanager.Start(ctx, c.Plane)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, running.Stop()) }()
	dir, err := os.MkdirTemp("", "istiod-agent-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	volume, remove, err := istiodserver.Tmpfs()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	if err := c.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: benchNamespace}}); err != nil {
		return nil, err
	}
	pod, err := agents.NewPod(ctx, c, benchNamespace, "istiod-bench", volume, dir)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(agents.GrantRequests(ctx, c, benchNamespace), createIssuer(ctx, c, pod)); err != nil {
		return nil, err
	}
	client, err := dynamic.NewForConfig(c.Plane.Config)
	if err != nil {
		return nil, err
	}
	requests := client.Resource(schema.GroupVersionResource{Group: "cert-manager.io", Version: "v1", Resource: "certificaterequests"}).Namespace(benchNamespace)

	const allowed = 150 * time.Millisecond
	over, bare, err := beyondIssuer(ctx, pod, requests, allowed)
	if err != nil {
		return nil, err
	}
	found := float64(over) / float64(time.Millisecond)
	results = append(results, result{
		measure: "start to published files, EC P-256: beyond a bare CertificateRequest", found: found, limit: float64(allowed / time.Millisecond),
		value: fmt.Sprintf("%.0f ms", found), unit: " ms", how: "the bare one: " + inMilliseconds(bare),
	})
	rest, err := atRest(ctx, c, pod)
	if err != nil {
		return nil, err
	}
	ordinary := simulate(scenario{from: settledAfter, takes: max(bare, time.Second)})
	return append(append(results, rest...), result{
		measure: "CertificateRequests at a time, 3,000 replicas in a year", found: float64(ordinary.atATime), limit: 10,
		value: fmt.Sprint(ordinary.atATime), how: fmt.Sprintf("%d in the year, each for %s", ordinary.signed, max(bare, time.Second)),
	}), nil
}

// createIssuer creates a CA issuer, and the specification that names it.
func createIssuer(ctx context.Context, c *cluster.Cluster, pod *agents.Pod) error {
	root := testca.Root("mesh-root")
	template := testca.Authority("mesh-issuer")
	template.MaxPathLen = 1
	issuer := root.Sign(template, nil)
	certificate := pod.Certificate("", func(_, options map[string]any) { options["ecKeyCurve"] = "P-256" })
	return errors.Join(
		certmanager.CreateCAIssuer(ctx, c, pod.Namespace, benchIssuer, append(issuer.PEM(), root.PEM()...), issuer.KeyPEM()),
		unstructured.SetNestedField(certificate.Object, map[string]any{"certManager": map[string]any{
			"issuerRef": map[string]any{"name": benchIssuer},
		}}, "spec", "agentCa"),
		c.Create(ctx, certificate),
	)
}

// beyondIssuer gives the medians, over at least 15 rounds, of how much longer it takes from the init container's start until the
// files are published than a bare CertificateRequest takes to be signed, and of the latter.
func beyondIssuer(ctx context.Context, pod *agents.Pod, requests dynamic.ResourceInterface, allowed time.Duration) (over, bare time.Duration, err error) {
	const rounds = 15
	var wholes, bares []time.Duration
	median := func(of []time.Duration) time.Duration { slices.Sort(of); return of[len(of)/2] }
	for len(bares) < rounds || len(bares) < 3*rounds && median(wholes)-median(bares) > allowed {
		took, err := bareRequest(ctx, requests)
		if err != nil {
			return 0, 0, err
		}
		bares = append(bares, took)
		if took, err = untilPublished(ctx, pod); err != nil {
			return 0, 0, err
		}
		wholes = append(wholes, took)
	}
	return median(wholes) - median(bares), median(bares), nil
}

// bareRequest creates a CertificateRequest and waits, by a watch, until it is Ready.
func bareRequest(ctx context.Context, requests dynamic.ResourceInterface) (took time.Duration, err error) {
	_, csr, err := ca.NewKey(ca.Request{Hosts: []string{"spiffe://cluster.local/ns/istio-system/sa/istiod"}, Organization: "Istio", Key: cacerts.Key{Type: "ec", Bits: 256}})
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	start := time.Now()
	created, err := requests.Create(ctx, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "cert-manager.io/v1", "kind": "CertificateRequest", "metadata": map[string]any{"generateName": "bare-"},
		"spec": map[string]any{
			"request": base64.StdEncoding.EncodeToString(csr), "isCA": true, "usages": []any{"cert sign", "crl sign"}, "duration": "8760h",
			"issuerRef": map[string]any{"name": benchIssuer, "kind": "Issuer", "group": "cert-manager.io"},
		},
	}}, metav1.CreateOptions{})
	if err != nil {
		return 0, err
	}
	watching, err := requests.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + created.GetName(), ResourceVersion: created.GetResourceVersion()})
	if err != nil {
		return 0, err
	}
	defer watching.Stop()
	for event := range watching.ResultChan() {
		object, ok := event.Object.(*unstructured.Unstructured)
		if !ok || event.Type == watch.Error {
			break
		}
		if certificate, _, _ := unstructured.NestedString(object.Object, "status", "certificate"); certificate != "" {
			return time.Since(start), requests.Delete(ctx, created.GetName(), metav1.DeleteOptions{})
		}
	}
	return 0, fmt.Errorf("CertificateRequest %s was not signed", created.GetName())
}
