// SPDX-License-Identifier: Apache-2.0

package join

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/cli/pods"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/internal/probe"
)

const (
	// connectLimit is the time for all connections of a Pod, and reportLimit that until the result is read.
	connectLimit = 10 * time.Second
	reportLimit  = connectLimit + 50*time.Second
	listenPort   = 8080
	// maxCA is the most bytes of an API server's CA, which is an argument of the Pod's program.
	maxCA = 64 << 10
	// maxProblems is the most failed connections that are printed.
	maxProblems = 20
)

// reach makes all connections from Pods, and returns an error unless all succeed. No Pod remains.
func (f *flags) reach(ctx context.Context, a *application) error {
	p := &probing{application: a, options: f.pods, suffix: rand.String(5), listeners: make([]*corev1.Pod, len(a.targets)), probes: make([]*corev1.Pod, len(a.targets))}
	states, err := statesOf(a.targets)
	if err != nil {
		return err
	}
	connections, notes, problems := a.plan.connections(a.request, states, p.suffix)
	if err := f.unreached(nil, problems); err != nil {
		return err
	}
	if len(connections) == 0 {
		return nil
	}
	defer a.endProgress()
	problems, err = p.connect(ctx, connections)
	if err := f.unreached(append(texts(err), p.remove(ctx)...), problems); err != nil {
		return err
	}
	for _, text := range notes {
		a.note(text)
	}
	a.reached = make([]reached, len(a.targets))
	for _, c := range connections {
		a.reached[c.reader].add(&c, states[c.target].Context)
	}
	return nil
}

// unreached returns the error for what has failed in the check, and for failed connections; nil for none.
func (f *flags) unreached(failed, problems []string) error {
	if more := len(problems) - maxProblems; more > 0 {
		problems = append(problems[:maxProblems:maxProblems], fmt.Sprintf("and %d more", more))
	}
	switch {
	case len(failed) > 0:
		without := *f
		without.probe, without.pods = false, pods.Defaults()
		return fmt.Errorf("no context was changed, because join could not check that the clusters reach each other:\n  %s\nTo join without this check: kubectl istiod-agent join%s",
			strings.Join(lines(append(failed, problems...)), "\n  "), without.arguments()+without.ownArguments()+without.runArguments())
	case len(problems) > 0:
		return refuse(problems)
	}
	return nil
}

// reached is what Pods of a context have connected to.
type reached struct {
	kinds              []destination
	contexts, services []string
}

func (r *reached) add(c *connection, target string) {
	if !slices.Contains(r.kinds, c.to) {
		r.kinds = append(r.kinds, c.to)
	}
	if !slices.Contains(r.contexts, target) {
		r.contexts = append(r.contexts, target)
	}
	if c.service != "" {
		r.services = append(r.services, c.service+" of "+target)
	}
}

// probing are the Pods of a run: one that listens for those of other clusters, and one that connects. An element is nil where a
// context has no such Pod.
type probing struct {
	*application
	options           pods.Options
	suffix            string
	listeners, probes []*corev1.Pod
}

// connect starts the Pods and returns the failed connections as text.
func (p *probing) connect(ctx context.Context, connections []connection) (problems []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, p.options.Timeout+reportLimit)
	defer cancel()
	images := make([]string, len(p.targets))
	addresses := make([]string, len(p.targets))
	if err := p.each("starting a Pod", func(i int) (err error) {
		uses := func(c connection) bool { return c.reader == i || c.target == i && c.to == podNetwork }
		if !slices.ContainsFunc(connections, uses) {
			return nil
		}
		if images[i], err = p.image(ctx, i); err != nil {
			return err
		}
		if slices.ContainsFunc(connections, func(c connection) bool { return c.target == i && c.to == podNetwork }) {
			addresses[i], err = p.listen(ctx, i, images[i])
		}
		return err
	}); err != nil {
		return nil, err
	}
	var mu sync.Mutex
	states, err := statesOf(p.targets)
	if err != nil {
		return nil, err
	}
	byReader := make([][]string, len(p.targets))
	err = p.each("connecting to the other clusters", func(i int) error {
		var own []connection
		for _, c := range connections {
			if c.reader == i {
				if c.to == podNetwork {
					c.endpoint.Address = addresses[c.target]
				}
				own = append(own, c)
			}
		}
		if len(own) == 0 {
			return nil
		}
		results, err := p.probe(ctx, i, images[i], own)
		mu.Lock()
		defer mu.Unlock()
		for n, result := range results {
			if result.Outcome != probe.Reached {
				byReader[i] = append(byReader[i], own[n].describe(states, result))
			}
		}
		return err
	})
	return slices.Concat(byReader...), err
}

// image returns the image of the Pods in a context.
func (p *probing) image(ctx context.Context, i int) (string, error) {
	t := p.targets[i]
	if p.options.Image != "" {
		return p.options.Image, nil
	}
	var list corev1.PodList
	if err := t.cluster.Client.List(ctx, &list, client.InNamespace(t.Namespace), client.MatchingLabels(istio.IstiodLabels), client.Limit(1)); err != nil {
		return "", t.cluster.Explain("listing istiod's Pods", "list", "pods", err)
	}
	if len(list.Items) == 0 {
		return p.options.ImageFor(nil), nil
	}
	return p.options.ImageFor(&list.Items[0]), nil
}

// listen starts the Pod that answers connections, and returns where (HOST:PORT).
func (p *probing) listen(ctx context.Context, i int, image string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, p.options.Timeout)
	defer cancel()
	arguments := []string{"listen", "--address=:" + strconv.Itoa(listenPort), "--answer=" + answer(p.suffix, i)}
	pod := p.pod(i, "istiod-agent-listener-", image, arguments)
	if err := p.create(ctx, i, pod, p.listeners); err != nil {
		return "", err
	}
	var address netip.Addr
	ready := pods.Ready("its start")
	err := pods.Await(ctx, p.targets[i].cluster, client.ObjectKeyFromObject(pod), p.options.Timeout, p.progress, func(pod *corev1.Pod) (bool, string, error) {
		done, waiting, err := ready(pod)
		if !done || err != nil {
			return done, waiting, err
		}
		if pod.Status.PodIP == "" {
			return false, "its address", nil
		}
		address, err = podAddress(pod.Status.PodIP)
		return true, "", err
	})
	return netip.AddrPortFrom(address, listenPort).String(), err
}

// podAddress parses the address of a Pod. Only the API server vouches for it, and Pods of the other clusters connect to it.
func podAddress(text string) (netip.Addr, error) {
	address, err := netip.ParseAddr(text)
	if err != nil || address.Zone() != "" || probe.IsBarred(address) {
		return netip.Addr{}, fmt.Errorf("the API server reports %.50q as the address of a Pod; expected one that is not loopback, link-local or multicast", text)
	}
	return address, nil
}

// probe starts the Pod that makes connections of one reader, and returns the results in their order.
func (p *probing) probe(ctx context.Context, i int, image string, connections []connection) ([]probe.Result, error) {
	limit := p.options.Timeout + reportLimit
	if len(connections) > probe.MaxEndpoints {
		return nil, fmt.Errorf("a Pod can make at most %d connections, and needs %d; join fewer clusters at once", probe.MaxEndpoints, len(connections))
	}
	arguments := []string{"probe", "--limit=" + connectLimit.String()}
	for _, c := range connections {
		if len(c.endpoint.CA) > maxCA {
			return nil, fmt.Errorf("the CA of %s has %d bytes; expected at most %d", p.targets[c.target].Context, len(c.endpoint.CA), maxCA)
		}
		text, err := json.Marshal(c.endpoint)
		if err != nil {
			return nil, err
		}
		arguments = append(arguments, "--endpoint="+string(text))
	}
	pod := p.pod(i, "istiod-agent-probe-", image, arguments)
	if err := p.create(ctx, i, pod, p.probes); err != nil {
		return nil, err
	}
	var message string
	if err := pods.Await(ctx, p.targets[i].cluster, client.ObjectKeyFromObject(pod), limit, p.progress, pods.Ended("its connections", &message)); err != nil {
		return nil, err
	}
	results, err := probe.Decode(message, len(connections))
	if err != nil {
		return nil, fmt.Errorf("pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return results, nil
}

// pod returns a Pod in istiod's namespace. Its labels select it for no Service of istiod, and for no network policy of istiod alone.
func (p *probing) pod(i int, prefix, image string, arguments []string) *corev1.Pod {
	labels := pods.NotInMesh()
	labels[pods.Label] = "true"
	meta := metav1.ObjectMeta{Namespace: p.targets[i].Namespace, Name: prefix + p.suffix, Labels: labels, Annotations: map[string]string{"sidecar.istio.io/inject": "false"}}
	return pods.New(meta, image, arguments, p.options.Timeout+reportLimit+time.Minute)
}

// create creates a Pod, and records it for remove unless the API server refuses it.
func (p *probing) create(ctx context.Context, i int, pod *corev1.Pod, in []*corev1.Pod) error {
	err := p.targets[i].cluster.Client.Create(ctx, pod, owner)
	if err == nil || !pods.Refused(err) {
		in[i] = pod
	}
	return p.targets[i].cluster.Explain("creating Pod "+pod.Namespace+"/"+pod.Name+", which would connect to the other clusters", "create", "pods", err)
}

// remove removes all Pods, and returns a text for each that remains.
func (p *probing) remove(ctx context.Context) []string {
	return texts(p.each("removing the Pods", func(i int) error {
		var left []string
		for _, pod := range []*corev1.Pod{p.probes[i], p.listeners[i]} {
			if pod == nil {
				continue
			}
			if text := pods.Remove(ctx, p.targets[i].cluster, "pod", pod); text != "" {
				left = append(left, text)
			}
		}
		if len(left) > 0 {
			return errors.New(strings.Join(left, "; "))
		}
		return nil
	}))
}

// texts returns the errors of each, one by one.
func texts(err error) (all []string) {
	joined, ok := err.(interface{ Unwrap() []error })
	switch {
	case err == nil:
		return nil
	case !ok:
		return []string{err.Error()}
	}
	for _, one := range joined.Unwrap() {
		all = append(all, one.Error())
	}
	return all
}
