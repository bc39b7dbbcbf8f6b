// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"github.com/istiod-agent/istiod-agent/agent"
	"github.com/istiod-agent/istiod-agent/agent/ca/vault"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/cmd/istiod-agent/godebug"
	"github.com/istiod-agent/istiod-agent/internal/bounded"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/internal/version"
)

// options are all flags. Each has an environment variable as well, which its help text names.
type options struct {
	spec                string
	cacertsDir          string
	allowDisk           bool
	tokens              vault.Tokens
	allowedServers      []string
	kubeconfig          string
	certificatesIn      string
	identity            agent.Identity
	workloadTTL         time.Duration
	vaultTimeout        time.Duration
	logFormat, logLevel string

	timeout time.Duration // of the init container

	port             int // of the sidecar
	istiodAddress    string
	istiodMonitoring string
	multiRoot        bool
}

func newCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "istiod-agent",
		Short: "Provides istiod with an intermediate CA from Vault or cert-manager, in memory only",
		Long: `Runs beside istiod: as an init container it obtains istiod's first certificates, as
a sidecar it renews them. Both find the IssuedCertificate whose host is this Pod's
service account, request an intermediate CA from its issuer, verify it, and
publish it in the directory that istiod reads.

The variables of the injected containers (POD_NAME, POD_NAMESPACE and
SERVICE_ACCOUNT) are sufficient. Every flag has an environment variable, named in
brackets; the flag takes precedence.`,
		// run prints the error once; the usage text would hide it in a pod's log.
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.AddCommand(initContainer(), sidecar(), version.Command())
	return cmd
}

func initContainer() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "init-container",
		Short: "Obtain the first certificates before istiod starts, then exit",
		Long: `Exits 0 when istiod's four files are in place: obtained now, or still valid from an
earlier run in this Pod. Retries failures, and exits 1 after --timeout with the
reason, also in the termination log, so that "kubectl describe pod" shows it and
the kubelet restarts the container.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), cmd, o.obtain) },
	}
	o.common(cmd.Flags())
	cmd.Flags().DurationVar(&o.timeout, "timeout", 2*time.Minute, "`duration` of the attempts before it exits with the reason")
	documentVariables(cmd.Flags())
	return cmd
}

func sidecar() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "sidecar",
		Short: "Renew the certificates while istiod runs",
		Long: `Continues with the files of the init container, or obtains the first certificates
itself, and renews them before they expire, when the specification changes, when
the annotation istiod-agent.io/renew has a new value, and when the files are lost.
A renewal is complete when istiod serves a certificate of the new CA. Only a
complete, verified set ever replaces istiod's files.

Serves /healthz, /readyz and /metrics on --port.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), cmd, o.keep) },
	}
	o.common(cmd.Flags())
	cmd.Flags().IntVar(&o.port, "port", healthPort, "`port` of /healthz, /readyz and /metrics, 0 for none")
	cmd.Flags().StringVar(&o.istiodAddress, "istiod-address", "127.0.0.1:15012", "`HOST:PORT` of istiod's TLS port, to check which CA it uses")
	cmd.Flags().StringVar(&o.istiodMonitoring, "istiod-monitoring", "127.0.0.1:15014", "`HOST:PORT` of istiod's monitoring port, to read the remote clusters that it reports")
	cmd.Flags().BoolVar(&o.multiRoot, "multi-root", false, "istiod runs with ISTIO_MULTIROOT_MESH=true, so that it accepts other roots of trust while it runs")
	documentVariables(cmd.Flags())
	return cmd
}

func (o *options) common(f *pflag.FlagSet) {
	f.StringVar(&o.spec, "spec", "", "`file` with the IssuedCertificate (default: watch those in the API server)")
	f.StringVar(&o.cacertsDir, "cacerts-dir", "/etc/cacerts", "`directory` that istiod reads its CA from; must be in memory")
	f.BoolVar(&o.allowDisk, "allow-disk", false, "accept a directory that is not in memory, for trials: the CA key is then written to disk")
	f.StringVar(&o.tokens.File, "token-file", "", "`file` below /var/run/secrets with the service account token for the login to Vault (default: as the IssuedCertificate specifies)")
	f.BoolVar(&o.tokens.FileAnywhere, "token-file-anywhere", false, "accept a --token-file that is not below /var/run/secrets, to run outside a cluster")
	f.StringSliceVar(&o.allowedServers, "allowed-servers", nil, "comma-separated `servers` that an IssuedCertificate may name, as https://host[:port][/prefix]; the agent sends nothing to others (default: any)")
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig `file`, to run outside a cluster (default: the Pod's own service account)")
	f.StringVar(&o.identity.Namespace, "namespace", "", "`namespace` of istiod")
	f.StringVar(&o.identity.Pod, "pod-name", "", "`name` of the Pod, for its entry in the status")
	f.StringVar(&o.identity.ServiceAccount, "service-account", "", "`name` of istiod's service account")
	f.StringVar(&o.certificatesIn, "issued-certificate-namespace", "", "`namespace` of the IssuedCertificate (default: --namespace)")
	f.DurationVar(&o.workloadTTL, workloadTTLFlag, defaultWorkloadTTL, "`lifetime` of the certificates that istiod signs: the CA is renewed at least that long plus an hour before its end; without this flag, istiod's $DEFAULT_WORKLOAD_CERT_TTL applies")
	f.DurationVar(&o.vaultTimeout, "vault-timeout", 30*time.Second, "`timeout` of each call to Vault")
	f.StringVar(&o.logFormat, "log-format", "json", "`format` of the log: json or text")
	f.StringVar(&o.logLevel, "log-level", "info", "`level` of the log: info or debug")
}

// variables are those that do not follow the rule: the ones of the injected containers.
var variables = map[string]string{
	"namespace":                    "POD_NAMESPACE",
	"pod-name":                     "POD_NAME",
	"service-account":              "SERVICE_ACCOUNT",
	"issued-certificate-namespace": "ISSUED_CERTIFICATE_NAMESPACE",
	"kubeconfig":                   "KUBECONFIG",
	"multi-root":                   istio.MultiRootVariable, // istiod's own
}

func variable(f *pflag.Flag) string {
	if name, ok := variables[f.Name]; ok {
		return name
	}
	return "ISTIOD_AGENT_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
}

// documentVariables adds each flag's variable to its help.
func documentVariables(flags *pflag.FlagSet) {
	flags.VisitAll(func(f *pflag.Flag) { f.Usage += " [$" + variable(f) + "]" })
}

// setFromEnvironment sets the flags that are not on the command line from their variables.
func setFromEnvironment(flags *pflag.FlagSet) (err error) {
	flags.VisitAll(func(f *pflag.Flag) {
		value, ok := os.LookupEnv(variable(f))
		if f.Name == "help" || f.Changed || !ok || value == "" || err != nil {
			return
		}
		if setErr := flags.Set(f.Name, value); setErr != nil {
			err = fmt.Errorf("environment variable %s: %w", variable(f), setErr)
		}
	})
	return err
}

const (
	workloadTTLFlag    = "workload-ttl"
	defaultWorkloadTTL = 24 * time.Hour // istiod's (Istio pilot/pkg/bootstrap/istio_ca.go)
)

// setWorkloadTTL uses istiod's own variable, where neither the flag nor its variable is set. As in istiod (Istio
// pkg/env/var.go), a value that is no duration leaves the default, with a warning.
func (o *options) setWorkloadTTL(flags *pflag.FlagSet) (warning string) {
	value := os.Getenv(istio.WorkloadTTLVariable)
	if value == "" || flags.Changed(workloadTTLFlag) {
		return ""
	}
	ttl, err := time.ParseDuration(value)
	if err != nil || ttl <= 0 {
		return fmt.Sprintf("environment variable %s: expected a positive duration such as 24h, got %q: the CA is renewed as for %s", istio.WorkloadTTLVariable, bounded.Text(value, maxValue), o.workloadTTL)
	}
	o.workloadTTL = ttl
	return ""
}

// maxValue bounds the bytes of an invalid value in a message.
const maxValue = 64

// validate returns all mistakes at once.
func (o *options) validate() error {
	var wrong []string
	require := func(ok bool, format string, args ...any) {
		if !ok {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	if o.spec == "" {
		require(o.identity.Namespace != "", "--namespace (POD_NAMESPACE): expected istiod's namespace, to find its IssuedCertificate")
		require(o.identity.ServiceAccount != "", "--service-account (SERVICE_ACCOUNT): expected istiod's service account, to find its IssuedCertificate")
	}
	for _, server := range o.allowedServers {
		_, err := vault.NormalServer(server)
		require(err == nil, "--allowed-servers: expected https://<host>[:<port>][/<prefix>], got %q", server)
	}
	require(!strings.HasPrefix(filepath.Clean(o.cacertsDir)+"/", certificatesv1.TokenRoot+"/"), "--cacerts-dir: expected a directory outside of %s, where tokens are read from, got %s", certificatesv1.TokenRoot, o.cacertsDir)
	require(o.vaultTimeout > 0, "--vault-timeout: expected a positive duration, got %s", o.vaultTimeout)
	require(o.timeout >= 0, "--timeout: expected a positive duration, got %s", o.timeout)
	require(o.workloadTTL >= 0, "--workload-ttl: expected a positive duration, got %s", o.workloadTTL)
	require(o.port >= 0 && o.port <= 65535, "--port: expected 1 to 65535, or 0 for none, got %d", o.port)
	if len(wrong) > 0 {
		return fmt.Errorf("%s", strings.Join(wrong, "; "))
	}
	return nil
}

func (o *options) run(ctx context.Context, cmd *cobra.Command, command func(context.Context, logr.Logger) error) error {
	if err := setFromEnvironment(cmd.Flags()); err != nil {
		return err
	}
	warning := o.setWorkloadTTL(cmd.Flags())
	if err := o.validate(); err != nil {
		return err
	}
	log, err := bounded.NewLogger(cmd.ErrOrStderr(), o.logLevel, o.logFormat)
	if err != nil {
		return err
	}
	klog.SetLogger(logr.Discard()) // client-go repeats each failure that the agent logs once
	if warning != "" {
		log.Info(warning)
	}
	if names := godebug.Removed; len(names) > 0 {
		log.Info("Ignored settings in GODEBUG that could print secrets or weaken TLS", "settings", names)
	}
	return command(ctx, log)
}
