// SPDX-License-Identifier: Apache-2.0

// Package remotes reads remote secrets: the kubeconfigs by which an istiod reads the services and endpoints of other clusters.
// It never returns a token.
package remotes

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/internal/istio"
)

const (
	// PartnerLabel is the other cluster's name, on each object of `join`: on a remote secret the cluster that it reads, on an
	// account and its roles the cluster that uses them.
	PartnerLabel = "istiod-agent.io/remote-cluster"
	// ExpiresAnnotation is when the token of a remote secret expires (RFC 3339).
	ExpiresAnnotation = "istiod-agent.io/token-expires"
	// AccountPrefix and the name of a cluster are the account that this cluster's istiod uses in another one.
	AccountPrefix = "istiod-agent-remote-"
)

const (
	// maxKubeconfig is the most bytes of a kubeconfig that is parsed; those with a token have five kilobytes.
	maxKubeconfig = 64 << 10
	// maxNodes is the most YAML nodes of a kubeconfig; those of remote secrets have thirty.
	maxNodes = 5000
	pageSize = 50
	// maxSecrets is the most remote secrets, and the most clusters in them, that are read.
	maxSecrets = 1000
	// maxPages is the most answers that are read: an API server may return fewer objects than pageSize.
	maxPages = 10 * maxSecrets / pageSize
)

// Secret is a remote secret, without its token.
type Secret struct {
	Key types.NamespacedName
	// Clusters are the data keys, sorted.
	Clusters []string
	// Joined is true for a secret of `join` with the one cluster that its label names.
	Joined bool
	// ResourceVersion is that of the read object.
	ResourceVersion string
	// Unclear is why the secret is none that `join` understands; empty for a single kubeconfig with the token of a service
	// account. The fields below are then set.
	Unclear string
	// Unsafe is why the connection to the other cluster is not one that `join` would make: others may read or answer it.
	Unsafe string

	Server, TLSServerName string
	CA                    []byte // PEM
	// Account is the service account of the token, and its UID if the token names it.
	Account    types.NamespacedName
	AccountUID types.UID
	// TokenSecret is the name of the Secret that the token is stored in, besides this one; empty for tokens of the TokenRequest API.
	TokenSecret string
	// IssuedAt and Expires are those of the token; zero where it has none.
	IssuedAt, Expires time.Time
}

// EndsSoon reports whether less than a third of the token's lifetime remains.
func (s *Secret) EndsSoon(now time.Time) bool {
	return !s.Expires.IsZero() && s.Expires.Sub(now) < s.Expires.Sub(s.IssuedAt)/3
}

// Expired reports whether the token has expired.
func (s *Secret) Expired(now time.Time) bool { return !s.Expires.IsZero() && !now.Before(s.Expires) }

// List reads the remote secrets of an istiod's namespace, or with "" of all namespaces. More than maxSecrets are an error.
func List(ctx context.Context, reader client.Reader, namespace string) ([]Secret, error) {
	var found []Secret
	known := 0
	more := ""
	for range maxPages {
		var page corev1.SecretList
		if err := reader.List(ctx, &page, client.InNamespace(namespace), client.MatchingLabels{istio.RemoteSecretLabel: "true"}, client.Limit(pageSize), client.Continue(more)); err != nil {
			return nil, err
		}
		for i := range page.Items {
			if known += max(1, len(page.Items[i].Data)); known > maxSecrets {
				return nil, errTooMany
			}
			found = append(found, Parse(&page.Items[i]))
		}
		if more = page.Continue; more == "" {
			return found, nil
		}
	}
	return nil, errTooMany
}

var errTooMany = fmt.Errorf("there are more than %d remote secrets, or clusters in them (label %s); no mesh has as many: delete those that no istiod needs", maxSecrets, istio.RemoteSecretLabel)

// Parse reads a remote secret.
func Parse(secret *corev1.Secret) Secret {
	s := Secret{Key: client.ObjectKeyFromObject(secret), ResourceVersion: secret.ResourceVersion}
	for name := range secret.Data {
		s.Clusters = append(s.Clusters, name)
	}
	slices.Sort(s.Clusters)
	if len(s.Clusters) != 1 {
		s.Unclear = fmt.Sprintf("it holds the kubeconfigs of %d clusters", len(s.Clusters))
		return s
	}
	s.Joined = secret.Labels[PartnerLabel] == s.Clusters[0]
	if err := s.read(secret.Data[s.Clusters[0]]); err != nil {
		s.Unclear = err.Error()
	}
	return s
}

// read returns errors that quote nothing of the kubeconfig.
func (s *Secret) read(kubeconfig []byte) error {
	if len(kubeconfig) > maxKubeconfig {
		return fmt.Errorf("its kubeconfig is larger than %d KiB", maxKubeconfig>>10)
	}
	if err := plainYAML(kubeconfig); err != nil {
		return err
	}
	config, err := clientcmd.Load(kubeconfig)
	if err != nil {
		return errors.New("its kubeconfig does not parse")
	}
	current := config.Contexts[config.CurrentContext]
	if current == nil || config.Clusters[current.Cluster] == nil || config.AuthInfos[current.AuthInfo] == nil {
		return errors.New("its kubeconfig has no current context with a cluster and a user")
	}
	cluster, user := config.Clusters[current.Cluster], config.AuthInfos[current.AuthInfo]
	token := user.Token
	if user.Token = ""; token == "" || !onlyToken(user) {
		return errors.New("its kubeconfig has another login than a token")
	}
	if err := s.readToken(token); err != nil {
		return err
	}
	s.Server, s.TLSServerName, s.CA = cluster.Server, cluster.TLSServerName, bytes.TrimSpace(cluster.CertificateAuthorityData)
	if s.Unsafe = unsafe(cluster); s.Unsafe != "" {
		s.Server = "" // differs from every server that join would write
	}
	return nil
}

// plainYAML returns an error for a kubeconfig with aliases, which would be expanded to any size, or with too many nodes. It expands
// nothing itself.
func plainYAML(kubeconfig []byte) error {
	var document yaml.Node
	if err := yaml.Unmarshal(kubeconfig, &document); err != nil {
		return errors.New("its kubeconfig does not parse")
	}
	pending := []*yaml.Node{&document}
	for count := 0; len(pending) > 0; count++ {
		node := pending[len(pending)-1]
		switch pending = append(pending[:len(pending)-1], node.Content...); {
		case node.Kind == yaml.AliasNode:
			return errors.New("its kubeconfig has YAML aliases")
		case count >= maxNodes:
			return fmt.Errorf("its kubeconfig has more than %d YAML nodes", maxNodes)
		}
	}
	return nil
}

// unsafe returns which field makes a connection unsafe; empty for none.
func unsafe(cluster *clientcmdapi.Cluster) string {
	server, err := url.Parse(cluster.Server)
	switch {
	case cluster.InsecureSkipTLSVerify:
		return "its kubeconfig has insecure-skip-tls-verify, so anyone on the way may answer and gets the token"
	case cluster.ProxyURL != "":
		return "its kubeconfig has proxy-url, which join never writes"
	case cluster.CertificateAuthority != "":
		return "its kubeconfig names a file as certificate-authority, which join never writes"
	case err != nil || server.Scheme != "https":
		return "its server is not https://HOST:PORT"
	default:
		return ""
	}
}

// onlyToken reports whether a user without its token has no other login.
func onlyToken(user *clientcmdapi.AuthInfo) bool {
	return user.TokenFile == "" && user.Exec == nil && user.AuthProvider == nil && user.Username == "" && user.Password == "" && user.Impersonate == "" &&
		user.ClientCertificate == "" && len(user.ClientCertificateData) == 0 && user.ClientKey == "" && len(user.ClientKeyData) == 0
}

// claims are those of a service account's token (pkg/serviceaccount/claims.go and legacy.go, Kubernetes 1.37).
type claims struct {
	Subject    string  `json:"sub"`
	IssuedAt   float64 `json:"iat"` // seconds since 1970
	Expires    float64 `json:"exp"`
	Kubernetes struct {
		ServiceAccount struct {
			UID types.UID `json:"uid"`
		} `json:"serviceaccount"`
	} `json:"kubernetes.io"`
	// Of a token in a Secret.
	SecretName string    `json:"kubernetes.io/serviceaccount/secret.name"`
	LegacyUID  types.UID `json:"kubernetes.io/serviceaccount/service-account.uid"`
}

// maxSeconds is the year 9999, the last that RFC 3339 can express.
const maxSeconds = 253402300799

// readToken reads the claims of a JWT (RFC 7519), unverified: only the API server of the other cluster knows the key.
func (s *Secret) readToken(token string) error {
	unclear := errors.New("its token is not that of a service account")
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return unclear
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return unclear
	}
	var c claims
	if json.Unmarshal(payload, &c) != nil {
		return unclear
	}
	names := strings.Split(c.Subject, ":")
	if len(names) != 4 || names[0] != "system" || names[1] != "serviceaccount" || names[2] == "" || names[3] == "" {
		return unclear
	}
	s.Account, s.AccountUID, s.TokenSecret = types.NamespacedName{Namespace: names[2], Name: names[3]}, c.Kubernetes.ServiceAccount.UID, c.SecretName
	if s.AccountUID == "" {
		s.AccountUID = c.LegacyUID
	}
	s.IssuedAt, s.Expires = seconds(c.IssuedAt), seconds(c.Expires)
	return nil
}

func seconds(value float64) time.Time {
	if value <= 0 {
		return time.Time{}
	}
	return time.Unix(int64(min(value, maxSeconds)), 0)
}
