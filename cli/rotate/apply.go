// SPDX-License-Identifier: Apache-2.0

package rotate

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/renew"
	"github.com/istiod-agent/istiod-agent/cli/shell"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
)

// look is how often the status is read while it is waited for.
const pollInterval = time.Second

// one is a context, and what became of it.
type target struct {
	ClusterState
	cluster *clusters.Cluster
	// err is why it could not be asked; left is what is waited for.
	err       error
	remaining string
	changed   bool
}

// failures are of those that could not be asked.
func failures(targets []*target) (lines []string) {
	for _, target := range targets {
		if target.err != nil {
			lines = append(lines, target.Context+": "+terminal.OneLine(target.err.Error()))
		}
	}
	return lines
}

// annotate does what a plan says, in the order of the contexts.
func annotate(ctx context.Context, targets []*target, plan *Plan, dryRun bool) error {
	for i, target := range targets {
		if plan.Annotations[i] == nil {
			continue
		}
		set := map[string]any{}
		for key, value := range plan.Annotations[i] {
			if set[key] = value; value == "" {
				set[key] = nil // which removes it
			}
		}
		if err := target.patch(ctx, set, dryRun); err != nil {
			what := "nothing was changed, in any context: "
			if !dryRun {
				what = fmt.Sprintf("the contexts before %s were changed; run the same again: ", target.Context)
			}
			return fmt.Errorf("%s%s: %w", what, target.Context, err)
		}
		target.changed = true
	}
	return nil
}

func (t *target) patch(ctx context.Context, annotations map[string]any, dryRun bool) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": annotations}})
	if err != nil {
		return err
	}
	object := untyped()
	object.SetNamespace(t.Mesh.Namespace)
	object.SetName(t.Mesh.Name)
	options := []client.PatchOption{client.FieldOwner("kubectl-istiod_agent")}
	if dryRun {
		options = append(options, client.DryRunAll)
	}
	return t.cluster.Explain("annotating VirtualMesh "+t.Mesh.String(), "patch", resource,
		t.cluster.Client.Patch(ctx, object, client.RawPatch(types.MergePatchType, patch), options...))
}

// await reads every place until each is where it should be, or the time is out; what is left of it stays in left.
func (f *flags) await(ctx context.Context, stage networkingv1.RootRotation, plan *Plan, targets []*target, progress *terminal.Progress) {
	waitCtx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	var pending sync.WaitGroup
	for _, target := range targets {
		pending.Go(func() {
			target.await(ctx, waitCtx, stage, plan, f.now, progress)
			progress.Remove(target.Context)
		})
	}
	pending.Wait()
	f.waitEnd = terminal.WaitEnd(waitCtx, f.timeout)
}

// await asks within ctx, which the end of the waiting does not cut short: a question that is cut short is no answer.
func (t *target) await(ctx, waitCtx context.Context, stage networkingv1.RootRotation, plan *Plan, now bool, progress *terminal.Progress) {
	renewRequested := !now
	t.remaining = "an answer of the API server's"
	_ = wait.PollUntilContextCancel(waitCtx, pollInterval, true, func(context.Context) (bool, error) {
		state, err := readState(ctx, t.cluster, t.Mesh, false)
		if err != nil {
			if ctx.Err() == nil {
				t.err = err // it may succeed a moment later
			}
			return false, nil
		}
		t.err, t.ClusterState = nil, state
		if t.remaining = t.ClusterState.remaining(stage, plan); t.remaining == "" {
			return true, nil
		}
		progress.Update(t.Context, "waiting for %s", t.remaining)
		if !renewRequested && state.Rotation != nil && state.Rotation.Stage == networkingv1.StageSignWithNew {
			renewRequested = t.renewNow(ctx)
		}
		return false, nil
	})
	if stage == networkingv1.RotateNone && t.remaining == "" && t.err == nil {
		t.err = t.patch(ctx, map[string]any{
			networkingv1.RootRotationAnnotation: nil, networkingv1.TrustedRootsAnnotation: nil, networkingv1.RotateFromSecretAnnotation: nil,
		}, false)
	}
}

// left says what is waited for until a place is where a stage wants it.
func (s *ClusterState) remaining(stage networkingv1.RootRotation, plan *Plan) string {
	if stage == networkingv1.RotateNone {
		if s.Rotation != nil {
			return "istiod-agent-webhook to act on the VirtualMesh (kubectl istiod-agent check, if it does not)"
		}
		return ""
	}
	return s.waitingFor(networkingv1.RootRotationStages[stage.Allowed()-1], plan.Roots)
}

// hurry asks the agents for a new CA at once, of the ten minutes that a changed specification is spread over.
func (t *target) renewNow(ctx context.Context) (done bool) {
	for _, key := range t.Certificates {
		certificate, err := renew.Get(ctx, t.cluster, key)
		if err == nil {
			_, err = renew.Request(ctx, t.cluster, certificate)
		}
		if err != nil {
			t.err = err // as it is not, it is asked again
			return false
		}
	}
	return true
}

// next is the command that goes on, and what to do before.
func (f *flags) next(stage networkingv1.RootRotation) string {
	at := slices.Index(stages, string(stage))
	if at > 2 {
		return ""
	}
	command := []string{"kubectl istiod-agent rotate-root", stages[at+1]}
	if f.Mesh != "" {
		command = append(command, "--virtual-mesh="+shell.Quote(f.Mesh))
	}
	for _, name := range f.Contexts {
		command = append(command, "--context="+shell.Quote(name))
	}
	before := map[networkingv1.RootRotation]string{
		networkingv1.RotateTrustBoth: "have the VirtualMesh of every cluster name the Vault of the new root, unless it does (it counts from the next stage on); " +
			"when every workload has renewed its certificate, 24 hours later by default, or was restarted:",
		networkingv1.RotateSignWithNew: "when every workload has renewed its certificate, 24 hours later by default, or was restarted:",
		networkingv1.RotateDropOld:     "the change is complete; take its annotations away:",
	}
	return before[stage] + "\n  " + strings.Join(command, " ")
}
