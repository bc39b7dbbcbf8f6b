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
const look = time.Second

// one is a context, and what became of it.
type one struct {
	Place
	cluster *clusters.Cluster
	// err is why it could not be asked; left is what is waited for.
	err     error
	left    string
	changed bool
}

// failures are of those that could not be asked.
func failures(all []*one) (lines []string) {
	for _, each := range all {
		if each.err != nil {
			lines = append(lines, each.Context+": "+terminal.OneLine(each.err.Error()))
		}
	}
	return lines
}

// annotate does what a plan says, in the order of the contexts.
func annotate(ctx context.Context, all []*one, plan *Plan, dryRun bool) error {
	for i, each := range all {
		if plan.Annotations[i] == nil {
			continue
		}
		set := map[string]any{}
		for key, value := range plan.Annotations[i] {
			if set[key] = value; value == "" {
				set[key] = nil // which removes it
			}
		}
		if err := each.patch(ctx, set, dryRun); err != nil {
			what := "nothing was changed, in any context: "
			if !dryRun {
				what = fmt.Sprintf("the contexts before %s were changed; run the same again: ", each.Context)
			}
			return fmt.Errorf("%s%s: %w", what, each.Context, err)
		}
		each.changed = true
	}
	return nil
}

func (o *one) patch(ctx context.Context, annotations map[string]any, dryRun bool) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": annotations}})
	if err != nil {
		return err
	}
	object := untyped()
	object.SetNamespace(o.Mesh.Namespace)
	object.SetName(o.Mesh.Name)
	options := []client.PatchOption{client.FieldOwner("kubectl-istiod_agent")}
	if dryRun {
		options = append(options, client.DryRunAll)
	}
	return o.cluster.Explain("annotating VirtualMesh "+o.Mesh.String(), "patch", resource,
		o.cluster.Client.Patch(ctx, object, client.RawPatch(types.MergePatchType, patch), options...))
}

// await reads every place until each is where it should be, or the time is out; what is left of it stays in left.
func (f *flags) await(ctx context.Context, stage networkingv1.RootRotation, plan *Plan, all []*one, progress *terminal.Progress) {
	limited, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	var pending sync.WaitGroup
	for _, each := range all {
		pending.Go(func() {
			each.await(ctx, limited, stage, plan, f.now, progress)
			progress.Leave(each.Context)
		})
	}
	pending.Wait()
	f.ended = terminal.After(limited, f.timeout)
}

// await asks within ctx, which the end of the waiting does not cut short: a question that is cut short is no answer.
func (o *one) await(ctx, limited context.Context, stage networkingv1.RootRotation, plan *Plan, now bool, progress *terminal.Progress) {
	hurried := !now
	o.left = "an answer of the API server's"
	_ = wait.PollUntilContextCancel(limited, look, true, func(context.Context) (bool, error) {
		place, err := readPlace(ctx, o.cluster, o.Mesh, false)
		if err != nil {
			if ctx.Err() == nil {
				o.err = err // it may succeed a moment later
			}
			return false, nil
		}
		o.err, o.Place = nil, place
		if o.left = o.Place.left(stage, plan); o.left == "" {
			return true, nil
		}
		progress.Say(o.Context, "waiting for %s", o.left)
		if !hurried && place.Rotation != nil && place.Rotation.Stage == networkingv1.StageSignWithNew {
			hurried = o.hurry(ctx)
		}
		return false, nil
	})
	if stage == networkingv1.RotateNone && o.left == "" && o.err == nil {
		o.err = o.patch(ctx, map[string]any{
			networkingv1.RootRotationAnnotation: nil, networkingv1.TrustedRootsAnnotation: nil, networkingv1.RotateFromSecretAnnotation: nil,
		}, false)
	}
}

// left says what is waited for until a place is where a stage wants it.
func (p *Place) left(stage networkingv1.RootRotation, plan *Plan) string {
	if stage == networkingv1.RotateNone {
		if p.Rotation != nil {
			return "istiod-agent-webhook to act on the VirtualMesh (kubectl istiod-agent check, if it does not)"
		}
		return ""
	}
	return p.lacking(networkingv1.RootRotationStages[stage.Allowed()-1], plan.Roots)
}

// hurry asks the agents for a new CA at once, of the ten minutes that a changed specification is spread over.
func (o *one) hurry(ctx context.Context) (done bool) {
	for _, key := range o.Certificates {
		certificate, err := renew.Get(ctx, o.cluster, key)
		if err == nil {
			_, err = renew.Ask(ctx, o.cluster, certificate)
		}
		if err != nil {
			o.err = err // as it is not, it is asked again
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
