// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
)

// certificate returns the name of the IssuedCertificate of the cluster's istiod.
func (c *target) certificate() string { return "istiod-istio-system-" + c.name }

// issued returns the agents' status entries by Pod.
func (c *target) issued(ctx context.Context, name string) (map[string]certificatesv1.CertificateStatus, error) {
	output, err := shell(ctx, "kubectl --context="+c.name+" get issuedcertificate -n istio-system "+name+" -o json")
	if err != nil {
		return nil, err
	}
	var certificate certificatesv1.IssuedCertificate
	if err := json.Unmarshal([]byte(output), &certificate); err != nil {
		return nil, err
	}
	all := map[string]certificatesv1.CertificateStatus{}
	for _, each := range certificate.Status.Certificates {
		all[each.Pod] = each
	}
	return all, nil
}

// serials waits until every istiod is ready with a confirmed CA, and returns the CAs' serial numbers by Pod.
func (c *target) serials(ctx context.Context, t *testing.T) map[string]string {
	t.Helper()
	var serials map[string]string
	eventually(ctx, t, 2*time.Minute, c.name+": every istiod uses a CA from Vault", func(ctx context.Context) error {
		issued, err := c.issued(ctx, c.certificate())
		if err != nil {
			return err
		}
		serials = map[string]string{}
		for _, pod := range c.istiods(ctx, t) {
			report, found := issued[pod.Name]
			switch {
			case !found:
				return fmt.Errorf("Pod %s has not reported", pod.Name)
			case !report.Confirmed:
				return fmt.Errorf("Pod %s: not confirmed: %s", pod.Name, report.Error)
			}
			for _, status := range pod.Status.ContainerStatuses {
				if !status.Ready {
					return fmt.Errorf("Pod %s: container %s is not ready", pod.Name, status.Name)
				}
			}
			serials[pod.Name] = report.SerialNumber
		}
		return nil
	})
	return serials
}

// starts returns the number of restarts of the containers with a name in all of istiod's Pods.
func (c *target) starts(ctx context.Context, t *testing.T, container string) (n int32) {
	t.Helper()
	for _, pod := range c.istiods(ctx, t) {
		for _, status := range pod.Status.ContainerStatuses {
			if status.Name == container {
				n += status.RestartCount
			}
		}
	}
	return n
}

// load makes a workload request certificates and do handshakes until the caller calls done, which fails the test if one failed
// for longer than a proxy retries.
func (c *target) load(ctx context.Context, t *testing.T) (done func()) {
	t.Helper()
	c.deployWorkload(ctx, t, "bookinfo")
	const patience = 10 * time.Second
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	calls := 0
	go func() {
		var since time.Time
		var last error
		for ctx.Err() == nil {
			err := call(ctx, c, c, "bookinfo", 0)
			if ctx.Err() != nil {
				break
			}
			calls++
			switch {
			case err == nil:
				since, last = time.Time{}, nil
			case since.IsZero():
				since, last = time.Now(), err
			case time.Since(since) > patience:
				ended <- err
				return
			}
		}
		if last != nil && time.Since(since) <= patience {
			last = nil
		}
		ended <- last
	}()
	return func() {
		t.Helper()
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("%s: workloads did not get certificates for %s: %v", c.name, patience, err)
		}
		if calls == 0 {
			t.Errorf("%s: there was no load", c.name)
		}
	}
}
