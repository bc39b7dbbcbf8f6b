// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"github.com/istiod-agent/istiod-agent/agent"
	certificatesv1 "github.com/istiod-agent/istiod-agent/api/certificates/v1"
	"github.com/istiod-agent/istiod-agent/cmd/istiod-agent/godebug"
	"github.com/istiod-agent/istiod-agent/internal/bounded"
	"github.com/istiod-agent/istiod-agent/internal/istio"
	"github.com/istiod-agent/istiod-agent/internal/version"
)

// options are all flags. Each can be given by an environment variable as well, which its help text names.
type options struct {
	spec                string
	cacertsDir          string
	allowDisk           bool
	tokens              agent.Tokens
	allowedServers      []string
	kubeconfig          string
	certificatesIn      string
	identity            agent.Identity
	workloadTTL         time.Duration
	vaultTimeout        time.Duration
	logFormat, logLevel string

	timeout time.Duration // of the init container

	port          int // of the sidecar
	istiodAddress string
	multiRoot     bool
}

func newCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "istiod-agent",
		Short: "Gives istiod an intermediate CA that comes from Vault and lives only in memory",
		Long: `Runs beside istiod: as an init container it gets istiod's first certificates, as a
sidecar it keeps them fresh. Both find the IssuedCertificate whose host is this
pod's service account, have Vault sign an intermediate CA as it says, verify it,
and publish it in the directory that istiod reads.

The four variables that the injected containers have (PILOT_CERT_PROVIDER,
POD_NAME, POD_NAMESPACE and SERVICE_ACCOUNT) are enough. Every flag can be set by
an environment variable, named in brackets; the flag counts when both are set.`,
		// The error is printed once, by run; the usage text would bury it in a pod's log.
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
		Short: "Get the first certificates before istiod starts, then exit",
		Long: `Exits 0 when istiod's four files are in place: obtained now, or valid still from
an earlier run in this pod. Tries again while Vault or the specification keeps it
from that, and exits 1 after --timeout with the reason, also in the termination
log, so that "kubectl describe pod" shows it and the kubelet starts it again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), cmd, o.obtain) },
	}
	o.common(cmd.Flags())
	cmd.Flags().DurationVar(&o.timeout, "timeout", 2*time.Minute, "`how long` to try before exiting with the reason")
	fromEnvironment(cmd.Flags())
	return cmd
}

func sidecar() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "sidecar",
		Short: "Keep the certificates fresh for as long as istiod runs",
		Long: `Goes on with what the init container published, or gets the first certificates
itself, and renews them in time: before they expire, when the specification
changes, when the annotation istiod-agent.io/renew has a new value, and when the
files are lost. A renewal counts as done when istiod was seen to sign under the
new CA. What istiod has is never touched but by a complete, verified set.

Serves /healthz, /readyz and /metrics on --port.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), cmd, o.keep) },
	}
	o.common(cmd.Flags())
	cmd.Flags().IntVar(&o.port, "port", healthPort, "`port` of /healthz, /readyz and /metrics, 0 for none")
	cmd.Flags().StringVar(&o.istiodAddress, "istiod-address", "127.0.0.1:15012", "`HOST:PORT` of istiod's TLS port, to see which CA it signs with")
	cmd.Flags().BoolVar(&o.multiRoot, "multi-root", false, "istiod runs with ISTIO_MULTIROOT_MESH=true, and so takes other roots of trust while it runs")
	fromEnvironment(cmd.Flags())
	return cmd
}

func (o *options) common(f *pflag.FlagSet) {
	f.StringVar(&o.spec, "spec", "", "`file` with the IssuedCertificate (default: watch those in the API server)")
	f.StringVar(&o.cacertsDir, "cacerts-dir", "/etc/cacerts", "`directory` that istiod reads its CA from; must be in memory")
	f.BoolVar(&o.allowDisk, "allow-disk", false, "accept a directory that is not in memory, to try things out: the CA key is then written to disk")
	f.StringVar(&o.tokens.File, "token-file", "", "`file` below /var/run/secrets with the service account token to log in to Vault with (default: as the IssuedCertificate says)")
	f.BoolVar(&o.tokens.FileAnywhere, "token-file-anywhere", false, "accept a --token-file that is not below /var/run/secrets, to run outside a cluster")
	f.StringSliceVar(&o.allowedServers, "allowed-servers", nil, "`servers` that an IssuedCertificate may name, as https://host[:port][/prefix] with commas between; the agent sends nothing to others (default: any)")
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig `file`, to run outside a cluster (default: the pod's own service account)")
	f.StringVar(&o.identity.Namespace, "namespace", "", "`namespace` of istiod")
	f.StringVar(&o.identity.Pod, "pod-name", "", "`name` of the pod, by which its status is told from others'")
	f.StringVar(&o.identity.ServiceAccount, "service-account", "", "`name` of istiod's service account")
	f.StringVar(&o.certificatesIn, "issued-certificate-namespace", "", "`namespace` of the IssuedCertificate (default: --namespace)")
	f.DurationVar(&o.workloadTTL, workloadTTLFlag, defaultWorkloadTTL, "`lifetime` of the certificates that istiod signs: the CA is renewed at least that long plus an hour before its end; without this flag, istiod's $DEFAULT_WORKLOAD_CERT_TTL is used")
	f.DurationVar(&o.vaultTimeout, "vault-timeout", 30*time.Second, "how `long` each call to Vault may take")
	f.StringVar(&o.logFormat, "log-format", "json", "`format` of the log: json or text")
	f.StringVar(&o.logLevel, "log-level", "info", "`level` of the log: info or debug")
}

// named are the variables that do not follow the rule: those of the guide's containers.
var named = map[string]string{
	"namespace":                    "POD_NAMESPACE",
	"pod-name":                     "POD_NAME",
	"service-account":              "SERVICE_ACCOUNT",
	"issued-certificate-namespace": "ISSUED_CERTIFICATE_NAMESPACE",
	"kubeconfig":                   "KUBECONFIG",
	"multi-root":                   istio.MultiRootVariable, // istiod's own
}

func variable(f *pflag.Flag) string {
	if name, ok := named[f.Name]; ok {
		return name
	}
	return "ISTIOD_AGENT_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
}

// fromEnvironment names each flag's variable in its help.
func fromEnvironment(flags *pflag.FlagSet) {
	flags.VisitAll(func(f *pflag.Flag) { f.Usage += " [$" + variable(f) + "]" })
}

// environment sets the flags that were not given from their variables.
func environment(flags *pflag.FlagSet) (err error) {
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
	workloadTTLFlag = "workload-ttl"
	// istiodsWorkloadTTL is istiod's own variable, and defaultWorkloadTTL its default (Istio pilot/pkg/bootstrap/istio_ca.go).
	istiodsWorkloadTTL = istio.WorkloadTTLVariable
	defaultWorkloadTTL = 24 * time.Hour
)

// asIstiod sets the workloads' TTL from istiod's own variable, where neither the flag nor its variable was given. As in istiod
// (Istio pkg/env/var.go), a value that is no duration leaves the default, with a warning.
func (o *options) asIstiod(flags *pflag.FlagSet) (warning string) {
	value := os.Getenv(istiodsWorkloadTTL)
	if value == "" || flags.Changed(workloadTTLFlag) {
		return ""
	}
	ttl, err := time.ParseDuration(value)
	if err != nil || ttl <= 0 {
		return fmt.Sprintf("environment variable %s: expected a positive duration such as 24h, got %q: the CA is renewed as for %s", istiodsWorkloadTTL, bounded.Text(value, maxValue), o.workloadTTL)
	}
	o.workloadTTL = ttl
	return ""
}

// maxValue is the most bytes of a wrong value that are printed.
const maxValue = 64

// check refuses what cannot work, all at once.
func (o *options) check() error {
	var wrong []string
	need := func(ok bool, format string, args ...any) {
		if !ok {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	if o.spec == "" {
		need(o.identity.Namespace != "", "--namespace (POD_NAMESPACE): expected istiod's namespace, to find its IssuedCertificate by")
		need(o.identity.ServiceAccount != "", "--service-account (SERVICE_ACCOUNT): expected istiod's service account, to find its IssuedCertificate by")
	}
	for _, server := range o.allowedServers {
		_, err := agent.NormalServer(server)
		need(err == nil, "--allowed-servers: expected https://<host>[:<port>][/<prefix>], got %q", server)
	}
	need(!strings.HasPrefix(filepath.Clean(o.cacertsDir)+"/", certificatesv1.TokenRoot+"/"), "--cacerts-dir: expected a directory outside of %s, where tokens are read from, got %s", certificatesv1.TokenRoot, o.cacertsDir)
	need(o.vaultTimeout > 0, "--vault-timeout: expected a positive duration, got %s", o.vaultTimeout)
	need(o.timeout >= 0, "--timeout: expected a positive duration, got %s", o.timeout)
	need(o.workloadTTL >= 0, "--workload-ttl: expected a positive duration, got %s", o.workloadTTL)
	need(o.port >= 0 && o.port <= 65535, "--port: expected 1 to 65535, or 0 for none, got %d", o.port)
	if len(wrong) > 0 {
		return fmt.Errorf("%s", strings.Join(wrong, "; "))
	}
	return nil
}

func (o *options) run(ctx context.Context, cmd *cobra.Command, what func(context.Context, logr.Logger) error) error {
	if err := environment(cmd.Flags()); err != nil {
		return err
	}
	warning := o.asIstiod(cmd.Flags())
	if err := o.check(); err != nil {
		return err
	}
	log, err := o.logger(cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	if warning != "" {
		log.Info(warning)
	}
	if names := godebug.Removed; len(names) > 0 {
		log.Info("Ignoring settings in GODEBUG that could print secrets or weaken TLS", "settings", names)
	}
	return what(ctx, log)
}

func (o *options) logger(to io.Writer) (logr.Logger, error) {
	options := &slog.HandlerOptions{ReplaceAttr: bounded.Attr}
	switch o.logLevel {
	case "info":
	case "debug":
		options.Level = slog.LevelDebug
	default:
		return logr.Discard(), fmt.Errorf("--log-level: expected info or debug, got %q", o.logLevel)
	}
	var handler slog.Handler
	switch o.logFormat {
	case "json":
		handler = slog.NewJSONHandler(to, options)
	case "text":
		handler = slog.NewTextHandler(to, options)
	default:
		return logr.Discard(), fmt.Errorf("--log-format: expected json or text, got %q", o.logFormat)
	}
	slog.SetDefault(slog.New(handler)) // what net/http logs by itself goes the same way
	klog.SetLogger(logr.Discard())     // client-go repeats each failure that is told once and in better words
	return logr.FromSlogHandler(handler), nil
}
