// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"net"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/istiod-agent/istiod-agent/cli/pods"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	contract "github.com/istiod-agent/istiod-agent/internal/traffic"
)

const (
	// account is the service account of the Pods.
	account = "traffic"
	// Names of the Pods.
	serverPod = "server"
	clientPod = "client"
	// Ports of the server.
	servicePort = 8080
	readyPort   = 8081
)

// site is the part of a run in one cluster.
type site struct {
	istiod    Istiod
	namespace string
	// index is the cluster's in the run: each cluster has a Service of its own, since Istio merges those of one name.
	index int
	image string
	// lifetime ends the Pods also when the command cannot.
	lifetime time.Duration
}

func serviceName(index int) string { return "server-" + strconv.Itoa(index) }

// target is the server of a cluster as clients name it, and as the report does.
func target(index int) string { return strconv.Itoa(index) }

// host is the mesh's name of a cluster's server, in the domain of the client's cluster.
func (s *site) host(index int) string {
	return net.JoinHostPort(serviceName(index)+"."+s.namespace+".svc."+s.istiod.Domain, strconv.Itoa(servicePort))
}

// objects returns everything but the client, in the order of creation.
func (s *site) objects() []client.Object {
	return []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.namespace, Labels: map[string]string{
			pods.Label:                           "true",
			"pod-security.kubernetes.io/enforce": "restricted",
			"istio-injection":                    "disabled",
			"istio.io/dataplane-mode":            "none",
		}}},
		&corev1.ServiceAccount{ObjectMeta: s.meta(account), AutomountServiceAccountToken: new(false)},
		&corev1.Service{ObjectMeta: s.meta(serviceName(s.index)), Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": serverPod},
			Ports:    []corev1.ServicePort{{Name: "grpc", Port: servicePort, TargetPort: intstr.FromInt32(servicePort)}},
		}},
		// gRPC uses mutual TLS only by an explicit rule (Istio pilot/pkg/networking/grpcgen/cds.go, applyTLS).
		s.config("security.istio.io", "PeerAuthentication", map[string]any{"mtls": map[string]any{"mode": "STRICT"}}),
		s.config("networking.istio.io", "DestinationRule", map[string]any{
			"host": "*." + s.namespace + ".svc." + s.istiod.Domain, "trafficPolicy": map[string]any{"tls": map[string]any{"mode": "ISTIO_MUTUAL"}},
		}),
		s.pod(serverPod, []string{"server", "--name=" + target(s.index), "--address=0.0.0.0:" + strconv.Itoa(servicePort), "--ready-address=:" + strconv.Itoa(readyPort)}, func(c *corev1.Container) {
			c.Ports = []corev1.ContainerPort{{Name: "grpc", ContainerPort: servicePort}}
			c.ReadinessProbe = &corev1.Probe{
				PeriodSeconds: 1,
				ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(readyPort)}},
			}
		}),
	}
}

// client returns the Pod that calls the servers of these clusters.
func (s *site) client(limit time.Duration, indexes []int) *corev1.Pod {
	arguments := []string{"client", "--limit=" + limit.String()}
	for _, index := range indexes {
		arguments = append(arguments, "--target="+target(index)+"="+s.host(index))
	}
	return s.pod(clientPod, arguments, func(*corev1.Container) {})
}

func (s *site) meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: s.namespace, Name: name}
}

// config returns an object of Istio, in the version that 1.20 serves already.
func (s *site) config(group, kind string, spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": group + "/v1beta1", "kind": kind,
		"metadata": map[string]any{"name": "default", "namespace": s.namespace},
		"spec":     spec,
	}}
}

// pod returns a workload as Istio's template grpc-agent makes it, with the program in place of Istio's agent.
func (s *site) pod(name string, arguments []string, change func(*corev1.Container)) *corev1.Pod {
	const tokens, roots = "/var/run/secrets/tokens", "/var/run/secrets/istio" //nolint:gosec // directories
	labels := map[string]string{
		"app": name, "security.istio.io/tlsMode": "istio", "sidecar.istio.io/inject": "false",
		"service.istio.io/canonical-name": name, "service.istio.io/canonical-revision": "latest",
	}
	istiod := net.JoinHostPort(s.istiod.Service, strconv.Itoa(istio.SecurePort))
	field := func(name, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
	}
	meta := s.meta(name)
	meta.Labels, meta.Annotations = labels, map[string]string{"sidecar.istio.io/inject": "false"}
	arguments = append(arguments, "--istiod="+istiod, "--istiod-name="+s.istiod.Service, "--token-file="+tokens+"/istio-token", "--root-file="+roots+"/"+istio.RootCertFile)
	pod := pods.New(meta, s.image, arguments, s.lifetime)
	container := &pod.Spec.Containers[0]
	container.Name = name
	container.Env = []corev1.EnvVar{
		field("POD_IP", "status.podIP"),
		{Name: contract.BootstrapVariable, Value: contract.Bootstrap(istiod, contract.Node{
			Name: name, Namespace: s.namespace, IP: "$(POD_IP)", ServiceAccount: account,
			Cluster: s.istiod.ClusterID, Network: s.istiod.Network, Domain: s.istiod.Domain, Labels: labels,
		})},
	}
	container.VolumeMounts = []corev1.VolumeMount{{Name: "istio-token", MountPath: tokens, ReadOnly: true}, {Name: "istiod-ca-cert", MountPath: roots, ReadOnly: true}}
	change(container)
	pod.Spec.ServiceAccountName = account
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "istio-token", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{
			ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "istio-token", Audience: "istio-ca", ExpirationSeconds: new(int64(3600))},
		}}}}},
		{Name: "istiod-ca-cert", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: istio.RootConfigMap},
		}}},
	}
	return pod
}
