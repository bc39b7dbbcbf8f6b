// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"net/http/httptest"
	"testing"
)

func TestNewTLS(t *testing.T) {
	admission, err := newTLS("")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(nil)
	server.TLS = admission.server
	server.StartTLS()
	defer server.Close()
	for version, accepted := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		connection, err := tls.Dial("tcp", server.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version})
		if (err == nil) != accepted {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if err == nil {
			_ = connection.Close()
		}
	}
}
