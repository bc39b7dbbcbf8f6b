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
	"sync"
	"time"

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

// load asks n times, so many at a time, and gives how long each took.
func (c *client) load(ctx context.Context, review []byte, n, parallel int) ([]time.Duration, error) {
	var (
		workers   sync.WaitGroup
		mu        sync.Mutex
		durations = make([]time.Duration, 0, n)
		failed    error
	)
	for range parallel {
		workers.Go(func() {
			own := make([]time.Duration, 0, n/parallel)
			for range n / parallel {
				start := time.Now()
				if err := c.ask(ctx, review, io.Discard); err != nil {
					mu.Lock()
					defer mu.Unlock()
					failed = err
					return
				}
				own = append(own, time.Since(start))
			}
			mu.Lock()
			defer mu.Unlock()
			durations = append(durations, own...)
		})
	}
	workers.Wait()
	return durations, failed
}
