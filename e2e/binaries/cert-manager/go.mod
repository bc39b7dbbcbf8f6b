// The cert-manager that gives the webhook its serving certificate in some tests, built from source.
module github.com/istiod-agent/istiod-agent/e2e/binaries/cert-manager

go 1.26.0

tool (
	github.com/cert-manager/cert-manager/cmd/cainjector
	github.com/cert-manager/cert-manager/cmd/controller
)
