// SPDX-License-Identifier: Apache-2.0

package vaultdocs

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Kubectl does what `kubectl create secret` does with the arguments of the page. A Secret of the name is replaced: a reader of
// the page creates one of those that it shows.
type Kubectl struct {
	Client kubernetes.Interface
	// Read gives a file's content.
	Read func(name string) (string, error)
}

// Run runs a command.
func (k *Kubectl) Run(ctx context.Context, call Call) (string, error) {
	words := call.Arguments
	if len(words) < 4 || words[0] != "create" || words[1] != "secret" {
		return "", fmt.Errorf("the test knows no %q", words)
	}
	flags := flag.NewFlagSet("kubectl", flag.ContinueOnError)
	namespace := flags.String("n", "", "")
	file, certificate, key := flags.String("from-file", "", ""), flags.String("cert", "", ""), flags.String("key", "", "")
	if err := flags.Parse(words[4:]); err != nil || flags.NArg() > 0 || *namespace == "" {
		return "", errors.Join(err, fmt.Errorf("the test knows no %q", words))
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: words[3], Namespace: *namespace}, StringData: map[string]string{}}
	sources := map[string]string{}
	switch words[2] {
	case "generic":
		name, from, named := strings.Cut(*file, "=")
		if !named {
			from = name
		}
		sources[filepath.Base(name)] = from
	case "tls":
		secret.Type = corev1.SecretTypeTLS
		sources[corev1.TLSCertKey], sources[corev1.TLSPrivateKeyKey] = *certificate, *key
	default:
		return "", fmt.Errorf("the test knows no Secret %q", words[2])
	}
	for name, from := range sources {
		content, err := k.Read(from)
		if err != nil {
			return "", err
		}
		secret.StringData[name] = content
	}
	secrets := k.Client.CoreV1().Secrets(*namespace)
	if err := secrets.Delete(ctx, secret.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return "", err
	}
	_, err := secrets.Create(ctx, secret, metav1.CreateOptions{})
	return "", err
}
