// SPDX-License-Identifier: Apache-2.0

// Package renew asks agents for a new CA at once, and waits until istiod uses it.
package renew

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/exit"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
)

// The exit codes besides 0.
const (
	codeNotRenewed = 1
	codeUnknown    = 2
)

const (
	resource = "issuedcertificates.certificates.mesh.gloo.solo.io"
	// look is how often the status is read while it is waited for.
	look = 500 * time.Millisecond
)

type flags struct {
	clusters.Flags
	contexts  []string
	namespace string
	all       bool
	wait      bool
	timeout   time.Duration
}

// Command is `renew`.
func Command() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "renew [NAME...]",
		Short: "Have istiods get a new CA now",
		Long: `Asks for a new CA certificate for the IssuedCertificates named, or for all of
them, and waits until every replica of istiod was seen to use its own. Nothing
restarts. What keeps a replica from it is told when the time is out.

Exit codes: 0 all have a new CA (with --wait=false: were asked to get one); 1 some
have not, in time; 2 something could not be asked or found out, or the flags are
wrong.`,
		Example: `  kubectl istiod-agent renew istiod-istio-system-cluster-1 -n istio-system
  kubectl istiod-agent renew --all --context cluster-1 --context cluster-2`,
		RunE: f.run,
	}
	set := cmd.Flags()
	set.StringArrayVar(&f.contexts, "context", nil, "kubeconfig `context` to ask; may be repeated (default: the current one)")
	set.StringVarP(&f.namespace, "namespace", "n", "", "`namespace` of the IssuedCertificates (default: istio-system; with --all, all)")
	set.BoolVar(&f.all, "all", false, "renew all IssuedCertificates")
	set.BoolVar(&f.wait, "wait", true, "wait until istiod uses the new CA")
	set.DurationVar(&f.timeout, "timeout", 5*time.Minute, "how `long` to wait")
	f.Add(set)
	_ = cmd.RegisterFlagCompletionFunc("context", clusters.CompleteContexts(&f.Flags))
	exit.Usage(cmd, codeUnknown)
	return cmd
}

func (f *flags) run(cmd *cobra.Command, names []string) error {
	switch {
	case len(names) == 0 && !f.all:
		return exit.With(codeUnknown, errors.New("expected the names of IssuedCertificates (kubectl get issuedcertificates -A), or --all"))
	case len(names) > 0 && f.all:
		return exit.With(codeUnknown, errors.New("--all: expected no names beside it"))
	case f.timeout <= 0:
		return exit.With(codeUnknown, fmt.Errorf("--timeout: expected a positive duration, got %s", f.timeout))
	}
	contexts := f.contexts
	if len(contexts) == 0 {
		contexts = []string{""}
	}
	progress := terminal.NewProgress(cmd.ErrOrStderr())
	ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
	defer cancel()
	outcomes := make([]outcome, len(contexts))
	var pending sync.WaitGroup
	for i, name := range contexts {
		pending.Go(func() { outcomes[i] = f.renew(ctx, name, names, progress) })
	}
	pending.Wait()
	progress.Done()
	return tell(cmd.OutOrStdout(), outcomes)
}

// outcome is what became of one context.
type outcome struct {
	done []string
	// late are replicas that have no new CA; failed is what could not be asked.
	late, failed []string
}

func tell(out io.Writer, outcomes []outcome) error {
	var all outcome
	for _, each := range outcomes {
		all.done, all.late, all.failed = append(all.done, each.done...), append(all.late, each.late...), append(all.failed, each.failed...)
	}
	for _, line := range all.done {
		if _, err := fmt.Fprintln(out, line); err != nil {
			return exit.With(codeUnknown, err)
		}
	}
	wrong := strings.Join(slices.Concat(all.late, all.failed), "\n")
	switch {
	case len(all.failed) > 0:
		return exit.With(codeUnknown, errors.New(wrong))
	case len(all.late) > 0:
		return exit.With(codeNotRenewed, errors.New(wrong))
	}
	return nil
}

// renew asks in one context, and waits.
func (f *flags) renew(ctx context.Context, name string, names []string, progress *terminal.Progress) (found outcome) {
	cluster, err := f.Open(name)
	if err != nil {
		found.failed = []string{cluster.Context + ": " + err.Error()}
		return found
	}
	chosen, missing, err := f.choose(ctx, cluster, names)
	if err != nil {
		found.failed = []string{cluster.Context + ": " + err.Error()}
		return found
	}
	for _, each := range missing {
		found.failed = append(found.failed, cluster.Context+": "+each)
	}
	for i := range chosen {
		certificate := &chosen[i]
		about := fmt.Sprintf("%s: %s/%s", cluster.Context, certificate.Namespace, certificate.Name)
		if err := ask(ctx, cluster, certificate); err != nil {
			found.failed = append(found.failed, about+": "+err.Error())
			continue
		}
		if !f.wait {
			found.done = append(found.done, about+": a new CA was asked for")
			continue
		}
		waiting, err := await(ctx, cluster, certificate, func(waiting []string) {
			progress.Say("%s: waiting for %s", about, strings.Join(waiting, "; "))
		})
		switch {
		case err != nil:
			found.failed = append(found.failed, about+": "+err.Error())
		case len(waiting) > 0:
			found.late = append(found.late, fmt.Sprintf("%s: not renewed within %s: %s", about, f.timeout, strings.Join(waiting, "; ")))
		default:
			found.done = append(found.done, result(cluster.Context, certificate))
		}
	}
	return found
}

// choose reads the IssuedCertificates to renew; missing says which names are not there.
func (f *flags) choose(ctx context.Context, cluster *clusters.Cluster, names []string) (chosen []certificatesv1.IssuedCertificate, missing []string, err error) {
	if f.all {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(certificatesv1.GroupVersion.WithKind(certificatesv1.Kind + "List"))
		if err := cluster.Client.List(ctx, list, client.InNamespace(f.namespace)); err != nil {
			return nil, nil, cluster.Explain("listing IssuedCertificates", "list", resource, err)
		}
		for i := range list.Items {
			chosen = append(chosen, read(&list.Items[i]))
		}
		if len(chosen) == 0 {
			missing = []string{"there is no IssuedCertificate; kubectl istiod-agent check says why"}
		}
		return chosen, missing, nil
	}
	namespace := cmp.Or(f.namespace, "istio-system")
	for _, name := range names {
		object := empty()
		err := cluster.Client.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, object)
		switch {
		case err == nil:
			chosen = append(chosen, read(object))
		case client.IgnoreNotFound(err) == nil:
			missing = append(missing, fmt.Sprintf("there is no IssuedCertificate %s/%s; %s get issuedcertificates -A lists those that are there", namespace, name, cluster.Kubectl()))
		default:
			return nil, nil, cluster.Explain("reading IssuedCertificate "+namespace+"/"+name, "get", resource, err)
		}
	}
	return chosen, missing, nil
}

// ask is `kubectl annotate issuedcertificate NAME istiod-agent.io/renew=NOW --overwrite`.
func ask(ctx context.Context, cluster *clusters.Cluster, certificate *certificatesv1.IssuedCertificate) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{
		certificatesv1.RenewAnnotation: time.Now().UTC().Format(time.RFC3339Nano),
	}}})
	if err != nil {
		return err
	}
	object := empty()
	object.SetNamespace(certificate.Namespace)
	object.SetName(certificate.Name)
	return cluster.Explain("asking for a renewal", "patch", resource,
		cluster.Client.Patch(ctx, object, client.RawPatch(types.MergePatchType, patch), client.FieldOwner("kubectl-istiod_agent")))
}

// await reads the status until every replica has a new CA, or ctx ends: then it gives those that have not.
func await(ctx context.Context, cluster *clusters.Cluster, certificate *certificatesv1.IssuedCertificate, tell func([]string)) (waiting []string, err error) {
	renewal := newRenewal(certificate.Status)
	key := client.ObjectKeyFromObject(certificate)
	var last error // an answer that fails may succeed a moment later
	ended := wait.PollUntilContextCancel(ctx, look, true, func(ctx context.Context) (bool, error) {
		object := empty()
		if err := cluster.Client.Get(ctx, key, object); err != nil {
			if ctx.Err() == nil {
				last = err
			}
			return false, nil
		}
		last = nil
		*certificate = read(object)
		if waiting = renewal.waiting(certificate.Status); len(waiting) > 0 {
			tell(waiting)
		}
		return len(waiting) == 0, nil
	})
	if last != nil {
		return nil, cluster.Explain("reading how far it is", "get", resource, last)
	}
	if ended != nil && len(waiting) == 0 {
		waiting = []string{"an answer of the API server's"}
	}
	return waiting, nil
}

func empty() *unstructured.Unstructured {
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(certificatesv1.GroupVersion.WithKind(certificatesv1.Kind))
	return object
}

// read takes what counts here of an IssuedCertificate.
func read(object *unstructured.Unstructured) (certificate certificatesv1.IssuedCertificate) {
	certificate.Name, certificate.Namespace = object.GetName(), object.GetNamespace()
	status, _, _ := unstructured.NestedMap(object.Object, "status")
	_ = runtime.DefaultUnstructuredConverter.FromUnstructured(status, &certificate.Status) // what is unreadable stays empty
	return certificate
}
