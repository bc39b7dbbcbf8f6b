// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	admissionv1 "k8s.io/api/admission/v1"

	"github.com/istiod-agent/istiod-agent/webhook"
)

// client asks one server for admission as the API server does: over one HTTP/2
// connection.
type client struct {
	url  string
	http *http.Client
}

func newClient(address string, roots *x509.CertPool) *client {
	return &client{
		url: "https://" + address + webhook.DeploymentPath,
		http: &http.Client{Transport: &http.Transport{
			ForceAttemptHTTP2: true,
			TLSClientConfig:   &tls.Config{RootCAs: roots, ServerName: "localhost"},
		}},
	}
}

// ask posts one review and reads the whole answer.
func (c *client) ask(ctx context.Context, review []byte, answer io.Writer) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(review))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.ProtoMajor != 2 || response.StatusCode != http.StatusOK {
		return fmt.Errorf("answered in %s with %s", response.Proto, response.Status)
	}
	_, err = io.Copy(answer, response.Body)
	return err
}

// check asks once and makes sure that the answer is the one to be measured:
// allowed, and patched unless by the floor.
func (c *client) check(ctx context.Context, review []byte, patched bool) error {
	var raw bytes.Buffer
	if err := c.ask(ctx, review, &raw); err != nil {
		return err
	}
	var answer admissionv1.AdmissionReview
	if err := json.Unmarshal(raw.Bytes(), &answer); err != nil {
		return err
	}
	if answer.Response == nil || !answer.Response.Allowed || (len(answer.Response.Patch) > 0) != patched {
		return fmt.Errorf("unexpected answer %s", &raw)
	}
	return nil
}

// load asks as a load says. It gives the median time of a request in milliseconds with one in parallel, else the requests per second.
func (c *client) load(ctx context.Context, review []byte, l load) (float64, error) {
	var workers errgroup.Group
	took := make([]time.Duration, l.requests) // those that a worker does not come to are shared out evenly
	start := time.Now()
	for worker := range l.parallel {
		workers.Go(func() error {
			for i := worker; i < l.requests; i += l.parallel {
				asked := time.Now()
				if err := c.ask(ctx, review, io.Discard); err != nil {
					return err
				}
				took[i] = time.Since(asked)
			}
			return nil
		})
	}
	err := workers.Wait()
	if l.parallel > 1 {
		return float64(l.requests) / time.Since(start).Seconds(), err
	}
	slices.Sort(took)
	return took[l.requests/2].Seconds() * 1000, err
}
