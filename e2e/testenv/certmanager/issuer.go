// SPDX-License-Identifier: Apache-2.0

package certmanager

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// CreateCAIssuer creates an Issuer that signs with a key, and the Secret of the same name in which cert-manager needs it. The
// chain is PEM, from the key's certificate upwards.
func CreateCAIssuer(ctx context.Context, c client.Client, namespace, name string, chain, key []byte) error {
	return errors.Join(
		c.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Type: corev1.SecretTypeTLS,
			Data: map[string][]byte{corev1.TLSCertKey: chain, corev1.TLSPrivateKeyKey: key},
		}),
		c.Create(ctx, &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "cert-manager.io/v1", "kind": "Issuer", "metadata": map[string]any{"name": name, "namespace": namespace},
			"spec": map[string]any{"ca": map[string]any{"secretName": name}},
		}}),
	)
}
