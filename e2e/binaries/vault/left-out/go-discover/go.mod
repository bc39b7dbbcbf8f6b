// In place of the module that finds a cluster's other servers through the clouds' APIs: Vault links it, the tests run one
// server, and the clouds' clients would be half of what must be compiled.
module github.com/hashicorp/go-discover

go 1.26.0
