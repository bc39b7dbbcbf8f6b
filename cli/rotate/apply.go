// SPDX-License-Identifier: Apache-2.0

package rotate

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"

	networkingv1 "github.com/istiod-agent/istiod-agent/api/networking/v1"
	"github.com/istiod-agent/istiod-agent/cli/clusters"
	"github.com/istiod-agent/istiod-agent/cli/renew"
	"github.com/istiod-agent/istiod-agent/cli/shell"
	"github.com/istiod-agent/istiod-agent/cli/terminal"
)

const pollInterval = time.Second

// target is the VirtualMesh of one context, and the result of the command there.
type target struct {
	clusterState
	cluster *clusters.Cluster
	// err is why a request failed, remaining what the stage still lacks.
	err       error
	remaining string
	changed   bool
}

func failures(targets []*target) (lines []string) {
	for _, target := range targets {
		if target.err != nil {
			lines = append(lines, target.Context+": "+terminal.OneLine(target.err.Error()))
		}
	}
	return lines
}

// annotate applies a plan, in the order of the contexts.
func annotate(ctx context.Context, targets []*target, plan *rotationPlan, dryRun bool) error {
	for i, target := range targets {
		if plan.Annotations[i] == nil {
			continue
		}
		if err := target.patch(ctx, plan.Annotations[i], dryRun); err != nil {
			changed := "no context was changed: "
			if !dryRun {
				changed = fmt.Sprintf("the contexts before %s were changed; run the command again: ", target.Context)
			}
			return fmt.Errorf("%s%s: %w", changed, target.Context, err)
		}
		target.changed = true
	}
	return nil
}

func (t *target) patch(ctx context.Context, annotations map[string]any, dryRun bool) error {
	var options []client.PatchOption
	if dryRun {
		options = append(options, client.DryRunAll)
	}
	err := t.cluster.Annotate(ctx, clusters.VirtualMeshKind, t.Mesh, annotations, options...)
	return t.cluster.Explain("annotating VirtualMesh "+t.Mesh.String(), "patch", clusters.VirtualMeshes, err)
}

// await polls every target until the stage is complete there, or the timeout ends.
func (f *flags) await(ctx context.Context, stage networkingv1.RootRotation, plan *rotationPlan, targets []*target, progress *terminal.Progress) {
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

// await polls within ctx: the end of waitCtx does not interrupt a poll, which would leave its result unknown. With now, it
// requests a renewal once the controller asks for certificates under the new root.
func (t *target) await(ctx, waitCtx context.Context, stage networkingv1.RootRotation, plan *rotationPlan, now bool, progress *terminal.Progress) {
	renewRequested := !now
	t.remaining = "a response of the API server"
	_ = wait.PollUntilContextCancel(waitCtx, pollInterval, true, func(context.Context) (bool, error) {
		state, err := readState(ctx, t.cluster, t.Mesh, false)
		if err != nil {
			if ctx.Err() == nil {
				t.err = err // until a later poll succeeds
			}
			return false, nil
		}
		t.err, t.clusterState = nil, state
		if t.remaining = t.clusterState.remaining(stage, plan); t.remaining == "" {
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

// remaining returns what a stage still lacks here; empty when it is complete.
func (s *clusterState) remaining(stage networkingv1.RootRotation, plan *rotationPlan) string {
	if stage == networkingv1.RotateNone {
		if s.Rotation != nil {
			return actOnMesh
		}
		return ""
	}
	return s.waitingFor(networkingv1.RootRotationStages[stage.Allowed()-1], plan.Roots)
}

// renewNow requests new CAs at once: agents spread a changed specification over ten minutes.
func (t *target) renewNow(ctx context.Context) (done bool) {
	for _, key := range t.Certificates {
		certificate, err := renew.Get(ctx, t.cluster, key)
		if err == nil {
			_, err = renew.Request(ctx, t.cluster, certificate)
		}
		if err != nil {
			t.err = err // and the next poll retries
			return false
		}
	}
	return true
}

// next returns the command for the next stage, and its precondition.
func (f *flags) next(stage networkingv1.RootRotation) string {
	if stage == networkingv1.RotateNone {
		return ""
	}
	command := []string{"kubectl istiod-agent rotate-root", stages[slices.Index(stages, string(stage))+1]}
	if f.Mesh != "" {
		command = append(command, "--virtual-mesh="+shell.Quote(f.Mesh))
	}
	for _, name := range f.Contexts {
		command = append(command, "--context="+shell.Quote(name))
	}
	const renewed = "when every workload has renewed its certificate (within 24 hours by default) or was restarted:"
	precondition := map[networkingv1.RootRotation]string{
		networkingv1.RotateTrustBoth:   "make the VirtualMesh of every cluster name the CA of the new root (the next stage uses it); " + renewed,
		networkingv1.RotateSignWithNew: renewed,
		networkingv1.RotateDropOld:     "the root change is complete; remove its annotations:",
	}
	return precondition[stage] + "\n  " + strings.Join(command, " ") + f.Arguments()
}
