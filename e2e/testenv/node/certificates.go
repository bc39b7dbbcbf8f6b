// SPDX-License-Identifier: Apache-2.0

package node

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/istiod-agent/istiod-agent/internal/testca"
)

// pki is the cluster's CA, and the folder of the certificates that it has signed.
type pki struct {
	dir string
	ca  *testca.Certificate
}

// file returns the path of a file.
func (p *pki) file(name string) string { return filepath.Join(p.dir, name) }

// lifetime of all certificates: valid also for a process whose clock is fast by a month.
const lifetime = 365 * 24 * time.Hour

// newPKI creates the CA, the API server's certificates and the key of service accounts' tokens.
func newPKI(dir string, address addresses) (*pki, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	now := time.Now()
	p := &pki{dir: dir, ca: testca.SelfSign(x509.Certificate{
		Subject: pkix.Name{CommonName: "kubernetes"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, NotBefore: now.Add(-time.Minute), NotAfter: now.Add(lifetime),
	}, nil)}
	if err := p.write("ca", p.ca); err != nil {
		return nil, err
	}
	if err := p.issue("apiserver", pkix.Name{CommonName: "kube-apiserver"}, x509.ExtKeyUsageServerAuth,
		[]string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"},
		address.node, address.api, "127.0.0.1"); err != nil {
		return nil, err
	}
	// For the API server's requests to the kubelet.
	if err := p.issue("apiserver-kubelet-client", pkix.Name{CommonName: "kube-apiserver", Organization: []string{"system:masters"}}, x509.ExtKeyUsageClientAuth, nil); err != nil {
		return nil, err
	}
	return p, p.issue("service-accounts", pkix.Name{CommonName: "service-accounts"}, x509.ExtKeyUsageAny, nil)
}

// issue writes NAME.crt and NAME.key.
func (p *pki) issue(name string, subject pkix.Name, usage x509.ExtKeyUsage, hosts []string, addresses ...string) error {
	template := x509.Certificate{
		Subject: subject, DNSNames: hosts, ExtKeyUsage: []x509.ExtKeyUsage{usage},
		KeyUsage: x509.KeyUsageDigitalSignature, NotBefore: p.ca.NotBefore, NotAfter: p.ca.NotAfter,
	}
	for _, address := range addresses {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(address))
	}
	return p.write(name, p.ca.Sign(template, nil))
}

func (p *pki) write(name string, certificate *testca.Certificate) error {
	if err := os.WriteFile(p.file(name+".key"), certificate.KeyPEM(), 0o600); err != nil {
		return err
	}
	return os.WriteFile(p.file(name+".crt"), certificate.PEM(), 0o600)
}

// users returns the users that authenticate by a token, with their groups.
func users(node string) map[string]string {
	return map[string]string{
		"admin":                          "system:masters",
		"system:kube-controller-manager": "",
		"system:kube-scheduler":          "",
		"system:kube-proxy":              "",
		"system:node:" + node:            "system:nodes",
	}
}

// logins writes the API server's token file and a kubeconfig for each user, and returns their paths by user.
func (c *Cluster) logins() (map[string]string, error) {
	ca, err := os.ReadFile(c.pki.file("ca.crt"))
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	var tokens []byte
	for user, groups := range users(c.Name) {
		secret := make([]byte, 16)
		if _, err := rand.Read(secret); err != nil {
			return nil, err
		}
		token := hex.EncodeToString(secret)
		tokens = append(tokens, token+","+user+","+user+`,"`+groups+"\"\n"...)
		config := clientcmdapi.NewConfig()
		config.Clusters[c.Name] = &clientcmdapi.Cluster{Server: "https://" + c.address.node + ":6443", CertificateAuthorityData: ca}
		config.AuthInfos[c.Name] = &clientcmdapi.AuthInfo{Token: token}
		config.Contexts[c.Name] = &clientcmdapi.Context{Cluster: c.Name, AuthInfo: c.Name}
		config.CurrentContext = c.Name
		files[user] = c.path("kubeconfig", strings.ReplaceAll(user, ":", "-"))
		if err := clientcmd.WriteToFile(*config, files[user]); err != nil {
			return nil, err
		}
	}
	return files, os.WriteFile(c.pki.file("tokens.csv"), tokens, 0o600)
}
