// In place of the module with which `vault agent` logs in from Google's cloud: its client of the whole compute API takes a
// minute to compile.
module github.com/hashicorp/go-gcp-common

go 1.26.0

require golang.org/x/oauth2 v0.37.0
